package blockdev

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"syscall"
	"time"
)

// snapshotRecords returns the snapshots of a LUN, oldest first; of all LUNs
// for 0.
func (p *Pool) snapshotRecords(lun uint64) []*snapshotRecord {
	p.cat.mu.RLock()
	defer p.cat.mu.RUnlock()
	var out []*snapshotRecord
	for _, s := range p.cat.snapshots {
		if lun == 0 || s.LUN == lun {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b *snapshotRecord) int {
		return cmp.Or(cmp.Compare(a.LUN, b.LUN), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// recordsOf returns the snapshots of a LUN, oldest first; of all LUNs for "".
func (p *Pool) recordsOf(lun string) ([]*snapshotRecord, error) {
	if lun == "" {
		return p.snapshotRecords(0), nil
	}
	r, err := p.cat.findLUN(lun)
	if err != nil {
		return nil, err
	}
	return p.snapshotRecords(r.ID), nil
}

// SnapshotNames lists the snapshots of a LUN, oldest first; of all LUNs for "".
func (p *Pool) SnapshotNames(lun string) ([]SnapshotName, error) {
	records, err := p.recordsOf(lun)
	if err != nil {
		return nil, err
	}
	out := make([]SnapshotName, 0, len(records))
	for _, r := range records {
		if l := p.cat.lun(r.LUN); l != nil { // else both were deleted meanwhile
			out = append(out, SnapshotName{ID: r.ID, LUN: l.Name, Name: r.Name, Created: r.Created, Consistency: r.Consistency})
		}
	}
	return out, nil
}

// Snapshots describes the snapshots of a LUN, oldest first; of all LUNs, by
// name, for "".
func (p *Pool) Snapshots(lun string) ([]SnapshotInfo, error) {
	records, err := p.recordsOf(lun)
	if err != nil {
		return nil, err
	}
	out := make([]SnapshotInfo, 0, len(records))
	for _, r := range records {
		info, err := p.snapshotInfo(r)
		if errors.Is(err, ErrNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		out = append(out, info)
	}
	slices.SortStableFunc(out, func(a, b SnapshotInfo) int { return cmp.Compare(a.LUN, b.LUN) })
	return out, nil
}

// SnapshotInfo describes one snapshot.
func (p *Pool) SnapshotInfo(lun, name string) (SnapshotInfo, error) {
	_, s, err := p.cat.find(lun, name)
	if err != nil {
		return SnapshotInfo{}, err
	}
	return p.snapshotInfo(s)
}

// snapshotInfo describes a snapshot; ErrNotFound if it was deleted meanwhile.
func (p *Pool) snapshotInfo(r *snapshotRecord) (SnapshotInfo, error) {
	info, err := p.look(r)
	if (err != nil || info.Failed != "") && p.cat.snapshot(r.ID) == nil {
		return SnapshotInfo{}, &Error{Object: "snapshot " + r.Name, Class: ErrNotFound, Detail: "it was deleted meanwhile"}
	}
	return info, err
}

func (p *Pool) look(r *snapshotRecord) (SnapshotInfo, error) {
	m, err := p.viewMap(r.Layer)
	if err != nil {
		info, gone := p.describe(r, newExtentMap(), 0)
		info.Failed = err.Error()
		return info, gone
	}
	unique, err := p.uniqueBlocks(r.Layer, m)
	if err != nil && !isDamage(err) && !errors.Is(err, syscall.EIO) { // what stands on it may be damaged
		return SnapshotInfo{}, err
	}
	return p.describe(r, m, unique)
}

// newSnapshotInfo describes a snapshot that was just taken, without a look at
// its blocks: it shares all of them with the LUN.
func (p *Pool) newSnapshotInfo(r *snapshotRecord) (SnapshotInfo, error) {
	m, err := p.viewMap(r.Layer)
	if err != nil {
		return SnapshotInfo{}, err
	}
	return p.describe(r, m, 0)
}

func (p *Pool) describe(r *snapshotRecord, m *extentMap, unique uint64) (SnapshotInfo, error) {
	lun := p.cat.lun(r.LUN)
	if lun == nil {
		return SnapshotInfo{}, errorf(ErrStale, "snapshot "+r.Name, "its LUN was deleted")
	}
	locked := r.lockedAt(p.now())
	info := SnapshotInfo{
		ID: r.ID, LUN: lun.Name, Name: r.Name, Created: r.Created, SizeBytes: r.SizeBytes, Group: r.Group,
		CreatedBy: r.CreatedBy, Comment: r.Comment, Consistency: r.Consistency, Evidence: r.Evidence,
		Locked: locked, Clients: p.snapshotHandles(r.ID).count(),
		MappedBytes: int64(m.dataBlocks()) * BlockSize,
		UniqueBytes: int64(unique) * BlockSize,
	}
	if locked {
		info.LockedUntil = r.LockedUntil
	}
	return info, nil
}

// uniqueBlocks counts the data blocks that would be given back if nothing
// named a layer: those that it holds and all its children hide.
func (p *Pool) uniqueBlocks(layer uint32, m *extentMap) (uint64, error) {
	r := p.cat.layer(layer)
	open := p.openLayers()
	children := slices.DeleteFunc(p.cat.children(layer), func(c *layerRecord) bool {
		return !c.Sealed && !open[c.ID] // the head of a LUN that was deleted
	})
	if r == nil {
		return 0, nil
	}
	held := func(at place) bool { return at.isData() && slices.Contains(r.Origins, at.origin()) }
	if len(children) == 0 {
		return m.countBlocks(held)
	}
	above := make([]*extentMap, len(children))
	for i, c := range children {
		var err error
		if above[i], err = p.mapAbove(c.ID); err != nil {
			return 0, err
		}
	}
	return countHidden(m, above, held)
}

// mapAbove returns the map of a layer, open or sealed.
func (p *Pool) mapAbove(layer uint32) (*extentMap, error) {
	if l := p.lunOfHead(layer); l != nil {
		if l.broken {
			return nil, l.failed.Load()
		}
		return l.m.Load(), nil
	}
	return p.viewMap(layer)
}

// countHidden counts the blocks of lower for which held holds and that all of
// upper, at least one, map elsewhere.
func countHidden(lower *extentMap, upper []*extentMap, held func(place) bool) (total uint64, err error) {
	var count func(upper []*extentMap, block, end uint64) error
	count = func(upper []*extentMap, block, end uint64) error {
		return eachDifference(lower, upper[0], func(block, n uint64, at, _ place) error {
			if !held(at) {
				return nil
			}
			if len(upper) > 1 {
				return count(upper[1:], block, block+n)
			}
			total += n
			return nil
		}, block, end)
	}
	err = count(upper, 0, lower.end())
	return total, err
}

// lockedAt tells whether the snapshot is locked at a time.
func (r *snapshotRecord) lockedAt(t time.Time) bool {
	return r.Locked && (r.LockedUntil == nil || t.Before(*r.LockedUntil))
}

// RenameSnapshot gives a snapshot another name.
func (p *Pool) RenameSnapshot(ctx context.Context, lun, name, newName string) (SnapshotInfo, error) {
	return p.changeSnapshot(ctx, lun, name, func(l *lunRecord, s *snapshotRecord) error {
		if err := ValidName(newName); err != nil {
			return err
		}
		if name != newName && p.cat.snapshotByName(l.ID, newName) != nil {
			return &Error{Object: snapshotObject(lun, newName), Class: ErrExists}
		}
		s.Name = newName
		return nil
	})
}

// LockSnapshot keeps a snapshot from being deleted until a time, nil for until
// it is unlocked.
func (p *Pool) LockSnapshot(ctx context.Context, lun, name string, until *time.Time) (SnapshotInfo, error) {
	return p.changeSnapshot(ctx, lun, name, func(_ *lunRecord, s *snapshotRecord) error {
		if until != nil && !until.After(p.now()) {
			return errorf(ErrInvalid, snapshotObject(lun, name), "the lock would end in the past, %s", until.Format(time.RFC3339))
		}
		s.Locked, s.LockedUntil = true, until
		return nil
	})
}

// UnlockSnapshot ends a lock.
func (p *Pool) UnlockSnapshot(ctx context.Context, lun, name string) (SnapshotInfo, error) {
	return p.changeSnapshot(ctx, lun, name, func(_ *lunRecord, s *snapshotRecord) error {
		s.Locked, s.LockedUntil = false, nil
		return nil
	})
}

// changeSnapshot commits what edit does to a copy of a snapshot's record.
func (p *Pool) changeSnapshot(ctx context.Context, lun, name string, edit func(*lunRecord, *snapshotRecord) error) (SnapshotInfo, error) {
	if err := p.begin(ctx); err != nil {
		return SnapshotInfo{}, err
	}
	defer p.opMu.Unlock()
	l, s, err := p.cat.find(lun, name)
	if err != nil {
		return SnapshotInfo{}, err
	}
	changed := *s
	if err := edit(l, &changed); err != nil {
		return SnapshotInfo{}, err
	}
	if err := p.cat.commit(putSnapshot(changed)); err != nil {
		return SnapshotInfo{}, err
	}
	return p.snapshotInfo(&changed)
}

// deletable returns why a snapshot may not be deleted, nil if it may.
func (p *Pool) deletable(l *lunRecord, s *snapshotRecord, force bool) error {
	object := snapshotObject(l.Name, s.Name)
	if s.lockedAt(p.now()) {
		if s.LockedUntil != nil {
			return errorf(ErrLocked, object, "until %s: unlock it first", s.LockedUntil.Format(time.RFC3339))
		}
		return errorf(ErrLocked, object, "unlock it first")
	}
	if h := p.snapshotHandles(s.ID); h.count() > 0 && !force {
		return errorf(ErrInUse, object, "%d clients are reading it (%s)", h.count(), h.names())
	}
	return nil
}

// DeleteSnapshot deletes a snapshot. Its space is given back after it returns,
// by maintenance. ErrLocked if it is locked, ErrInUse if clients read it,
// unless forced: then they get ErrStale.
func (p *Pool) DeleteSnapshot(ctx context.Context, lun, name string, force bool) error {
	if err := p.begin(ctx); err != nil {
		return err
	}
	defer p.opMu.Unlock()
	l, s, err := p.cat.find(lun, name)
	if err != nil {
		return err
	}
	if err := p.deletable(l, s, force); err != nil {
		return err
	}
	if err := p.cat.commit(deleteSnapshot(s.ID)); err != nil {
		return err
	}
	p.forgetSnapshot(s.ID)
	p.maintenance.wake()
	return nil
}

// Clone makes a writable LUN with the content of a snapshot. Both share their
// data; the snapshot may be deleted afterwards.
func (p *Pool) Clone(ctx context.Context, lun, name, newLUN string) (LUNInfo, error) {
	if err := p.begin(ctx); err != nil {
		return LUNInfo{}, err
	}
	defer p.opMu.Unlock()
	_, s, err := p.cat.find(lun, name)
	if err != nil {
		return LUNInfo{}, err
	}
	below, err := p.viewMap(s.Layer)
	if err != nil {
		return LUNInfo{}, err
	}
	r := lunRecord{Name: newLUN, SizeBytes: s.SizeBytes, Origin: lun + "@" + name}
	return p.createLUN(r, s.Layer, below.clone())
}

// Revert gives a LUN the content and the size of one of its snapshots, after
// it took a snapshot of the present state, which it returns. Later snapshots
// stay. ErrInUse if clients are connected, unless forced.
func (p *Pool) Revert(ctx context.Context, lun, name string, o RevertOptions) (SnapshotInfo, error) {
	if err := p.begin(ctx); err != nil {
		return SnapshotInfo{}, err
	}
	defer p.opMu.Unlock()
	r, s, err := p.cat.find(lun, name)
	if err != nil {
		return SnapshotInfo{}, err
	}
	l := p.lunByID(r.ID)
	if err := l.usable(); err != nil {
		return SnapshotInfo{}, err
	}
	if n := l.handles.count(); n > 0 && !o.Force {
		return SnapshotInfo{}, errorf(ErrInUse, lunObject(lun), "%d clients are connected (%s): disconnect them, or force", n, l.handles.names())
	}
	now := p.now().UTC()
	saved := snapshotRecord{
		ID: p.cat.pool.NextSnapshot, LUN: r.ID, SizeBytes: r.SizeBytes, Created: now, CreatedBy: o.CreatedBy,
		Comment: "before the revert to " + name, Consistency: Crash, Layer: r.Head,
	}
	if saved.Name, err = p.newSnapshotName(r, o.SavedName, "before-revert-"+now.Format("20060102T150405Z")); err != nil {
		return SnapshotInfo{}, err
	}
	below, err := p.viewMap(s.Layer)
	if err != nil {
		return SnapshotInfo{}, err
	}
	if err := p.admit(); err != nil {
		return SnapshotInfo{}, err
	}
	if err := p.branch(l, r, s, below, saved); err != nil {
		return SnapshotInfo{}, err
	}
	p.maintenance.wake()
	return p.snapshotInfo(&saved)
}

// branch swaps the LUN's head for a new one on the layer of snapshot s. The
// LUN's I/O waits until all is durable, so that no write falls between the
// present state, which it names saved, and the reverted one.
func (p *Pool) branch(l *lun, r *lunRecord, s *snapshotRecord, below *extentMap, saved snapshotRecord) error {
	l.gate.Lock()
	defer l.gate.Unlock()
	old := l.head
	for _, h := range append(slices.Clone(l.old), old) {
		if err := l.flushGated(h); err != nil {
			return err
		}
	}
	next := p.cat.pool
	layer := layerRecord{ID: next.NextLayer, Parent: s.Layer, Blocks: uint64(s.SizeBytes / BlockSize), Origins: []uint32{next.NextLayer}}
	next.NextLayer++
	next.NextSnapshot++
	reverted := *r
	reverted.Head, reverted.SizeBytes = layer.ID, s.SizeBytes
	h, err := p.commitHead(layer, putLUN(reverted), putSnapshot(saved), putPool(next))
	if err != nil {
		return err
	}
	old.setDurable()
	p.pins.put(old.layer, l.m.Load())
	l.old = append(l.old, old)
	h.below = below.clone()
	l.head = h
	l.m.Store(h.below.clone())
	l.size.Store(s.SizeBytes)
	return nil
}

// flushGated is flushHead for a caller that holds the gate.
func (l *lun) flushGated(h *head) error {
	for {
		if err := l.flushOnce(h); err != errJournalFull {
			return err
		}
		if err := l.extendJournal(h); err != nil {
			return l.unlessDurable(h, l.metadataError, err)
		}
	}
}
