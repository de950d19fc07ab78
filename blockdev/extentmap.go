package blockdev

import (
	"sync"
)

// place says where a block's content is: 0 for nowhere (never written, reads
// as zeros), else origin<<1 for data in the segments of that origin, or
// origin<<1|1 for zeros written by that origin.
//
// An origin is the id of the layer that wrote the block. Segments keep their
// origin's name for ever; the layer that owns them may change when layers are
// merged.
type place uint32

const nowhere place = 0

// maxOrigin bounds layer ids: they must fit a place.
const maxOrigin = 1<<31 - 1

func dataPlace(origin uint32) place { return place(origin << 1) }
func zeroPlace(origin uint32) place { return place(origin<<1 | 1) }

func (p place) origin() uint32 { return uint32(p >> 1) }

// isData tells whether the block's content is in a segment.
func (p place) isData() bool { return p != nowhere && p&1 == 0 }

// extentMap maps every block of a LUN or snapshot to its place. It is a radix
// tree whose nodes are shared between clones and copied when first changed,
// so that a clone costs the same for every size. A nil node is nowhere
// throughout. Nodes and leaves take as much memory as what they hold needs.
//
// All methods are safe for concurrent use. Nodes whose edit token is not the
// map's own never change.
type extentMap struct {
	mu   sync.RWMutex
	root []*mapNode // an entry for each dirBlocks
	edit *editToken
	data uint64 // number of blocks whose place is data
	// uniform holds one shared immutable leaf for each place lately seen to
	// fill a whole leaf, so that such a leaf costs no memory of its own.
	uniform map[place]*leaf
}

func newExtentMap() *extentMap { return &extentMap{edit: new(editToken)} }

// clone returns a map of equal content; from now on neither changes the nodes
// they share.
func (m *extentMap) clone() *extentMap {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.edit = new(editToken)
	m.uniform = nil
	return &extentMap{root: append([]*mapNode(nil), m.root...), edit: new(editToken), data: m.data}
}

// rootAt returns an entry of the root, nil if it is nowhere throughout. The
// caller holds mu.
func (m *extentMap) rootAt(d uint64) *mapNode {
	if d >= uint64(len(m.root)) {
		return nil
	}
	return m.root[d]
}

// partAt returns the part of the map that a block lies in. The caller holds mu.
func (m *extentMap) partAt(block uint64) mapPart {
	d := block / dirBlocks
	if d >= uint64(len(m.root)) {
		return mapPart{base: d * dirBlocks, blocks: ^uint64(0) - d*dirBlocks}
	}
	return partOf(m.root[d], d*dirBlocks, dirBlocks, block)
}

// at returns the place of one block.
func (m *extentMap) at(block uint64) place {
	m.mu.RLock()
	defer m.mu.RUnlock()
	pt := m.partAt(block)
	p, _ := pt.run(block)
	return p
}

// mapRun is count blocks from block on that share a place.
type mapRun struct {
	block uint64
	count uint64
	place place
}

// runs appends to dst the runs that cover count blocks from block on.
func (m *extentMap) runs(dst []mapRun, block, count uint64) []mapRun {
	m.mu.RLock()
	defer m.mu.RUnlock()
	first, end := len(dst), block+count
	for block < end {
		pt := m.partAt(block)
		for stop := min(pt.end(), end); block < stop; {
			p, to := pt.run(block)
			to = min(to, stop)
			if last := len(dst) - 1; last >= first && dst[last].place == p {
				dst[last].count += to - block
			} else {
				dst = append(dst, mapRun{block, to - block, p})
			}
			block = to
		}
	}
	return dst
}

// set maps count blocks from block on to a place.
func (m *extentMap) set(block, count uint64, p place) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.setLocked(block, count, p)
}

// setLocked is set for a caller that holds mu.
func (m *extentMap) setLocked(block, count uint64, p place) {
	for count > 0 {
		d, from := block/dirBlocks, block%dirBlocks
		for d >= uint64(len(m.root)) {
			m.root = append(m.root, nil)
		}
		n := min(dirBlocks-from, count)
		m.data += uint64(m.setNode(&m.root[d], dirBlocks, from, from+n, p))
		block, count = block+n, count-n
	}
}

// replace maps to another place those of count blocks from block on that are at
// from, which is not nowhere.
func (m *extentMap) replace(block, count uint64, from, to place) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for end := block + count; block < end; {
		pt := m.partAt(block)
		p, next := pt.run(block)
		next = min(next, end)
		if p == from {
			m.setLocked(block, next-block, to)
		}
		block = next
	}
}

// setLeaf maps one whole leaf.
func (m *extentMap) setLeaf(index uint64, vals *[leafBlocks]place) {
	eachRun(vals, func(i, n uint64, p place) { m.set(index*leafBlocks+i, n, p) })
}

// overlayLeaf maps those blocks of a leaf that vals maps.
func (m *extentMap) overlayLeaf(index uint64, vals *[leafBlocks]place) {
	eachRun(vals, func(i, n uint64, p place) {
		if p != nowhere {
			m.set(index*leafBlocks+i, n, p)
		}
	})
}

// eachRun calls fn for the runs of blocks of a leaf that share a place.
func eachRun(vals *[leafBlocks]place, fn func(i, n uint64, p place)) {
	for i := 0; i < leafBlocks; {
		j := i + 1
		for j < leafBlocks && vals[j] == vals[i] {
			j++
		}
		fn(uint64(i), uint64(j-i), vals[i])
		i = j
	}
}

// overlay maps those blocks that upper maps; upper must not be changed
// meanwhile.
func (m *extentMap) overlay(upper *extentMap) {
	eachDifference(upper, newExtentMap(), func(block, count uint64, p, _ place) bool {
		m.set(block, count, p)
		return true
	}, 0, upper.end())
}

// uniformLeaf returns the shared leaf that maps all its blocks to p.
func (m *extentMap) uniformLeaf(p place) *leaf {
	if p == nowhere {
		return nil
	}
	if l := m.uniform[p]; l != nil {
		return l
	}
	const maxShared = 64
	if m.uniform == nil || len(m.uniform) >= maxShared {
		m.uniform = make(map[place]*leaf)
	}
	l := &leaf{uniform: p}
	m.uniform[p] = l
	return l
}

// leaves calls fn, in order, for every leaf in which anything is mapped, with
// the places of its blocks, which are valid until fn returns. The map must not
// be changed meanwhile: call it on a clone.
func (m *extentMap) leaves(fn func(index uint64, vals *[leafBlocks]place) error) error {
	return m.leavesBeside(newExtentMap(), fn)
}

// leavesBeside is leaves without those that are the same in another map, which
// must not be changed meanwhile either. What the two share costs nothing.
func (m *extentMap) leavesBeside(other *extentMap, fn func(index uint64, vals *[leafBlocks]place) error) (err error) {
	var vals [leafBlocks]place
	var runs []mapRun
	next := uint64(0)
	eachDifference(m, other, func(block, count uint64, _, _ place) bool {
		for next = max(next, block/leafBlocks); next*leafBlocks < block+count; next++ {
			runs = m.runs(runs[:0], next*leafBlocks, leafBlocks)
			if len(runs) == 1 && runs[0].place == nowhere {
				continue
			}
			for _, r := range runs {
				i := r.block % leafBlocks
				fill(vals[i:i+r.count], r.place)
			}
			if err = fn(next, &vals); err != nil {
				return false
			}
		}
		return true
	}, 0, m.end())
	return err
}

// dataBlocks returns how many blocks have data.
func (m *extentMap) dataBlocks() uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.data
}

// countBlocks returns how many blocks have a place for which want holds. It
// does not hold up changes for long: what changes meanwhile may be counted as
// it was or as it is.
func (m *extentMap) countBlocks(want func(place) bool) (total uint64) {
	eachDifference(m, newExtentMap(), func(_, count uint64, p, _ place) bool {
		if want(p) {
			total += count
		}
		return true
	}, 0, m.end())
	return total
}
