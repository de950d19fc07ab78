package blockdev

import "slices"

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

// mapNode maps the dirBlocks of an entry of the root, or nodeBlocks of such. One
// that holds little has a list of spans: ascending, none adjoining another of
// the same place. Else it is divided, into nodes (kids) or leaves.
type mapNode struct {
	edit   *editToken
	spans  []span
	kids   *[rootNodes]*mapNode
	leaves *[nodeLeaves]*leaf
}

// mapPart is a part of a map that is one list of spans or one leaf; with neither
// it is nowhere throughout.
type mapPart struct {
	base, blocks uint64
	spans        []span
	leaf         *leaf
}

func (pt *mapPart) end() uint64 { return pt.base + pt.blocks }

// partOf returns the part of a node of blocks blocks from base on that a block
// lies in.
func partOf(n *mapNode, base, blocks, block uint64) mapPart {
	for n != nil && n.kids != nil {
		i := (block - base) / nodeBlocks
		n, base, blocks = n.kids[i], base+i*nodeBlocks, nodeBlocks
	}
	switch {
	case n == nil:
		return mapPart{base: base, blocks: blocks}
	case n.leaves != nil:
		i := (block - base) / leafBlocks
		return mapPart{base: base + i*leafBlocks, blocks: leafBlocks, leaf: n.leaves[i]}
	}
	return mapPart{base: base, blocks: blocks, spans: n.spans}
}

// run returns the place of a block of the part and the end of the blocks from
// it on, within the part, that surely share it.
func (pt *mapPart) run(block uint64) (p place, end uint64) {
	at := block - pt.base
	if pt.leaf != nil {
		p, j := pt.leaf.run(int(at), leafBlocks)
		return p, pt.base + uint64(j)
	}
	i := spanAfter(pt.spans, uint32(at))
	switch {
	case i == len(pt.spans):
		return nowhere, pt.end()
	case uint64(pt.spans[i].start) > at:
		return nowhere, pt.base + uint64(pt.spans[i].start)
	}
	return pt.spans[i].place, pt.base + uint64(pt.spans[i].end())
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

// own returns the node in slot as one that a map may change.
func own(slot **mapNode, edit *editToken) *mapNode {
	n := *slot
	if n != nil && n.edit == edit {
		return n
	}
	mine := &mapNode{edit: edit}
	switch {
	case n == nil:
	case n.kids != nil:
		mine.kids = new(*n.kids)
	case n.leaves != nil:
		mine.leaves = new(*n.leaves)
	default:
		mine.spans = append(make([]span, 0, len(n.spans)+4), n.spans...)
	}
	*slot = mine
	return mine
}

// set gives the blocks from to before end, counted from the first of a node of
// blocks blocks, a place. It returns by how many blocks with data the node has
// become more.
func (m *extentMap) setNode(slot **mapNode, blocks, from, end uint64, p place) (data int64) {
	if from == 0 && end == blocks {
		data -= int64(dataOf(*slot, blocks))
		*slot = nil
		if p == nowhere {
			return data
		}
	}
	n := own(slot, m.edit)
	switch {
	case n.kids != nil:
		for from < end {
			i := from / nodeBlocks
			to := min(end, (i+1)*nodeBlocks)
			data += m.setNode(&n.kids[i], nodeBlocks, from-i*nodeBlocks, to-i*nodeBlocks, p)
			from = to
		}
	case n.leaves != nil:
		data += m.setLeaves(n, from, end, p)
	default:
		spans, more := replaceSpans(n.spans, uint32(from), uint32(end), p)
		n.spans = spans
		data += more
		if len(spans) > maxSpans {
			m.divide(n, blocks)
		}
	}
	return data
}

// setLeaves is setNode for a node that has leaves.
func (m *extentMap) setLeaves(n *mapNode, from, end uint64, p place) (data int64) {
	settled := false
	for from < end {
		slot := &n.leaves[from/leafBlocks]
		i := from % leafBlocks
		count := min(leafBlocks-i, end-from)
		data -= int64((*slot).dataBlocks(int(i), int(i+count)))
		if p.isData() {
			data += int64(count)
		}
		before := *slot
		if count == leafBlocks {
			*slot = m.uniformLeaf(p)
		} else if *slot = before.with(m.edit, int(i), int(i+count), p); (*slot).isUniform() {
			*slot = m.uniformLeaf(p)
		}
		settled = settled || !before.isUniform() && (*slot).isUniform()
		from += count
	}
	if settled {
		n.gather()
	}
	return data
}

// gather makes a list of spans of a node whose leaves are all uniform.
func (n *mapNode) gather() {
	for _, l := range n.leaves {
		if !l.isUniform() {
			return
		}
	}
	var spans []span
	for i, l := range n.leaves {
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
	n.spans, n.leaves = slices.Clip(spans), nil
}

// divide makes kids or leaves of the spans of a node.
func (m *extentMap) divide(n *mapNode, blocks uint64) {
	spans := n.spans
	n.spans = nil
	if blocks == dirBlocks {
		n.kids = new([rootNodes]*mapNode)
		eachCut(spans, nodeBlocks, func(i uint32, cut []span) {
			n.kids[i] = &mapNode{edit: m.edit, spans: slices.Clone(cut)}
		})
		return
	}
	n.leaves = new([nodeLeaves]*leaf)
	var vals [leafBlocks]place
	eachCut(spans, leafBlocks, func(i uint32, cut []span) {
		if len(cut) == 1 && cut[0].count == leafBlocks {
			n.leaves[i] = m.uniformLeaf(cut[0].place)
			return
		}
		clear(vals[:])
		for _, s := range cut {
			fill(vals[s.start:s.end()], s.place)
		}
		n.leaves[i] = pack(m.edit, &vals)
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

// dataOf counts the blocks with data of a node of blocks blocks.
func dataOf(n *mapNode, blocks uint64) (data uint64) {
	for at := uint64(0); n != nil && at < blocks; {
		pt := partOf(n, 0, blocks, at)
		for at < pt.end() {
			p, end := pt.run(at)
			if p.isData() {
				data += end - at
			}
			at = end
		}
	}
	return data
}
