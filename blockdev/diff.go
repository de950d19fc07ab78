package blockdev

import (
	"context"
	"errors"
)

// end returns the first block that no node of the map covers.
func (m *extentMap) end() uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return uint64(len(m.root)) * dirBlocks
}

// eachDifference calls fn for the runs from block on, below end, that a and b
// map to different places, until fn returns an error, which it returns. What the
// maps share, one being made from the other, costs nothing.
func eachDifference(a, b *extentMap, fn func(block, count uint64, in, other place) error, block, end uint64) (err error) {
	var runsA, runsB []mapRun
	for block < end {
		n, shared, err := common(a, b, block)
		if err != nil {
			return err
		}
		n = min(n, end-block)
		if shared {
			block += n
			continue
		}
		if runsA, err = a.runs(runsA[:0], block, n); err != nil {
			return err
		}
		if runsB, err = b.runs(runsB[:0], block, n); err != nil {
			return err
		}
		if err := eachDifferentRun(runsA, runsB, fn); err != nil {
			return err
		}
		block += n
	}
	return nil
}

// eachDifferentRun is eachDifference for the runs of one range.
func eachDifferentRun(a, b []mapRun, fn func(block, count uint64, in, other place) error) error {
	for i, j := 0, 0; i < len(a) && j < len(b); {
		ra, rb := &a[i], &b[j]
		k := min(ra.count, rb.count)
		if ra.place != rb.place {
			if err := fn(ra.block, k, ra.place, rb.place); err != nil {
				return err
			}
		}
		advanceRun(ra, k, &i)
		advanceRun(rb, k, &j)
	}
	return nil
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
func common(a, b *extentMap, block uint64) (n uint64, shared bool, err error) {
	for {
		n, shared, missing := tryCommon(a, b, block)
		if missing == nil {
			return n, shared, nil
		}
		cache := a.cache
		if cache == nil {
			cache = b.cache
		}
		if err := cache.load(missing, false); err != nil {
			return 0, false, err
		}
		defer missing.unpin()
	}
}

// tryCommon is common for what is in memory.
func tryCommon(a, b *extentMap, block uint64) (n uint64, shared bool, missing *mapNode) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	b.mu.RLock()
	defer b.mu.RUnlock()
	d := block / dirBlocks
	if d >= uint64(max(len(a.root), len(b.root))) {
		return ^uint64(0), true, nil
	}
	in, other := a.rootAt(d), b.rootAt(d)
	base, blocks := d*dirBlocks, uint64(dirBlocks)
	for in != other && in != nil && other != nil {
		bodyIn, bodyOther := in.body(), other.body()
		if bodyIn == nil || bodyOther == nil || bodyIn.kids == nil || bodyOther.kids == nil {
			break
		}
		i := (block - base) / nodeBlocks
		in, other = bodyIn.kids[i], bodyOther.kids[i]
		base, blocks = base+i*nodeBlocks, nodeBlocks
	}
	if in == other {
		return base + blocks - block, true, nil
	}
	var pa, pb mapPart
	pa.find(in, base, blocks, block)
	pb.find(other, base, blocks, block)
	if pa.missing != nil {
		return 0, false, pa.missing
	}
	if pb.missing != nil {
		return 0, false, pb.missing
	}
	return min(pa.end(), pb.end()) - block, pa.leaf != nil && pa.leaf == pb.leaf, nil
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
	err := eachDifference(from, to, func(block, count uint64, pa, pb place) error {
		if calls++; calls%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		start := int64(block) * BlockSize
		grow(min(start, end), Same)
		grow(min(start+int64(count)*BlockSize, end), changeOf(pa, pb))
		if !more {
			return errEnough
		}
		return nil
	}, uint64(off/BlockSize), uint64((end+BlockSize-1)/BlockSize))
	if err == nil {
		grow(end, Same)
		if more && length > 0 {
			yield(length, kind)
		}
	}
	if err == errEnough {
		return nil
	}
	return err
}

// errEnough ends a walk through maps.
var errEnough = errors.New("blockdev: enough")

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
