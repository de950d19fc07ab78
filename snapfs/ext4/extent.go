package ext4

import (
	"fmt"
	"sort"
	"sync/atomic"

	"github.com/rowan-storage/rowan/snapfs/ext4/crc32c"
)

// A tree of extents has its root in i_block and all other nodes in blocks of
// their own. A node is a header, struct ext4_extent_header,
//
//	0x0  eh_magic    0a f3
//	0x2  eh_entries  2 bytes
//	0x4  eh_max      2 bytes: how many entries there is room for
//	0x6  eh_depth    2 bytes; 0: a leaf
//
// and entries of the same size. Those of a leaf are extents, ext4_extent,
//
//	0x0  ee_block     first block of the file
//	0x4  ee_len       2 bytes; above 32,768: that much less, and not written
//	0x6  ee_start_hi  2 bytes
//	0x8  ee_start_lo  first block of the filesystem
//
// and those of other nodes point to nodes below, ext4_extent_idx:
//
//	0x0  ei_block    first block of the file that may be below
//	0x4  ei_leaf_lo  block of the node
//	0x8  ei_leaf_hi  2 bytes
//
// With metadata_csum, a node that is a block of its own has a CRC-32C of what
// comes before it, right behind the room for eh_max entries.
const (
	extentMagic     = 0xf30a
	extentEntrySize = 12
	extentMaxLen    = 32768
	extentMaxDepth  = 5
)

// extentMap is the block map of an inode with extents.
type extentMap struct {
	f  *FS
	in *inode

	// last is the leaf that was used last; sequential reads stay in it.
	last atomic.Pointer[extentNode]
}

// extentNode is a verified node. All that is below it lies in [first, end).
type extentNode struct {
	depth      int
	entries    []byte
	first, end fileBlock
}

func (m *extentMap) runAt(b fileBlock) (run, error) {
	if b >= maxFileBlocks {
		return run{}, m.in.corrupt("block %d of the file", b)
	}
	node := m.last.Load()
	if node == nil || b < node.first || b >= node.end {
		var err error
		if node, err = m.root(); err != nil {
			return run{}, err
		}
	}
	for node.depth > 0 {
		i := node.search(b)
		if i < 0 { // before the first
			return run{count: uint64(node.block(0) - b)}, nil
		}
		var err error
		if node, err = m.child(node, i); err != nil {
			return run{}, err
		}
	}
	m.last.Store(node)
	return node.leafRun(b), nil
}

// leafRun is the run from b on in a leaf.
func (n *extentNode) leafRun(b fileBlock) run {
	i := n.search(b)
	if i >= 0 {
		e := n.extent(i)
		if into := uint64(b - e.first); into < e.count {
			r := run{count: e.count - into}
			if !e.unwritten {
				r.start = e.start + fsBlock(into)
			}
			return r
		}
	}
	next := n.end
	if i+1 < n.len() {
		next = n.block(i + 1)
	}
	return run{count: uint64(next - b)}
}

func (n *extentNode) len() int           { return len(n.entries) / extentEntrySize }
func (n *extentNode) entry(i int) []byte { return n.entries[i*extentEntrySize : (i+1)*extentEntrySize] }

// block is the block of the file that entry i starts with.
func (n *extentNode) block(i int) fileBlock { return fileBlock(le32(n.entry(i))) }

// search finds the last entry that starts at b or before; -1 if there is none.
func (n *extentNode) search(b fileBlock) int {
	return sort.Search(n.len(), func(i int) bool { return n.block(i) > b }) - 1
}

// extent is a decoded entry of a leaf.
type extent struct {
	first     fileBlock
	start     fsBlock
	count     uint64
	unwritten bool
}

func (n *extentNode) extent(i int) extent { return parseExtent(n.entry(i)) }

func parseExtent(b []byte) extent {
	e := extent{
		first: fileBlock(le32(b)),
		start: fsBlock(join64(le32(b[8:]), uint32(le16(b[6:])))),
		count: uint64(le16(b[4:])),
	}
	if e.count > extentMaxLen {
		e.count -= extentMaxLen
		e.unwritten = true
	}
	return e
}

// pointer is the block that entry i of an inner node points to.
func (n *extentNode) pointer(i int) fsBlock {
	e := n.entry(i)
	return fsBlock(join64(le32(e[4:]), uint32(le16(e[8:]))))
}

func (m *extentMap) root() (*extentNode, error) {
	b := m.in.blockArea()
	depth := int(le16(b[6:]))
	if depth > extentMaxDepth {
		return nil, m.in.corrupt("extent tree of depth %d", depth)
	}
	place := func(problem string) error { return m.in.corrupt("root of the extent tree: %s", problem) }
	return m.f.sb.parseExtentNode(b, extentNode{depth: depth, end: maxFileBlocks}, place)
}

// child reads the node that entry i of n points to.
func (m *extentMap) child(n *extentNode, i int) (*extentNode, error) {
	block := n.pointer(i)
	place := func(problem string) error {
		return &CorruptError{
			fmt.Sprintf("extent tree of inode %d", m.in.ino),
			int64(block) * m.f.sb.blockSize, problem,
		}
	}
	b, err := m.f.block(block)
	if err != nil {
		return nil, fmt.Errorf("ext4: extent tree of inode %d: %w", m.in.ino, err)
	}
	if m.f.sb.hasMetadataCsum() {
		tail := extentEntrySize * (1 + int(le16(b[4:])))
		if tail+4 > len(b) {
			return nil, place("no room for the checksum")
		}
		if want, got := crc32c.Update(m.in.seed, b[:tail]), le32(b[tail:]); want != got {
			return nil, place(fmt.Sprintf("checksum %#08x, expected %#08x", got, want))
		}
	}
	expect := extentNode{depth: n.depth - 1, first: n.block(i), end: n.end}
	if i+1 < n.len() {
		expect.end = n.block(i + 1)
	}
	return m.f.sb.parseExtentNode(b, expect, place)
}

// parseExtentNode checks the node in b against what the one above it says: its
// depth, and where in the file it lies. The entries must be in order, not
// overlap, and point into the filesystem.
func (sb *superblock) parseExtentNode(b []byte, n extentNode, corrupt func(string) error) (*extentNode, error) {
	entries, room, depth := int(le16(b[2:])), int(le16(b[4:])), int(le16(b[6:]))
	switch {
	case le16(b) != extentMagic:
		return nil, corrupt(fmt.Sprintf("magic number %#04x", le16(b)))
	case depth != n.depth:
		return nil, corrupt(fmt.Sprintf("depth %d, expected %d", depth, n.depth))
	case entries > room || extentEntrySize*(1+room) > len(b):
		return nil, corrupt(fmt.Sprintf("%d entries of %d in %d bytes", entries, room, len(b)))
	case entries == 0 && depth > 0:
		return nil, corrupt("no entries, but a depth")
	}
	end := extentEntrySize * (1 + entries)
	n.entries = b[extentEntrySize:end:end]
	at := n.first // where the next entry may start
	for i := range entries {
		start, count, next := n.pointer(i), uint64(1), n.block(i)+1
		if n.depth == 0 {
			e := n.extent(i)
			start, count, next = e.start, e.count, e.first+fileBlock(e.count)
		}
		if n.block(i) < at || next > n.end || count == 0 {
			return nil, corrupt(fmt.Sprintf("entry %d, at block %d of the file, is out of order or overlaps", i, n.block(i)))
		}
		if !sb.validRange(start, count) {
			return nil, corrupt(fmt.Sprintf("entry %d: blocks %d+%d of %d", i, start, count, sb.blocks))
		}
		at = next
	}
	return &n, nil
}
