package ext4

// sectorsToFree is how much less space inode in takes once a truncation to its
// size is finished, in units of 512 bytes. If its tree is damaged, or larger
// than maxTruncateNodes, the answer is 0.
func (f *FS) sectorsToFree(in *inode) int64 {
	t := in.typ()
	if t != modeRegular && t != modeDirectory || in.has(flagInlineData) {
		return 0
	}
	bs := f.sb.blockSize
	c := &freeCount{f: f, in: in, keep: fileBlock((in.size + bs - 1) / bs), budget: maxTruncateNodes}
	var ok bool
	if in.has(flagExtents) {
		m := &extentMap{f: f, in: in}
		if root, err := m.root(); err == nil {
			_, ok = c.extents(m, root)
		}
	} else {
		ok = c.indirect()
	}
	if free := c.blocks * (bs / 512); ok && free <= f.sectors(in) {
		return free
	}
	return 0
}

// freeCount counts the blocks that a truncation frees.
type freeCount struct {
	f      *FS
	in     *inode
	keep   fileBlock // blocks of the file from here on go
	budget int       // nodes of the tree that may still be read
	blocks int64
}

// extents counts below node. It says whether the node has anything left.
func (c *freeCount) extents(m *extentMap, node *extentNode) (left, ok bool) {
	for i := range node.len() {
		if node.depth == 0 {
			left = c.extent(node.extent(i)) || left
			continue
		}
		if c.budget--; c.budget < 0 {
			return false, false
		}
		child, err := m.child(node, i)
		if err != nil {
			return false, false
		}
		childLeft, ok := c.extents(m, child)
		if !ok {
			return false, false
		}
		if !childLeft {
			c.node()
		}
		left = left || childLeft
	}
	return left, true
}

// extent counts what goes of e. It says whether anything of it stays.
func (c *freeCount) extent(e extent) bool {
	if e.first >= c.keep {
		c.data(e.start, e.count)
		return false
	}
	if stay := uint64(c.keep - e.first); stay < e.count {
		c.data(e.start+fsBlock(stay), e.count-stay)
	}
	return true
}

// data counts n blocks of content. Of a cluster that is freed in part nothing
// is, so its last blocks count for it all.
func (c *freeCount) data(start fsBlock, n uint64) {
	ratio := c.f.sb.clusterRatio
	up := func(b uint64) uint64 { return (b + ratio - 1) / ratio }
	c.blocks += int64((up(uint64(start)+n) - up(uint64(start))) * ratio)
}

// node counts a block of the tree itself.
func (c *freeCount) node() { c.blocks += int64(c.f.sb.clusterRatio) }

// indirect counts in a block map.
func (c *freeCount) indirect() bool {
	b := c.in.blockArea()
	for i := range directBlocks {
		if p := le32(b[i*4:]); p != 0 && fileBlock(i) >= c.keep {
			c.data(fsBlock(p), 1)
		}
	}
	first, span := fileBlock(directBlocks), fileBlock(1)
	for level := range indirectLevels {
		span *= fileBlock(c.f.sb.blockSize / 4)
		if _, ok := c.pointers(fsBlock(le32(b[(directBlocks+level)*4:])), first, span); !ok {
			return false
		}
		first += span
	}
	return true
}

// pointers counts below pointer, whose span blocks of content begin at first.
// It says whether anything of them is left.
func (c *freeCount) pointers(pointer fsBlock, first, span fileBlock) (left, ok bool) {
	if pointer == 0 {
		return false, true
	}
	if span == 1 {
		if first < c.keep {
			return true, true
		}
		c.data(pointer, 1)
		return false, true
	}
	if c.budget--; c.budget < 0 {
		return false, false
	}
	b, err := c.f.block(pointer)
	if err != nil {
		return false, false
	}
	span /= fileBlock(c.f.sb.blockSize / 4)
	for ; len(b) > 0; b, first = b[4:], first+span {
		childLeft, ok := c.pointers(fsBlock(le32(b)), first, span)
		if !ok {
			return false, false
		}
		left = left || childLeft
	}
	if !left {
		c.node()
	}
	return left, true
}
