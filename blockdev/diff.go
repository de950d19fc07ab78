package blockdev

import "context"

// diffChunk is how many blocks of two maps are compared at a time.
const diffChunk = 64 << 10

// end returns the first block that no node of the map covers.
func (m *extentMap) end() uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return uint64(len(m.root)) * rootNodes * nodeLeaves * leafBlocks
}

// eachDifference calls fn for the runs from block on, below end, that a and b
// map to different places, until fn returns false.
func eachDifference(a, b *extentMap, fn func(block, count uint64, in, other place) bool, block, end uint64) {
	eachPair(a, b, block, end, func(block, count uint64, pa, pb place) bool {
		return pa == pb || fn(block, count, pa, pb)
	})
}

// eachPair calls fn for runs of blocks that have one place in each of two maps.
func eachPair(a, b *extentMap, block, end uint64, fn func(block, count uint64, pa, pb place) bool) {
	var runsA, runsB []mapRun
	for block < end {
		n := min(end-block, pairChunk(a, b, block))
		runsA, runsB = a.runs(runsA[:0], block, n), b.runs(runsB[:0], block, n)
		for i, j := 0, 0; i < len(runsA) && j < len(runsB); {
			ra, rb := &runsA[i], &runsB[j]
			k := min(ra.count, rb.count)
			if !fn(ra.block, k, ra.place, rb.place) {
				return
			}
			advanceRun(ra, k, &i)
			advanceRun(rb, k, &j)
		}
		block += n
	}
}

func advanceRun(r *mapRun, n uint64, i *int) {
	r.block += n
	r.count -= n
	if r.count == 0 {
		*i++
	}
}

// pairChunk is how many blocks to look at next: many where neither map has
// anything, else so few that their runs take little memory.
func pairChunk(a, b *extentMap, block uint64) uint64 {
	a.mu.RLock()
	holeA := a.holeAt(block)
	a.mu.RUnlock()
	b.mu.RLock()
	holeB := b.holeAt(block)
	b.mu.RUnlock()
	return max(min(holeA, holeB), diffChunk)
}

// changeOf says how content at to differs from content at from.
func changeOf(from, to place) Change {
	switch {
	case from == to, !from.isData() && !to.isData():
		return Same
	case to.isData():
		return Written
	default:
		return Zeroed
	}
}

// eachChange calls yield for the ranges of n bytes from off on, in whole
// blocks cut to the range, until it returns false.
func eachChange(ctx context.Context, from, to *extentMap, off, n int64, yield func(length int64, c Change) bool) error {
	var length int64
	kind := Same
	more := true
	emit := func() {
		if length > 0 && more {
			more = yield(length, kind)
		}
		length = 0
	}
	end := off + n
	calls := 0
	var err error
	eachPair(from, to, uint64(off/BlockSize), uint64((end+BlockSize-1)/BlockSize), func(block, count uint64, pa, pb place) bool {
		if calls++; calls%1024 == 0 {
			err = ctx.Err()
		}
		start := max(int64(block)*BlockSize, off)
		k := min(int64(block+count)*BlockSize, end) - start
		if c := changeOf(pa, pb); c != kind {
			emit()
			kind = c
		}
		length += k
		return more && err == nil
	})
	if err == nil {
		emit()
	}
	return err
}

// Diff tells, in order, how n bytes from off on of a LUN's snapshot to, or of
// the LUN as it is now for "", differ from its snapshot from, or from nothing
// for "". It stops when yield returns false. A range that was written with
// what it held before counts as written.
func (p *Pool) Diff(ctx context.Context, lun, from, to string, off, n int64, yield func(length int64, c Change) bool) error {
	r, err := p.cat.findLUN(lun)
	if err != nil {
		return err
	}
	a, releaseA, _, err := p.stateMap(r, from, newExtentMap())
	if err != nil {
		return err
	}
	defer releaseA()
	l := p.lunByID(r.ID)
	if l == nil {
		return &Error{Object: lunObject(lun), Class: ErrStale}
	}
	b, releaseB, size, err := p.stateMap(r, to, l.m.Load())
	if err != nil {
		return err
	}
	defer releaseB()
	if !inRange(off, n, size) {
		return rangeError(off, n, size)
	}
	return eachChange(ctx, a, b, off, n, yield)
}

// stateMap returns the map and size of a snapshot, held until release; for ""
// the map present and the LUN's size.
func (p *Pool) stateMap(r *lunRecord, name string, present *extentMap) (m *extentMap, release func(), sizeBytes int64, err error) {
	if name == "" {
		return present, func() {}, r.SizeBytes, nil
	}
	s := p.cat.snapshotByName(r.ID, name)
	if s == nil {
		return nil, nil, 0, &Error{Object: snapshotObject(r.Name, name), Class: ErrNotFound}
	}
	m, err = p.acquireView(s.Layer)
	if err != nil && p.cat.snapshot(s.ID) == nil {
		return nil, nil, 0, &Error{Object: snapshotObject(r.Name, name), Class: ErrNotFound}
	}
	if err != nil {
		return nil, nil, 0, err
	}
	return m, func() { p.releaseView(s.Layer) }, s.SizeBytes, nil
}
