package blockdev

import (
	"encoding/binary"
	"errors"
	"slices"
)

// Geometry of an extent map: a leaf maps 2 MiB, a node 1 GiB, an entry of the
// root 512 GiB, so that the root of the largest LUN has 200 entries.
const (
	leafBlocks = 512
	nodeLeaves = 512
	rootNodes  = 512

	nodeBlocks = nodeLeaves * leafBlocks
	dirBlocks  = rootNodes * nodeBlocks
)

// maxSpans is how many spans a node holds before it is divided. 1,024 lone
// blocks take 12 KiB as spans, and about 60 KiB in leaves.
const maxSpans = 1024

// editToken marks the nodes that one extent map may change in place.
type editToken struct{ _ byte }

// span is count blocks from start on, counted from the first block of its node,
// that share a place other than nowhere.
type span struct {
	start, count uint32
	place        place
}

func (s span) end() uint32 { return s.start + s.count }

// mapNode maps the dirBlocks of an entry of the root, or nodeBlocks of such.
// Maps share nodes; what a node holds may be spilled meanwhile.
type mapNode struct {
	edit *editToken
	cell *mapCell
}

// mapBody is what a node holds. If it is little that is a list of spans:
// ascending, none adjoining another of the same place. Else it is divided, into
// nodes (kids) or leaves. A body with kids is not spilled, so that one that is
// missing is a list of spans, or leaves.
type mapBody struct {
	spans     []span
	kids      *[rootNodes]*mapNode
	leaves    *[nodeLeaves]*leaf
	leafBytes int // memory of the leaves
}

// newNode makes a node that a map may change.
func (m *extentMap) newNode(b *mapBody) *mapNode {
	n := &mapNode{edit: m.edit, cell: &mapCell{at: notInRing}}
	n.cell.body.Store(b)
	m.cache.add(n)
	return n
}

// body returns what the node holds, nil if it is spilled.
func (n *mapNode) body() *mapBody {
	if !n.cell.used.Load() {
		n.cell.used.Store(true)
	}
	return n.cell.body.Load()
}

// bytes returns the memory that a body takes.
func (b *mapBody) bytes() int {
	n := 48 + 12*cap(b.spans) + b.leafBytes
	if b.kids != nil || b.leaves != nil {
		n += 8 * nodeLeaves
	}
	return n
}

// mapPart is a part of a map that is one list of spans or one leaf; with neither
// it is nowhere throughout. If missing is set it is not known: what that node
// holds is spilled.
type mapPart struct {
	base, blocks uint64
	spans        []span
	leaf         *leaf
	missing      *mapNode
}

func (pt *mapPart) end() uint64 { return pt.base + pt.blocks }

// find makes pt the part of a node of blocks blocks from base on that a block
// lies in.
func (pt *mapPart) find(n *mapNode, base, blocks, block uint64) {
	for n != nil {
		b := n.body()
		switch {
		case b == nil:
			*pt = mapPart{missing: n}
			return
		case b.leaves != nil:
			i := (block - base) / leafBlocks
			*pt = mapPart{base: base + i*leafBlocks, blocks: leafBlocks, leaf: b.leaves[i]}
			return
		case b.kids == nil:
			*pt = mapPart{base: base, blocks: blocks, spans: b.spans}
			return
		}
		i := (block - base) / nodeBlocks
		n, base, blocks = b.kids[i], base+i*nodeBlocks, nodeBlocks
	}
	*pt = mapPart{base: base, blocks: blocks}
}

// run returns the place of a block of the part and the end of the blocks from
// it on, at most limit, that surely share it.
func (pt *mapPart) run(block, limit uint64) (p place, end uint64) {
	at := block - pt.base
	if pt.leaf != nil {
		p, j := pt.leaf.run(int(at), int(limit-pt.base))
		return p, pt.base + uint64(j)
	}
	i := spanAfter(pt.spans, uint32(at))
	switch {
	case i == len(pt.spans):
		return nowhere, limit
	case uint64(pt.spans[i].start) > at:
		return nowhere, min(pt.base+uint64(pt.spans[i].start), limit)
	}
	return pt.spans[i].place, min(pt.base+uint64(pt.spans[i].end()), limit)
}

// spanAfter returns the first span that ends after a block.
func spanAfter(spans []span, at uint32) int {
	i, j := 0, len(spans)
	for i < j {
		if h := int(uint(i+j) >> 1); spans[h].end() <= at {
			i = h + 1
		} else {
			j = h
		}
	}
	return i
}

// replaceSpans gives the blocks from to before end a place, in the list itself
// where it has room, and returns by how many blocks with data it has become
// more.
func replaceSpans(spans []span, from, end uint32, p place) (_ []span, data int64) {
	i := spanAfter(spans, from)
	j := i
	for ; j < len(spans) && spans[j].start < end; j++ {
		if s := spans[j]; s.place.isData() {
			data -= int64(min(s.end(), end) - max(s.start, from))
		}
	}
	if p.isData() {
		data += int64(end - from)
	}
	var buf [3]span
	fresh := buf[:0]
	mid := span{from, end - from, p}
	if i < j && spans[i].start < from {
		left := span{spans[i].start, from - spans[i].start, spans[i].place}
		if left.place == p {
			mid = span{left.start, mid.end() - left.start, p}
		} else {
			fresh = append(fresh, left)
		}
	} else if i > 0 && spans[i-1].end() == from && spans[i-1].place == p {
		i--
		mid = span{spans[i].start, mid.end() - spans[i].start, p}
	}
	var right span
	if i < j && spans[j-1].end() > end {
		right = span{end, spans[j-1].end() - end, spans[j-1].place}
	} else if j < len(spans) && spans[j].start == end && spans[j].place == p {
		right = spans[j]
		j++
	}
	if right.count > 0 && right.place == p {
		mid.count += right.count
		right.count = 0
	}
	if p != nowhere {
		fresh = append(fresh, mid)
	}
	if right.count > 0 {
		fresh = append(fresh, right)
	}
	return slices.Replace(spans, i, j, fresh...), data
}

// own makes the node in slot, which holds b, nil for nothing, one that the map
// may change, and returns it.
func (m *extentMap) own(slot **mapNode, b *mapBody) *mapNode {
	mine := new(mapBody)
	if b != nil {
		mine.leafBytes = b.leafBytes
		switch {
		case b.kids != nil:
			mine.kids = new(*b.kids)
		case b.leaves != nil:
			mine.leaves = new(*b.leaves)
		default:
			mine.spans = append(make([]span, 0, len(b.spans)+4), b.spans...)
		}
	}
	*slot = m.newNode(mine)
	return *slot
}

// setNode gives the blocks from to before end, counted from the first of a node
// of blocks blocks, a place. The node is the map's own and has no kids. It
// returns by how many blocks with data the node has become more; it does nothing
// and returns false if what the node holds is missing.
func (m *extentMap) setNode(slot **mapNode, blocks, from, end uint64, p place) (data int64, ok bool) {
	n := *slot
	n.cell.mu.Lock()
	defer n.cell.mu.Unlock()
	b := n.body()
	if b == nil {
		return 0, false
	}
	if from == 0 && end == blocks {
		data = -int64(b.dataBlocks())
		*slot = nil
		if p != nowhere {
			*slot = m.newNode(&mapBody{spans: []span{{0, uint32(blocks), p}}})
		}
		if p.isData() {
			data += int64(blocks)
		}
		return data, true
	}
	if b.leaves != nil {
		data = m.setLeaves(b, from, end, p)
	} else {
		b.spans, data = replaceSpans(b.spans, uint32(from), uint32(end), p)
		if len(b.spans) > maxSpans {
			m.divide(b, blocks)
		}
	}
	m.cache.changed(n.cell)
	return data, true
}

// setLeaves is setNode for a node that has leaves.
func (m *extentMap) setLeaves(b *mapBody, from, end uint64, p place) (data int64) {
	settled := false
	for from < end {
		slot := &b.leaves[from/leafBlocks]
		i := from % leafBlocks
		count := min(leafBlocks-i, end-from)
		data -= int64((*slot).dataBlocks(int(i), int(i+count)))
		if p.isData() {
			data += int64(count)
		}
		before := *slot
		wasUniform, bytes := before.isUniform(), before.bytes()
		if count == leafBlocks {
			*slot = m.uniformLeaf(p)
		} else if *slot = before.with(m.edit, int(i), int(i+count), p); (*slot).isUniform() {
			*slot = m.uniformLeaf(p)
		}
		b.leafBytes += (*slot).bytes() - bytes
		settled = settled || !wasUniform && (*slot).isUniform()
		from += count
	}
	if settled {
		b.gather()
	}
	return data
}

// gather makes a list of spans of leaves that all are uniform.
func (b *mapBody) gather() {
	for _, l := range b.leaves {
		if !l.isUniform() {
			return
		}
	}
	var spans []span
	for i, l := range b.leaves {
		p := l.at(0)
		if p == nowhere {
			continue
		}
		start := uint32(i) * leafBlocks
		if k := len(spans) - 1; k >= 0 && spans[k].place == p && spans[k].end() == start {
			spans[k].count += leafBlocks
		} else {
			spans = append(spans, span{start, leafBlocks, p})
		}
	}
	b.spans, b.leaves = slices.Clip(spans), nil
}

// divide makes kids or leaves of the spans of a node of blocks blocks.
func (m *extentMap) divide(b *mapBody, blocks uint64) {
	spans := b.spans
	b.spans = nil
	if blocks == dirBlocks {
		b.kids = new([rootNodes]*mapNode)
		eachCut(spans, nodeBlocks, func(i uint32, cut []span) {
			b.kids[i] = m.newNode(&mapBody{spans: slices.Clone(cut)})
		})
		return
	}
	b.leaves = new([nodeLeaves]*leaf)
	var vals [leafBlocks]place
	eachCut(spans, leafBlocks, func(i uint32, cut []span) {
		if len(cut) == 1 && cut[0].count == leafBlocks {
			b.leaves[i] = m.uniformLeaf(cut[0].place)
			return
		}
		clear(vals[:])
		for _, s := range cut {
			fill(vals[s.start:s.end()], s.place)
		}
		b.leaves[i] = pack(m.edit, &vals)
		b.leafBytes += b.leaves[i].bytes()
	})
}

// eachCut cuts spans at the multiples of size and calls fn for each piece in
// which there are any, with its number and its spans, counted from its first
// block, which are valid until fn returns.
func eachCut(spans []span, size uint32, fn func(i uint32, cut []span)) {
	var cut []span
	piece := uint32(0)
	for _, s := range spans {
		for at := s.start; at < s.end(); {
			i := at / size
			if i != piece && len(cut) > 0 {
				fn(piece, cut)
				cut = cut[:0]
			}
			piece = i
			n := min(s.end()-at, size-at%size)
			cut = append(cut, span{at % size, n, s.place})
			at += n
		}
	}
	if len(cut) > 0 {
		fn(piece, cut)
	}
}

// dataBlocks counts the blocks with data of a body without kids.
func (b *mapBody) dataBlocks() (data uint64) {
	for _, s := range b.spans {
		if s.place.isData() {
			data += uint64(s.count)
		}
	}
	if b.leaves != nil {
		for _, l := range b.leaves {
			data += l.dataBlocks(0, leafBlocks)
		}
	}
	return data
}

// The encoding of a body without kids, little endian: a byte that is 0 before
// spans, each of 4 bytes start, 4 count, 4 place; 1 before as many leaves as a
// node has: a byte width, a byte with the number of places in the palette in
// use, and vals, 4 bytes each; of a uniform leaf its place.

// encode appends the encoding to out.
func (b *mapBody) encode(out []byte) []byte {
	le := binary.LittleEndian
	if b.leaves == nil {
		out = append(out, 0)
		for _, s := range b.spans {
			out = le.AppendUint32(out, s.start)
			out = le.AppendUint32(out, s.count)
			out = le.AppendUint32(out, uint32(s.place))
		}
		return out
	}
	out = append(out, 1)
	for _, l := range b.leaves {
		if l.isUniform() {
			out = append(out, 0, 0)
			out = le.AppendUint32(out, uint32(l.at(0)))
			continue
		}
		out = append(out, l.width, l.used)
		for _, v := range l.vals {
			out = le.AppendUint32(out, uint32(v))
		}
	}
	return out
}

var errBody = errors.New("the record is none of a node")

// decodeBody is the opposite of encode. No map may change the leaves in place.
func decodeBody(in []byte) (*mapBody, error) {
	if len(in) == 0 || in[0] > 1 || in[0] == 0 && (len(in)-1)%12 != 0 {
		return nil, errBody
	}
	b, le := new(mapBody), binary.LittleEndian
	leaves := in[0] == 1
	in = in[1:]
	if !leaves {
		b.spans = make([]span, 0, len(in)/12)
		for ; len(in) > 0; in = in[12:] {
			b.spans = append(b.spans, span{le.Uint32(in), le.Uint32(in[4:]), place(le.Uint32(in[8:]))})
		}
		return b, nil
	}
	b.leaves = new([nodeLeaves]*leaf)
	var uniform *leaf
	for i := range b.leaves {
		if len(in) < 6 {
			return nil, errBody
		}
		l := &leaf{width: in[0], used: in[1]}
		n := 1 // words
		switch in = in[2:]; l.width {
		case 0:
			if p := place(le.Uint32(in)); p == nowhere {
				l = nil
			} else if uniform != nil && uniform.uniform == p {
				l = uniform
			} else {
				l.uniform = p
				uniform = l
			}
		case 1, 2, 4:
			n = l.paletteLen() + leafBlocks*int(l.width)/32
		case 32:
			n = leafBlocks
		default:
			return nil, errBody
		}
		if len(in) < 4*n || l != nil && l.width < 32 && int(l.used) > l.paletteLen() {
			return nil, errBody
		}
		if !l.isUniform() {
			l.vals = make([]place, n)
			for k := range l.vals {
				l.vals[k] = place(le.Uint32(in[4*k:]))
			}
			b.leafBytes += l.bytes()
		}
		b.leaves[i], in = l, in[4*n:]
	}
	if len(in) > 0 {
		return nil, errBody
	}
	return b, nil
}
