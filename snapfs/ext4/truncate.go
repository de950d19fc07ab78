package ext4

import "errors"

// sectorsToFree is how much less space inode in takes once a truncation to its
// size is finished, in units of 512 bytes. If its tree is damaged, or larger
// than maxTruncateNodes, the answer is 0. It is worked out once.
func (f *FS) sectorsToFree(in *inode) int64 {
	if free, ok := f.toFree.get(in.ino); ok {
		return free
	}
	free, final := f.countToFree(in)
	if final {
		f.toFree.put(in.ino, free, 1)
	}
	return free
}

// countToFree works out sectorsToFree. It is final unless a read failed that may
// succeed another time.
func (f *FS) countToFree(in *inode) (free int64, final bool) {
	t := in.typ()
	if t != modeRegular && t != modeDirectory || in.has(flagInlineData) {
		return 0, true
	}
	bs := f.sb.blockSize
	c := &freeCount{f: f, in: in, keep: fileBlock((in.size + bs - 1) / bs), budget: maxTruncateNodes, cluster: -1}
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
		return free, true
	}
	return 0, c.err == nil || errors.Is(c.err, ErrCorrupt) || errors.Is(c.err, errBeyondImage)
}

// freeCount counts the blocks that a truncation frees.
type freeCount struct {
	f      *FS
	in     *inode
	keep   fileBlock // blocks of the file from here on go
	budget int       // nodes of the tree that may still be read
	blocks int64
	err    error // of reading the tree

	// cluster is the last cluster of the file that was seen. In the file and on
	// disk clusters have the same edges, and a cluster is freed as a whole, once
	// nothing in it stays.
	cluster int64
}

// extents counts below node. It says whether the node has anything left.
func (c *freeCount) extents(m *extentMap, node *extentNode) (left, ok bool) {
	for i := range node.len() {
		if node.depth == 0 {
			e := node.extent(i)
			left = c.data(e.first, e.count) || left
			continue
		}
		if c.budget--; c.budget < 0 {
			return false, false
		}
		child, err := m.child(node, i)
		if err != nil {
			c.err = err
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

// data counts what goes of n blocks of the file from first on, and says whether
// anything of them stays. It has to be called in the order of the file.
func (c *freeCount) data(first fileBlock, n uint64) bool {
	ratio := int64(c.f.sb.clusterRatio)
	end := first + fileBlock(n)
	stays := first < c.keep
	if stays {
		c.cluster = int64(min(end, c.keep)-1) / ratio
		first = c.keep
	}
	if first < end {
		from, to := int64(first)/ratio, int64(end-1)/ratio
		if from == c.cluster {
			from++
		}
		c.blocks += (to - from + 1) * ratio
		c.cluster = to
	}
	return stays
}

// node counts a block of the tree itself.
func (c *freeCount) node() { c.blocks += int64(c.f.sb.clusterRatio) }

// indirect counts in a block map.
func (c *freeCount) indirect() bool {
	b := c.in.blockArea()
	for i := range directBlocks {
		if le32(b[i*4:]) != 0 {
			c.data(fileBlock(i), 1)
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
		return c.data(first, 1), true
	}
	if c.budget--; c.budget < 0 {
		return false, false
	}
	b, err := c.f.block(pointer)
	if err != nil {
		c.err = err
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
