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
// throughout. Nodes and leaves take as much memory as what they hold needs, and
// what was not used lately may be spilled to a file (mapCache).
//
// All methods are safe for concurrent use. Nodes whose edit token is not the
// map's own never change. An error means that a part of the map could not be
// read back (errMapLost).
type extentMap struct {
	cache *mapCache // nil: all of the map is in memory

	mu   sync.RWMutex
	root []*mapNode // an entry for each dirBlocks
	edit *editToken
	data uint64 // number of blocks whose place is data
	// uniform holds one shared immutable leaf for each place lately seen to
	// fill a whole leaf, so that such a leaf costs no memory of its own.
	uniform map[place]*leaf
}

// newExtentMap makes a map that is nowhere throughout, and stays in memory.
func newExtentMap() *extentMap { return &extentMap{edit: new(editToken)} }

// newMap makes a map that counts as one of the cache's.
func (c *mapCache) newMap() *extentMap { return &extentMap{cache: c, edit: new(editToken)} }

// clone returns a map of equal content; from now on neither changes the nodes
// they share.
func (m *extentMap) clone() *extentMap {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.edit = new(editToken)
	m.uniform = nil
	c := m.cache.newMap()
	c.root, c.data = append([]*mapNode(nil), m.root...), m.data
	return c
}

// rootAt returns an entry of the root, nil if it is nowhere throughout. The
// caller holds mu.
func (m *extentMap) rootAt(d uint64) *mapNode {
	if d >= uint64(len(m.root)) {
		return nil
	}
	return m.root[d]
}

// find makes pt the part of the map that a block lies in. The caller holds mu.
func (m *extentMap) find(pt *mapPart, block uint64) {
	d := block / dirBlocks
	if d >= uint64(len(m.root)) {
		*pt = mapPart{base: d * dirBlocks, blocks: ^uint64(0) - d*dirBlocks}
		return
	}
	pt.find(m.root[d], d*dirBlocks, dirBlocks, block)
}

// at returns the place of one block.
func (m *extentMap) at(block uint64) (place, error) {
	var buf [1]mapRun
	runs, err := m.runs(buf[:0], block, 1)
	if err != nil {
		return nowhere, err
	}
	return runs[0].place, nil
}

// has tells whether a block is surely at a place: false also if that part of the
// map cannot be read back.
func (m *extentMap) has(block uint64, p place) bool {
	at, err := m.at(block)
	return err == nil && at == p
}

// mapRun is count blocks from block on that share a place.
type mapRun struct {
	block uint64
	count uint64
	place place
}

// runs appends to dst the runs that cover count blocks from block on.
func (m *extentMap) runs(dst []mapRun, block, count uint64) ([]mapRun, error) {
	return m.lookUp(dst, block, count, false)
}

// lookUp is runs; with try it does not wait for a disk: the error may also be
// blockfile.ErrWouldBlock.
func (m *extentMap) lookUp(dst []mapRun, block, count uint64, try bool) ([]mapRun, error) {
	first, end := len(dst), block+count
	dst, missing := m.inMemory(dst, first, block, end)
	for missing != nil {
		loaded := missing
		if err := m.cache.load(loaded, try); err != nil {
			return dst[:first], err
		}
		if last := len(dst) - 1; last >= first {
			block = dst[last].block + dst[last].count
		}
		dst, missing = m.inMemory(dst, first, block, end)
		loaded.unpin()
	}
	m.cache.shrink()
	return dst, nil
}

// inMemory appends to dst, from first on, the runs from block on until end, or
// until a node that is missing.
func (m *extentMap) inMemory(dst []mapRun, first int, block, end uint64) (_ []mapRun, missing *mapNode) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var pt mapPart
	for block < end {
		m.find(&pt, block)
		if pt.missing != nil {
			return dst, pt.missing
		}
		for stop := min(pt.end(), end); block < stop; {
			p, to := pt.run(block, stop)
			if last := len(dst) - 1; last >= first && dst[last].place == p {
				dst[last].count += to - block
			} else {
				dst = append(dst, mapRun{block, to - block, p})
			}
			block = to
		}
	}
	return dst, nil
}

// set maps count blocks from block on to a place. After an error those before
// some block are.
func (m *extentMap) set(block, count uint64, p place) error {
	for end := block + count; block < end; {
		next, missing := m.trySet(block, end, p)
		if missing == nil {
			block = next
			continue
		}
		if err := m.cache.load(missing, false); err != nil {
			return err
		}
		defer missing.unpin()
	}
	m.cache.shrink()
	return nil
}

// trySet maps the blocks from block on that lie in one node, and returns where
// it went on to. It does nothing if what that node holds is missing.
func (m *extentMap) trySet(block, end uint64, p place) (next uint64, missing *mapNode) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.setPart(block, end, p)
}

// setPart is trySet for a caller that holds mu.
func (m *extentMap) setPart(block, end uint64, p place) (next uint64, missing *mapNode) {
	slot, base, blocks, missing := m.claim(block)
	if missing != nil {
		return 0, missing
	}
	next = min(base+blocks, end)
	data, ok := m.setNode(slot, blocks, block-base, next-base, p)
	if !ok {
		return 0, *slot
	}
	m.data += uint64(data)
	return next, nil
}

// claim makes the node that a block lies in one of the map's own. It returns
// where the node is, its first block and how many it has. mu is held.
func (m *extentMap) claim(block uint64) (slot **mapNode, base, blocks uint64, missing *mapNode) {
	d := block / dirBlocks
	for d >= uint64(len(m.root)) {
		m.root = append(m.root, nil)
	}
	slot, base, blocks = &m.root[d], d*dirBlocks, dirBlocks
	for {
		n := *slot
		var b *mapBody
		if n != nil {
			if b = n.body(); b == nil {
				return nil, 0, 0, n
			}
		}
		if n == nil || n.edit != m.edit {
			b = m.own(slot, b).body()
			if b == nil { // spilled already
				return nil, 0, 0, *slot
			}
		}
		if b.kids == nil {
			return slot, base, blocks, nil
		}
		i := (block - base) / nodeBlocks
		slot, base, blocks = &b.kids[i], base+i*nodeBlocks, nodeBlocks
	}
}

// hold makes the nodes of count blocks from block on the map's own, and keeps
// them in memory until they are unpinned, so that set finds them.
func (m *extentMap) hold(held []*mapNode, block, count uint64) ([]*mapNode, error) {
	if m.cache == nil {
		return held, nil
	}
	for end := block + count; block < end; {
		n, next, missing := m.tryHold(block)
		if missing == nil {
			held, block = append(held, n), next
			continue
		}
		if err := m.cache.load(missing, false); err != nil {
			unpin(held)
			return nil, err
		}
		defer missing.unpin()
	}
	return held, nil
}

// tryHold is hold for the node that a block lies in. It returns where that ends.
func (m *extentMap) tryHold(block uint64) (n *mapNode, end uint64, missing *mapNode) {
	m.mu.Lock()
	defer m.mu.Unlock()
	slot, base, blocks, missing := m.claim(block)
	if missing != nil {
		return nil, 0, missing
	}
	if !(*slot).pin() {
		return nil, 0, *slot
	}
	return *slot, base + blocks, nil
}

func unpin(held []*mapNode) {
	for _, n := range held {
		n.unpin()
	}
}

// replace maps to another place those of count blocks from block on that are at
// from, which is not nowhere. After an error some are.
func (m *extentMap) replace(block, count uint64, from, to place) error {
	for end := block + count; block < end; {
		next, missing := m.tryReplace(block, end, from, to)
		if missing == nil {
			block = next
			continue
		}
		if err := m.cache.load(missing, false); err != nil {
			return err
		}
		defer missing.unpin()
	}
	m.cache.shrink()
	return nil
}

// tryReplace is replace for the blocks from block on that share a place, and
// returns where it went on to. It does nothing if a node is missing.
func (m *extentMap) tryReplace(block, end uint64, from, to place) (next uint64, missing *mapNode) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var pt mapPart
	if m.find(&pt, block); pt.missing != nil {
		return 0, pt.missing
	}
	p, next := pt.run(block, min(pt.end(), end))
	if p != from {
		return next, nil
	}
	return m.setPart(block, next, to)
}

// setLeaf maps one whole leaf.
func (m *extentMap) setLeaf(index uint64, vals *[leafBlocks]place) error {
	return eachRun(vals, func(i, n uint64, p place) error { return m.set(index*leafBlocks+i, n, p) })
}

// overlayLeaf maps those blocks of a leaf that vals maps.
func (m *extentMap) overlayLeaf(index uint64, vals *[leafBlocks]place) error {
	return eachRun(vals, func(i, n uint64, p place) error {
		if p == nowhere {
			return nil
		}
		return m.set(index*leafBlocks+i, n, p)
	})
}

// eachRun calls fn for the runs of blocks of a leaf that share a place.
func eachRun(vals *[leafBlocks]place, fn func(i, n uint64, p place) error) error {
	for i := 0; i < leafBlocks; {
		j := i + 1
		for j < leafBlocks && vals[j] == vals[i] {
			j++
		}
		if err := fn(uint64(i), uint64(j-i), vals[i]); err != nil {
			return err
		}
		i = j
	}
	return nil
}

// overlay maps those blocks that upper maps; upper must not be changed
// meanwhile.
func (m *extentMap) overlay(upper *extentMap) error {
	return eachDifference(upper, newExtentMap(), func(block, count uint64, p, _ place) error {
		return m.set(block, count, p)
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
func (m *extentMap) leavesBeside(other *extentMap, fn func(index uint64, vals *[leafBlocks]place) error) error {
	var vals [leafBlocks]place
	var runs []mapRun
	next := uint64(0)
	return eachDifference(m, other, func(block, count uint64, _, _ place) (err error) {
		for next = max(next, block/leafBlocks); next*leafBlocks < block+count; next++ {
			if runs, err = m.runs(runs[:0], next*leafBlocks, leafBlocks); err != nil {
				return err
			}
			if len(runs) == 1 && runs[0].place == nowhere {
				continue
			}
			for _, r := range runs {
				i := r.block % leafBlocks
				fill(vals[i:i+r.count], r.place)
			}
			if err := fn(next, &vals); err != nil {
				return err
			}
		}
		return nil
	}, 0, m.end())
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
func (m *extentMap) countBlocks(want func(place) bool) (total uint64, err error) {
	err = eachDifference(m, newExtentMap(), func(_, count uint64, p, _ place) error {
		if want(p) {
			total += count
		}
		return nil
	}, 0, m.end())
	return total, err
}
