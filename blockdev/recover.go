package blockdev

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// recover brings a pool that was just opened to a consistent state: it drops
// what unfinished operations left, replays the journals and seals the layers
// that were frozen and not sealed. What it changes in the catalogue it commits
// at the end, all at once: done again after a crash before that, each step comes
// to the same.
func (p *Pool) recover() error {
	p.opening = true
	defer func() { p.opening = false }()
	if err := p.checkKnown(); err != nil {
		return err
	}
	if err := p.dropLeftovers(); err != nil {
		return err
	}
	heads := make(map[uint32]*lunRecord)
	for _, r := range p.cat.luns {
		heads[r.Head] = r
	}
	var changes []change
	var sealed []uint32
	suspect, reached := p.layersOfFailed(), p.reachedLayers()
	for _, id := range slices.Sorted(maps.Keys(p.cat.layers)) {
		if r := p.cat.layers[id]; !r.Sealed && heads[id] == nil && reached[id] {
			more, err := p.recoverFrozen(r, suspect[id])
			if err != nil && !isDamage(err) && p.recordFailureAbove(id, err) {
				suspect = p.layersOfFailed()
				more, err = p.recoverFrozen(r, true)
			}
			if isDamage(err) {
				p.breakLayer(id, err)
				continue
			}
			if err != nil {
				return err
			}
			changes, sealed = append(changes, more...), append(sealed, id)
		}
	}
	more, err := p.recoverLUNs()
	if err != nil {
		return err
	}
	changes = append(changes, more...)
	if len(changes) > 0 {
		if err := p.cat.commit(changes...); err != nil {
			return err
		}
	}
	for _, id := range sealed {
		if err := p.removeJournals(id, ^uint64(0)); err != nil {
			return err
		}
	}
	return nil
}

// recoverWorkers is how many LUNs are opened at a time: most of it is waiting
// for syncs, and the filesystem does many in one go.
const recoverWorkers = 64

// recoverLUNs opens all LUNs and returns what is to be committed for them. With
// manual maintenance it does so one by one, so that tests run the same way each
// time.
func (p *Pool) recoverLUNs() ([]change, error) {
	records := slices.SortedFunc(maps.Values(p.cat.luns), func(a, b *lunRecord) int { return cmp.Compare(a.ID, b.ID) })
	changes, errs := make([][]change, len(records)), make([]error, len(records))
	workers := recoverWorkers
	if p.manual {
		workers = 1
	}
	var next atomic.Int64
	var failed atomic.Bool
	var wg sync.WaitGroup
	for range min(workers, len(records)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(records) && !failed.Load(); i = int(next.Add(1)) - 1 {
				r := records[i]
				var err error
				if changes[i], err = p.recoverLUN(r); isDamage(err) {
					p.breakLUN(r, err)
				} else if err != nil {
					errs[i] = fmt.Errorf("blockdev: open LUN %s: %w", r.Name, err)
					failed.Store(true)
				}
			}
		})
	}
	wg.Wait()
	return slices.Concat(changes...), errors.Join(errs...)
}

// reachedLayers returns the layers that a LUN or snapshot stands on. What the
// others hold, nobody misses: they are pruned as they are.
func (p *Pool) reachedLayers() map[uint32]bool {
	reached := make(map[uint32]bool)
	mark := func(id uint32) {
		for id != 0 && !reached[id] && p.cat.layers[id] != nil {
			reached[id] = true
			id = p.cat.layers[id].Parent
		}
	}
	for _, r := range p.cat.luns {
		mark(r.Head)
	}
	for _, r := range p.cat.snapshots {
		mark(r.Layer)
	}
	return reached
}

// recordFailureAbove notes that the LUNs whose heads stand on a layer failed:
// what a dead process left in the page cache could not be made durable, and a
// later attempt that succeeds would prove nothing (invariant 10). A full disk
// loses nothing. It tells whether there are such LUNs and all are on record.
func (p *Pool) recordFailureAbove(layer uint32, err error) bool {
	if isNoSpace(err) || errors.Is(err, errMapLost) {
		return false
	}
	some, all := false, true
	for _, l := range slices.Collect(maps.Values(p.cat.luns)) {
		for at := p.cat.layers[l.Head]; at != nil; at = p.cat.layers[at.Parent] {
			if at.ID == layer {
				p.recordFailure(l.ID, err.Error())
				some, all = true, all && p.cat.failure(l.ID) != ""
				break
			}
		}
	}
	return some && all
}

// checkKnown makes the catalogue's first record in a new pool, and refuses a
// pool with layers whose catalogue is gone.
func (p *Pool) checkKnown() error {
	if p.cat.pool.Made {
		return p.markOpen()
	}
	names, err := p.fs.ReadDir("layers")
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return errorf(ErrCorrupt, path.Join(p.dir, catalogueFile), "the catalogue is empty, layers are there")
	}
	r := p.cat.pool
	r.Made = true
	return p.cat.commit(putPool(r))
}

// markOpen notes that a pool is not clean any more. What a crash then leaves
// in segments without a record in a journal, only a scan of them finds.
func (p *Pool) markOpen() error {
	p.unclean = !p.cat.pool.Clean
	if p.unclean {
		return nil
	}
	r := p.cat.pool
	r.Clean = false
	return p.cat.commit(putPool(r))
}

// dropLeftovers removes the files of layers that were prepared and not
// committed, or deleted and not wholly removed.
func (p *Pool) dropLeftovers() error {
	ids, err := p.listIDs("layers")
	if err != nil {
		return err
	}
	for _, id := range ids {
		if r := p.cat.layers[id]; r != nil {
			if err := p.dropNew(r); err != nil {
				return err
			}
			continue
		}
		if id >= p.cat.pool.NextLayer {
			if err := p.checkUnused(id); err != nil {
				return err
			}
			if err := removeDir(p.fs, originDir(id)); err != nil {
				return err
			}
		}
		if err := removeDir(p.fs, layerDir(id)); err != nil {
			return err
		}
	}
	ids, err = p.listIDs("segments")
	if err != nil {
		return err
	}
	for _, id := range ids {
		if id >= p.cat.pool.NextLayer {
			if err := p.checkUnused(id); err != nil {
				return err
			}
			if err := removeDir(p.fs, originDir(id)); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkUnused fails if a layer that the catalogue does not know holds data: a
// prepared layer cannot, so the catalogue is older than the pool.
func (p *Pool) checkUnused(id uint32) error {
	names, err := p.fs.ReadDir(originDir(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return errorf(ErrCorrupt, path.Join(p.dir, originDir(id)), "holds segments, but the catalogue does not know layer %08x: is it an old copy?", id)
	}
	return nil
}

// listIDs lists the directories named by an id.
func (p *Pool) listIDs(dir string) ([]uint32, error) {
	names, err := p.fs.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var ids []uint32
	for _, n := range names {
		if id, ok := parseID(n); ok {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// parseID returns the id that a directory is named by.
func parseID(name string) (id uint32, ok bool) {
	n, err := strconv.ParseUint(name, 16, 32)
	return uint32(n), err == nil && len(name) == 8
}

// dropNew removes the files of a layer that did not get their names, except for
// sums that are due.
func (p *Pool) dropNew(r *layerRecord) error {
	dir := layerDir(r.ID)
	names, err := p.fs.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if !strings.HasSuffix(n, newSuffix) {
			continue
		}
		name := path.Join(dir, n)
		if r.Sealed && name == sumsName(r.ID)+newSuffix {
			if err := p.adoptSums(r.ID); err != nil {
				return err
			}
		}
		if err := p.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// layersOfFailed returns the unsealed layers of LUNs that failed: of these
// only what was committed counts.
func (p *Pool) layersOfFailed() map[uint32]bool {
	out := make(map[uint32]bool)
	for _, r := range p.cat.luns {
		for id := r.Head; p.cat.failure(r.ID) != "" && id != 0; {
			layer := p.cat.layers[id]
			if layer == nil || layer.Sealed {
				break
			}
			out[id] = true
			id = layer.Parent
		}
	}
	return out
}

// ownMap is what an unsealed layer itself maps, by its presence map and its
// journal.
type ownMap struct {
	m      *extentMap
	header presenceHeader
	scan   *journalScan // nil if the presence map is sealed
}

func (p *Pool) loadOwn(r *layerRecord, onlyCommitted bool) (ownMap, error) {
	own := ownMap{m: p.maps.newMap(), header: presenceHeader{journalFrom: 1, nextSeq: 1}}
	pr, err := openPresence(p.fs, r.ID)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return own, err
	default:
		own.header = pr.header
		err := pr.leaves(func(index uint64, vals *[leafBlocks]place) error {
			return own.m.overlayLeaf(index, vals)
		})
		if err := errors.Join(err, pr.close()); err != nil {
			return own, err
		}
	}
	if own.header.sealed {
		return own, nil
	}
	own.scan, err = scanJournal(p.fs, r.ID, own.header.journalFrom, own.header.nextSeq, p.bootID, onlyCommitted)
	if err != nil {
		return own, err
	}
	return own, own.scan.apply(own.m, r.Blocks)
}

// recoverFrozen seals a layer that was swapped out and not sealed, by the changes
// that it returns. The layer's journals are to be removed after them.
func (p *Pool) recoverFrozen(r *layerRecord, onlyCommitted bool) ([]change, error) {
	if err := p.syncNames(layerDir(r.ID)); err != nil {
		return nil, err
	}
	own, err := p.loadOwn(r, onlyCommitted)
	if err != nil {
		return nil, unreadable(r.ID, err)
	}
	changes := append(p.reclaimsOf(r), putLayer(sealedRecord(r)))
	if !own.header.sealed {
		if err := p.syncOrigins(r.Origins); err != nil {
			return nil, err
		}
		h := presenceHeader{layer: r.ID, blocks: r.Blocks, sealed: true}
		if err := p.writePresence(h, own.m, newExtentMap(), func(at place) bool { return at != nowhere }); err != nil {
			return nil, err
		}
	}
	return changes, nil
}

func sealedRecord(r *layerRecord) layerRecord {
	sealed := *r
	sealed.Sealed = true
	return sealed
}

// reclaimsOf asks for a scan of all origins of a layer for blocks that it does
// not map.
func (p *Pool) reclaimsOf(r *layerRecord) []change {
	var changes []change
	for _, o := range r.Origins {
		changes = append(changes, putReclaim(reclaimRecord{Origin: o, Owner: r.ID}))
	}
	return changes
}

// removeJournals removes the journal files of a layer before a generation.
func (p *Pool) removeJournals(layer uint32, before uint64) error {
	names, err := p.fs.ReadDir(layerDir(layer))
	if err != nil {
		return err
	}
	for _, n := range names {
		if g, ok := parseJournalName(n); ok && g < before {
			if err := p.fs.Remove(path.Join(layerDir(layer), n)); err != nil {
				return err
			}
		}
	}
	return nil
}

// syncOrigins makes durable whatever the segments of origins hold.
func (p *Pool) syncOrigins(origins []uint32) error {
	for _, o := range origins {
		shards, err := p.segments.shards(o)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, shard := range shards {
			s, err := p.segments.get(segmentKey{o, shard}, false)
			if err != nil {
				return err
			}
			err = s.Sync()
			p.segments.put(s)
			if err != nil {
				return syncFailed(segmentName(o, shard), err)
			}
		}
		if err := p.syncNames(originDir(o)); err != nil {
			return err
		}
	}
	return nil
}

// syncNames makes durable the names that a process that died left in a
// directory.
func (p *Pool) syncNames(dir string) error {
	if err := p.fs.SyncDir(dir); err != nil {
		return syncFailed(dir, err)
	}
	return nil
}

// syncFailed is the error of a sync of what was acknowledged, which is lost
// whatever the reason: on a full disk too, where space is allocated late.
func syncFailed(object string, err error) error {
	return &Error{Object: object, Class: ErrFailed, Detail: "sync", Cause: err}
}
