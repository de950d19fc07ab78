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

// Geometry of an extent map: a leaf maps 2 MiB, a node 1 GiB, an entry of the
// root 512 GiB, so that the root of the largest LUN has 200 entries.
const (
	leafBlocks = 512
	nodeLeaves = 512
	rootNodes  = 512

	nodeBlocks = nodeLeaves * leafBlocks
	dirBlocks  = rootNodes * nodeBlocks
)

// editToken marks the nodes that one extent map may change in place.
type editToken struct{ _ byte }

// leaf maps leafBlocks blocks, either all to one place (vals nil) or each to
// its own.
type leaf struct {
	edit    *editToken
	uniform place
	vals    *[leafBlocks]place
}

func (l *leaf) at(i int) place {
	if l == nil {
		return nowhere
	}
	if l.vals == nil {
		return l.uniform
	}
	return l.vals[i]
}

// dataBlocks counts the blocks from i to before j whose place is data.
func (l *leaf) dataBlocks(i, j int) uint64 {
	if l == nil {
		return 0
	}
	if l.vals == nil {
		if l.uniform.isData() {
			return uint64(j - i)
		}
		return 0
	}
	var n uint64
	for _, p := range l.vals[i:j] {
		if p.isData() {
			n++
		}
	}
	return n
}

type mapNode struct {
	edit   *editToken
	leaves [nodeLeaves]*leaf
}

type mapDir struct {
	edit  *editToken
	nodes [rootNodes]*mapNode
}

// extentMap maps every block of a LUN or snapshot to its place. It is a radix
// tree whose nodes are shared between clones and copied when first changed,
// so that a clone costs the same for every size. A nil node is nowhere
// throughout.
//
// All methods are safe for concurrent use. Nodes whose edit token is not the
// map's own never change.
type extentMap struct {
	mu   sync.RWMutex
	root []*mapDir
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
	return &extentMap{root: append([]*mapDir(nil), m.root...), edit: new(editToken), data: m.data}
}

// leafAt returns the leaf with an index, nil if it is nowhere throughout. The
// caller holds mu.
func (m *extentMap) leafAt(index uint64) *leaf {
	return m.dirAt(index / (nodeLeaves * rootNodes)).nodeAt(index / nodeLeaves % rootNodes).leafAt(index % nodeLeaves)
}

// dirAt returns a part of the root, nil if it is nowhere throughout. The caller
// holds mu.
func (m *extentMap) dirAt(d uint64) *mapDir {
	if d >= uint64(len(m.root)) {
		return nil
	}
	return m.root[d]
}

func (d *mapDir) nodeAt(n uint64) *mapNode {
	if d == nil {
		return nil
	}
	return d.nodes[n]
}

func (n *mapNode) leafAt(i uint64) *leaf {
	if n == nil {
		return nil
	}
	return n.leaves[i]
}

// holeAt returns the number of blocks from block on that are nowhere because
// no node covers them, 0 if one does. The caller holds mu.
func (m *extentMap) holeAt(block uint64) uint64 {
	d := block / dirBlocks
	if d >= uint64(len(m.root)) {
		return ^uint64(0)
	}
	if m.root[d] == nil {
		return dirBlocks - block%dirBlocks
	}
	if m.root[d].nodes[block/nodeBlocks%rootNodes] == nil {
		return nodeBlocks - block%nodeBlocks
	}
	return 0
}

// at returns the place of one block.
func (m *extentMap) at(block uint64) place {
	m.mu.RLock()
	p := m.leafAt(block / leafBlocks).at(int(block % leafBlocks))
	m.mu.RUnlock()
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
	first := len(dst)
	add := func(n uint64, p place) {
		if last := len(dst) - 1; last >= first && dst[last].place == p {
			dst[last].count += n
		} else {
			dst = append(dst, mapRun{block, n, p})
		}
		block += n
		count -= n
	}
	for count > 0 {
		if n := m.holeAt(block); n > 0 {
			add(min(n, count), nowhere)
			continue
		}
		l := m.leafAt(block / leafBlocks)
		i := block % leafBlocks
		n := min(leafBlocks-i, count)
		if l == nil || l.vals == nil {
			add(n, l.at(0))
			continue
		}
		for end := i + n; i < end; {
			j := i + 1
			for j < end && l.vals[j] == l.vals[i] {
				j++
			}
			add(j-i, l.vals[i])
			i = j
		}
	}
	return dst
}

// set maps count blocks from block on to a place.
func (m *extentMap) set(block, count uint64, p place) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for count > 0 {
		i := block % leafBlocks
		n := min(leafBlocks-i, count)
		slot := m.slot(block / leafBlocks)
		m.data -= (*slot).dataBlocks(int(i), int(i+n))
		if p.isData() {
			m.data += n
		}
		if n == leafBlocks {
			*slot = m.uniformLeaf(p)
		} else {
			l := m.ownLeaf(slot)
			fill(l.vals[i:i+n], p)
			if i+n == leafBlocks && isUniform(l.vals[:]) {
				*slot = m.uniformLeaf(p)
			}
		}
		block += n
		count -= n
	}
}

// setLeaf maps one whole leaf; vals is copied.
func (m *extentMap) setLeaf(index uint64, vals *[leafBlocks]place) {
	m.mu.Lock()
	defer m.mu.Unlock()
	slot := m.slot(index)
	m.data -= (*slot).dataBlocks(0, leafBlocks)
	if isUniform(vals[:]) {
		*slot = m.uniformLeaf(vals[0])
	} else {
		own := *vals
		*slot = &leaf{edit: m.edit, vals: &own}
	}
	m.data += (*slot).dataBlocks(0, leafBlocks)
}

// replace maps to another place those of count blocks from block on that are at
// from, which is not nowhere.
func (m *extentMap) replace(block, count uint64, from, to place) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for count > 0 {
		i := block % leafBlocks
		n := min(leafBlocks-i, count)
		if k := m.holeAt(block); k > 0 {
			n = min(k, count)
		} else {
			m.replaceInLeaf(block/leafBlocks, int(i), int(i+n), from, to)
		}
		block += n
		count -= n
	}
}

// replaceInLeaf is replace for the blocks from i to before j of a leaf. The
// caller holds mu.
func (m *extentMap) replaceInLeaf(index uint64, i, j int, from, to place) {
	old := m.leafAt(index)
	any := false
	for k := i; k < j && !any; k++ {
		any = old.at(k) == from
	}
	if !any {
		return // what is shared stays so
	}
	slot := m.slot(index)
	m.data -= (*slot).dataBlocks(i, j)
	if j-i == leafBlocks && (*slot).vals == nil {
		*slot = m.uniformLeaf(to)
	} else {
		l := m.ownLeaf(slot)
		for k := i; k < j; k++ {
			if l.vals[k] == from {
				l.vals[k] = to
			}
		}
		if isUniform(l.vals[:]) {
			*slot = m.uniformLeaf(l.vals[0])
		}
	}
	m.data += (*slot).dataBlocks(i, j)
}

// overlayLeaf maps those blocks of a leaf that upper maps.
func (m *extentMap) overlayLeaf(index uint64, upper *leaf) {
	for i := 0; i < leafBlocks; {
		j := i + 1
		for j < leafBlocks && upper.at(j) == upper.at(i) {
			j++
		}
		if at := upper.at(i); at != nowhere {
			m.set(index*leafBlocks+uint64(i), uint64(j-i), at)
		}
		i = j
	}
}

// slot returns the pointer to a leaf in a node that this map owns. The caller
// holds mu.
func (m *extentMap) slot(index uint64) **leaf {
	d := int(index / (nodeLeaves * rootNodes))
	for d >= len(m.root) {
		m.root = append(m.root, nil)
	}
	dir := m.root[d]
	if dir == nil || dir.edit != m.edit {
		own := &mapDir{edit: m.edit}
		if dir != nil {
			own.nodes = dir.nodes
		}
		m.root[d], dir = own, own
	}
	at := &dir.nodes[index/nodeLeaves%rootNodes]
	if *at == nil || (*at).edit != m.edit {
		own := &mapNode{edit: m.edit}
		if *at != nil {
			own.leaves = (*at).leaves
		}
		*at = own
	}
	return &(*at).leaves[index%nodeLeaves]
}

// ownLeaf makes the leaf in slot one with values that this map may change.
func (m *extentMap) ownLeaf(slot **leaf) *leaf {
	l := *slot
	if l != nil && l.edit == m.edit && l.vals != nil {
		return l
	}
	own := &leaf{edit: m.edit, vals: new([leafBlocks]place)}
	if l != nil && l.vals != nil {
		*own.vals = *l.vals
	} else if p := l.at(0); p != nowhere {
		fill(own.vals[:], p)
	}
	*slot = own
	return own
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

// leaves calls fn, in order, for every leaf that is not nowhere throughout.
// The map must not be changed meanwhile: call it on a clone.
func (m *extentMap) leaves(fn func(index uint64, l *leaf) error) error {
	return m.leavesBeside(newExtentMap(), fn)
}

// leavesBeside is leaves without those that the map shares with another, which
// must not be changed meanwhile either.
func (m *extentMap) leavesBeside(other *extentMap, fn func(index uint64, l *leaf) error) error {
	for d, dir := range m.root {
		otherDir := other.dirAt(uint64(d))
		if dir == otherDir || dir == nil {
			continue
		}
		for n, node := range dir.nodes {
			otherNode := otherDir.nodeAt(uint64(n))
			if node == otherNode || node == nil {
				continue
			}
			base := (uint64(d)*rootNodes + uint64(n)) * nodeLeaves
			for i, l := range node.leaves {
				if l == otherNode.leafAt(uint64(i)) || l == nil {
					continue
				}
				if err := fn(base+uint64(i), l); err != nil {
					return err
				}
			}
		}
	}
	return nil
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
func (m *extentMap) countBlocks(want func(place) bool) uint64 {
	var total uint64
	for d := 0; ; d++ {
		m.mu.RLock()
		if d >= len(m.root) {
			m.mu.RUnlock()
			return total
		}
		dir := m.root[d]
		m.mu.RUnlock()
		for n := 0; dir != nil && n < rootNodes; n++ {
			m.mu.RLock()
			total += countNode(dir.nodes[n], want)
			m.mu.RUnlock()
		}
	}
}

func countNode(n *mapNode, want func(place) bool) uint64 {
	var total uint64
	if n == nil {
		return 0
	}
	for _, l := range n.leaves {
		switch {
		case l == nil:
		case l.vals == nil:
			if want(l.uniform) {
				total += leafBlocks
			}
		default:
			for _, p := range l.vals {
				if want(p) {
					total++
				}
			}
		}
	}
	return total
}

func fill(vals []place, p place) {
	for i := range vals {
		vals[i] = p
	}
}

func isUniform(vals []place) bool {
	for _, v := range vals[1:] {
		if v != vals[0] {
			return false
		}
	}
	return true
}
