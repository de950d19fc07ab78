package blockdev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Snapshot takes a snapshot of each LUN of a group, all in one point of time:
// every write acknowledged before it is in, none submitted after it returned
// is. It is all or nothing, also across a crash. When it returns the snapshots
// are durable. The LUNs' I/O waits only while their heads are swapped.
func (p *Pool) Snapshot(ctx context.Context, req SnapshotRequest) ([]SnapshotInfo, error) {
	if err := p.begin(ctx); err != nil {
		return nil, err
	}
	defer p.opMu.Unlock()
	records, luns, err := p.planSnapshots(req)
	if err != nil {
		return nil, err
	}
	if err := p.admit(); err != nil {
		return nil, err
	}
	heads, err := p.prepareHeads(luns)
	if err != nil {
		return nil, err
	}
	old := p.swapHeads(luns, heads)
	var changes []change
	for i, l := range luns {
		if err := l.flushOld(); err != nil {
			return nil, err
		}
		records[i].Layer = old[i].layer
		changes = append(changes, putSnapshot(records[i]))
	}
	next := p.cat.pool
	next.NextSnapshot += uint64(len(records))
	if err := p.cat.commit(append(changes, putPool(next))...); err != nil {
		return nil, err
	}
	p.maintenance.wake()
	out := make([]SnapshotInfo, len(records))
	for i := range records {
		if out[i], err = p.newSnapshotInfo(&records[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// planSnapshots checks a request and makes the records for it, without their
// layers. opMu is held.
func (p *Pool) planSnapshots(req SnapshotRequest) ([]snapshotRecord, []*lun, error) {
	if len(req.Items) == 0 {
		return nil, nil, errorf(ErrInvalid, "snapshot", "no LUN is named")
	}
	level := req.Consistency
	switch level {
	case "":
		level = Crash
	case Crash, Filesystem, Application:
	default:
		return nil, nil, errorf(ErrInvalid, "snapshot", "consistency %q is not known", level)
	}
	if len(req.Evidence) > 0 && !json.Valid(req.Evidence) {
		return nil, nil, errorf(ErrInvalid, "snapshot", "the evidence is not JSON")
	}
	now := p.now().UTC()
	group := ""
	if len(req.Items) > 1 {
		group = uuid.NewString()
	}
	var records []snapshotRecord
	var luns []*lun
	for i, item := range req.Items {
		r, err := p.cat.findLUN(item.LUN)
		if err != nil {
			return nil, nil, err
		}
		name, err := p.newSnapshotName(r, item.Name, now.Format("20060102T150405Z"))
		if err != nil {
			return nil, nil, err
		}
		l := p.lunByID(r.ID)
		if slices.Contains(luns, l) {
			return nil, nil, errorf(ErrInvalid, lunObject(r.Name), "named twice")
		}
		if err := l.usable(); err != nil {
			return nil, nil, err
		}
		luns = append(luns, l)
		records = append(records, snapshotRecord{
			ID: p.cat.pool.NextSnapshot + uint64(i), LUN: r.ID, Name: name, SizeBytes: r.SizeBytes, Created: now, Group: group,
			CreatedBy: req.CreatedBy, Comment: req.Comment, Consistency: level, Evidence: req.Evidence,
		})
	}
	return records, luns, nil
}

// newSnapshotName checks the name for a new snapshot; where none is given it
// makes one from base.
func (p *Pool) newSnapshotName(r *lunRecord, name, base string) (string, error) {
	if name != "" {
		if err := ValidName(name); err != nil {
			return "", err
		}
		if p.cat.snapshotByName(r.ID, name) != nil {
			return "", &Error{Object: snapshotObject(r.Name, name), Class: ErrExists}
		}
		return name, nil
	}
	name = base
	for n := 2; p.cat.snapshotByName(r.ID, name) != nil; n++ {
		name = fmt.Sprintf("%s-%d", base, n)
	}
	return name, nil
}

// prepareHeads makes a new head for each LUN and commits to the catalogue that
// the new heads stand on the present ones. Nothing is written to them yet: a
// crash from here on leaves an empty head over a layer without a name.
func (p *Pool) prepareHeads(luns []*lun) ([]*head, error) {
	next := p.cat.pool
	var changes []change
	var heads []*head
	for _, l := range luns {
		r := *p.cat.lun(l.id)
		layer := layerRecord{ID: next.NextLayer, Parent: r.Head, Blocks: uint64(r.SizeBytes / BlockSize), Origins: []uint32{next.NextLayer}}
		r.Head = layer.ID
		next.NextLayer++
		j, err := p.prepareLayer(layer.ID)
		if err != nil {
			p.abandon(heads)
			return nil, p.prepareError(lunObject(r.Name), err)
		}
		heads = append(heads, newHead(layer.ID, j, layer.Origins))
		changes = append(changes, putLayer(layer), putLUN(r))
	}
	err := p.syncLayerNames()
	if err == nil {
		err = p.cat.commit(append(changes, putPool(next))...)
	}
	if err != nil {
		p.abandon(heads)
		return nil, p.prepareError("freeze", err)
	}
	return heads, nil
}

func (p *Pool) prepareError(object string, err error) error {
	if isNoSpace(err) {
		return &Error{Object: object, Class: ErrNoSpace, Cause: err}
	}
	return &Error{Object: object, Class: ErrFailed, Cause: err}
}

// prepareLayer makes the files of a new layer. Their directories are durable
// after syncLayerNames.
func (p *Pool) prepareLayer(id uint32) (*journal, error) {
	if id > maxOrigin {
		return nil, errorf(ErrInvalid, "layer", "all %d ids are used up", maxOrigin)
	}
	j, err := p.makeLayer(id)
	if err != nil {
		p.removeLayerFiles(id)
	}
	return j, err
}

func (p *Pool) makeLayer(id uint32) (*journal, error) {
	for _, dir := range []string{layerDir(id), originDir(id)} {
		if err := p.fs.Mkdir(dir); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	j, err := createJournal(p.fs, id, p.bootID, 1, 1, p.firstJournal())
	if err != nil {
		return nil, err
	}
	if err := p.fs.SyncDir(layerDir(id)); err != nil {
		return nil, errors.Join(err, j.close())
	}
	return j, nil
}

func (p *Pool) syncLayerNames() error {
	return errors.Join(p.fs.SyncDir("layers"), p.fs.SyncDir("segments"))
}

// abandon drops heads that were prepared and not committed. What it cannot
// remove, the next opening of the pool does.
func (p *Pool) abandon(heads []*head) {
	if p.cat.broken() {
		return // the commit may be on disk
	}
	for _, h := range heads {
		h.journal.close()
		p.removeLayerFiles(h.layer)
	}
}

// removeLayerFiles drops what was made for a layer.
func (p *Pool) removeLayerFiles(id uint32) {
	if err := errors.Join(removeDir(p.fs, layerDir(id)), removeDir(p.fs, originDir(id))); err != nil {
		p.log.Warn("prepared layer not removed", "layer", id, "error", err)
	}
}

// swapHeads is the point in time: it waits out the writes under way in all
// LUNs, swaps their heads and lets them go on. It returns the old heads.
func (p *Pool) swapHeads(luns []*lun, heads []*head) []*head {
	order := slices.Clone(luns)
	sortLUNs(order)
	start := time.Now()
	for _, l := range order {
		l.gate.Lock()
	}
	old := make([]*head, len(luns))
	for i, l := range luns {
		old[i] = l.head
		l.old = append(l.old, l.head)
		l.head = heads[i]
		heads[i].below = l.m.Load().clone()
		p.pins.put(old[i].layer, heads[i].below.clone()) // below never changes, this may
	}
	for _, l := range order {
		l.gate.Unlock()
	}
	if p.observer != nil {
		p.observer.Frozen(len(luns), time.Since(start))
	}
	return old
}
