package blockdev

import "context"

// end returns the first block that no node of the map covers.
func (m *extentMap) end() uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return uint64(len(m.root)) * dirBlocks
}

// eachDifference calls fn for the runs from block on, below end, that a and b
// map to different places, until fn returns false. What the maps share, one
// being made from the other, costs nothing.
func eachDifference(a, b *extentMap, fn func(block, count uint64, in, other place) bool, block, end uint64) {
	var runsA, runsB []mapRun
	for block < end {
		n, shared := common(a, b, block)
		n = min(n, end-block)
		if shared {
			block += n
			continue
		}
		runsA, runsB = a.runs(runsA[:0], block, n), b.runs(runsB[:0], block, n)
		for i, j := 0, 0; i < len(runsA) && j < len(runsB); {
			ra, rb := &runsA[i], &runsB[j]
			k := min(ra.count, rb.count)
			if ra.place != rb.place && !fn(ra.block, k, ra.place, rb.place) {
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

// common returns how many blocks from block on lie in a part of the trees that
// both maps share, or that neither has; else how many lie in one part of both.
func common(a, b *extentMap, block uint64) (n uint64, shared bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	b.mu.RLock()
	defer b.mu.RUnlock()
	d := block / dirBlocks
	if d >= uint64(max(len(a.root), len(b.root))) {
		return ^uint64(0), true
	}
	in, other := a.rootAt(d), b.rootAt(d)
	base, blocks := d*dirBlocks, uint64(dirBlocks)
	for in != other && in != nil && other != nil && in.kids != nil && other.kids != nil {
		i := (block - base) / nodeBlocks
		in, other = in.kids[i], other.kids[i]
		base, blocks = base+i*nodeBlocks, nodeBlocks
	}
	if in == other {
		return base + blocks - block, true
	}
	pa, pb := partOf(in, base, blocks, block), partOf(other, base, blocks, block)
	return min(pa.end(), pb.end()) - block, pa.leaf != nil && pa.leaf == pb.leaf
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
	end := off + n
	at, length, kind := off, int64(0), Same // the range that grows up to at
	more := true
	grow := func(to int64, c Change) {
		if to <= at {
			return
		}
		if c != kind {
			more = more && (length == 0 || yield(length, kind))
			length, kind = 0, c
		}
		length += to - at
		at = to
	}
	calls := 0
	var err error
	eachDifference(from, to, func(block, count uint64, pa, pb place) bool {
		if calls++; calls%1024 == 0 {
			err = ctx.Err()
		}
		start := int64(block) * BlockSize
		grow(min(start, end), Same)
		grow(min(start+int64(count)*BlockSize, end), changeOf(pa, pb))
		return more && err == nil
	}, uint64(off/BlockSize), uint64((end+BlockSize-1)/BlockSize))
	if err == nil && more {
		grow(end, Same)
		if more && length > 0 {
			yield(length, kind)
		}
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
	if to == "" && l.broken {
		return l.failed.Load()
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
