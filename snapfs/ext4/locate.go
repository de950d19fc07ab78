package ext4

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/rowan-storage/rowan/snapfs/tree"
)

var _ tree.Locator = (*FS)(nil)

// Locate tells what parts of the image belong to. It reads all inodes that are
// or were in use, and the block maps of those that are. What a journal would
// write is not told apart: a block that it replaces belongs to whom it belonged
// to.
func (f *FS) Locate(ctx context.Context, ranges []tree.Range, yield func(int, tree.Owner)) error {
	l := &locator{f: f, ctx: ctx, wanted: newWanted(ranges), yield: yield}
	l.fixed(0, uint64(superblockOffset+superblockSize), "superblock")
	l.fixed(f.sb.blocks*uint64(f.sb.blockSize), 1<<62, "space beyond the end of the filesystem")
	if b := f.sb.mmpBlock; b != 0 {
		l.own(b, 1, "multiple mount protection")
	}
	for g := range f.sb.groups {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("ext4: %w", err)
		}
		l.copies(g)
		d, err := f.group(g)
		if err != nil {
			l.failed(err)
			continue
		}
		l.tables(g, d)
		if err := l.inodes(g, d); err != nil {
			return err
		}
	}
	if l.failures > 1 {
		return fmt.Errorf("%w (and %d more)", l.first, l.failures-1)
	}
	return l.first
}

// locator is one search.
type locator struct {
	f      *FS
	ctx    context.Context
	wanted *wanted
	yield  func(int, tree.Owner)

	first    error // to read something
	failures int
}

func (l *locator) failed(err error) {
	if l.first == nil {
		l.first = err
	}
	l.failures++
}

// fixed tells of bytes that have their place for good.
func (l *locator) fixed(start, end uint64, what string) {
	l.wanted.hits(start, end, func(i int) { l.yield(i, tree.Owner{Part: what}) })
}

// own tells of blocks that are the filesystem's own.
func (l *locator) own(start fsBlock, n uint64, what string) {
	bs := uint64(l.f.sb.blockSize)
	l.fixed(uint64(start)*bs, (uint64(start)+n)*bs, what)
}

// owned tells of blocks of a file.
func (l *locator) owned(in *inode, start fsBlock, n uint64, part string) {
	o := tree.Owner{Ino: tree.Ino(in.ino), Part: part}
	if what := l.f.reserved(in.ino); what != "" {
		o = tree.Owner{Part: what}
	}
	bs := uint64(l.f.sb.blockSize)
	l.wanted.hits(uint64(start)*bs, (uint64(start)+n)*bs, func(i int) { l.yield(i, o) })
}

// reserved names the inodes that belong to the filesystem; "" for others.
func (f *FS) reserved(ino uint32) string {
	switch {
	case ino == f.sb.journalIno && f.sb.compat&compatHasJournal != 0:
		return "journal"
	case ino == f.sb.orphanFileIno && f.sb.compat&compatOrphanFile != 0:
		return "list of orphans"
	case ino == resizeIno:
		return "room for group descriptors"
	case ino != rootIno && ino < f.sb.firstIno:
		return fmt.Sprintf("reserved inode %d", ino)
	}
	return ""
}

// resizeIno has the blocks that group descriptors can grow into.
const resizeIno = 7

// copies tells of the superblock and the group descriptors in group g.
func (l *locator) copies(g uint32) {
	sb := l.f.sb
	perBlock := uint32(sb.blockSize / sb.descSize)
	start := fsBlock(sb.groupStart(g))
	old := (sb.groups + perBlock - 1) / perBlock // blocks of descriptors that follow a superblock
	if sb.incompat&incompatMetaBG != 0 {
		old = min(old, sb.firstMetaBG)
		if i := g / perBlock; i >= sb.firstMetaBG {
			if within := g % perBlock; within == 0 {
				l.own(sb.descriptorBlock(i), 1, "group descriptors")
			} else if within == 1 || within == perBlock-1 {
				at := start
				if sb.groupHasSuper(g) {
					at++
				}
				l.own(at, 1, "copy of the group descriptors")
			}
		}
	}
	if !sb.groupHasSuper(g) {
		return
	}
	if g == 0 {
		l.own(sb.descriptorBlock(0), uint64(old), "group descriptors")
		return
	}
	l.own(start, 1, "copy of the superblock")
	l.own(start+1, uint64(old), "copy of the group descriptors")
}

// tables tells of the bitmaps and the inode table of group g.
func (l *locator) tables(g uint32, d group) {
	l.own(d.blockBitmap, 1, "block bitmap")
	l.own(d.inodeBitmap, 1, "inode bitmap")
	n := l.f.sb.inodeTableBlocks()
	l.own(d.inodeTable, n, "inode table")
	bs, size := uint64(l.f.sb.blockSize), uint64(l.f.sb.inodeSize)
	base := uint64(d.inodeTable) * bs
	used := l.f.inUse(g, d)
	l.wanted.overlaps(base, base+n*bs, func(i int, start, end uint64) {
		last := min((end-base+size-1)/size, uint64(l.f.sb.inodesPerGroup))
		for k := (start - base) / size; k < last && l.ctx.Err() == nil; k++ {
			ino := g*l.f.sb.inodesPerGroup + uint32(k) + 1
			if used(uint32(k)) && l.f.reserved(ino) == "" {
				l.yield(i, tree.Owner{Ino: tree.Ino(ino), Part: tree.Inode})
			}
		}
	})
}

// inUse tells which inodes of group g are in use, all that may be if the bitmap
// cannot be read.
func (f *FS) inUse(g uint32, d group) func(k uint32) bool {
	end := f.sb.inodesPerGroup - min(d.unusedInodes, f.sb.inodesPerGroup)
	bitmap, err := f.block(d.inodeBitmap)
	return func(k uint32) bool {
		if k >= end {
			return false
		}
		return err != nil || bitmap[k/8]&(1<<(k%8)) != 0
	}
}

// inodes tells of the blocks of all files of group g.
func (l *locator) inodes(g uint32, d group) error {
	sb := l.f.sb
	perBlock := uint32(max(sb.blockSize/sb.inodeSize, 1))
	end := sb.inodesPerGroup - min(d.unusedInodes, sb.inodesPerGroup)
	for k := uint32(0); k < end; k++ {
		if err := l.ctx.Err(); err != nil {
			return fmt.Errorf("ext4: %w", err)
		}
		ino := uint64(g)*uint64(sb.inodesPerGroup) + uint64(k) + 1
		if ino > uint64(sb.inodes) {
			return nil
		}
		in, err := l.f.liveInode(uint32(ino))
		switch {
		case err == nil && in != nil:
			err = l.blocks(in)
		case err != nil && !errors.Is(err, ErrCorrupt):
			k += perBlock - 1 - k%perBlock // none of the block can be read
		}
		if ctxErr := l.ctx.Err(); ctxErr != nil {
			return fmt.Errorf("ext4: %w", ctxErr)
		}
		if err != nil {
			l.failed(err)
		}
	}
	return nil
}

// liveInode is an inode that may have blocks; nil if it is not in use.
func (f *FS) liveInode(ino uint32) (*inode, error) {
	if p := f.patches[ino]; p != nil {
		if p.free {
			return nil, nil
		}
		return p.inode(f, ino)
	}
	raw, offset, err := f.rawInode(ino)
	if err != nil || le16(raw) == 0 || le16(raw[inodeLinks:]) == 0 {
		return nil, err
	}
	return f.verifyInode(ino, raw, offset)
}

// blocks tells of all blocks of a file.
func (l *locator) blocks(in *inode) error {
	if b := in.xattrBlock(l.f.sb); b != 0 {
		l.owned(in, b, 1, tree.Attributes)
	}
	switch in.typ() {
	case modeRegular, modeDirectory:
	case modeSymlink:
		if l.f.isShortLink(in) {
			return nil
		}
	default:
		return nil
	}
	if in.has(flagInlineData) {
		return nil
	}
	if p := l.f.patches[in.ino]; p != nil {
		for _, r := range p.ranges {
			if r.start != 0 {
				l.owned(in, r.start, r.count, tree.Content)
			}
		}
		if p.fresh {
			return nil
		}
	}
	if in.has(flagExtents) {
		m := &extentMap{f: l.f, in: in}
		root, err := m.root()
		if err != nil {
			return err
		}
		return l.extents(m, root)
	}
	for i := range directBlocks + indirectLevels {
		b := fsBlock(le32(in.blockArea()[i*4:]))
		if err := l.indirect(in, b, max(i-directBlocks+1, 0)); err != nil {
			return err
		}
	}
	return nil
}

// extents tells of all below a node. With an error of one branch it goes on
// with the next.
func (l *locator) extents(m *extentMap, n *extentNode) error {
	var first error
	for i := range n.len() {
		if err := l.ctx.Err(); err != nil {
			return err
		}
		if n.depth == 0 {
			e, part := n.extent(i), tree.Content
			if e.unwritten {
				part = tree.Unwritten
			}
			l.owned(m.in, e.start, e.count, part)
			continue
		}
		l.owned(m.in, n.pointer(i), 1, tree.BlockMap)
		child, err := m.child(n, i)
		if err == nil {
			err = l.extents(m, child)
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// indirect tells of block b of a file and, where level is not 0, of what it
// points to.
func (l *locator) indirect(in *inode, b fsBlock, level int) error {
	if err := l.ctx.Err(); err != nil || b == 0 {
		return err
	}
	if level == 0 {
		l.owned(in, b, 1, tree.Content)
		return nil
	}
	l.owned(in, b, 1, tree.BlockMap)
	pointers, err := l.f.block(b)
	if err != nil {
		return fmt.Errorf("ext4: block map of inode %d: %w", in.ino, err)
	}
	var first error
	for ; len(pointers) >= 4; pointers = pointers[4:] {
		if err := l.indirect(in, fsBlock(le32(pointers)), level-1); first == nil {
			first = err
		}
	}
	return first
}

// wanted finds those of some ranges that overlap another.
type wanted struct {
	ranges []wantedRange // by start
	ends   []uint64      // the greatest end of the ranges up to each
}

type wantedRange struct {
	start, end uint64
	i          int
}

func newWanted(ranges []tree.Range) *wanted {
	w := &wanted{}
	for i, r := range ranges {
		if r.OffsetBytes >= 0 && r.LengthBytes > 0 {
			w.ranges = append(w.ranges, wantedRange{uint64(r.OffsetBytes), uint64(r.OffsetBytes) + uint64(r.LengthBytes), i})
		}
	}
	slices.SortFunc(w.ranges, func(a, b wantedRange) int { return cmp.Compare(a.start, b.start) })
	end := uint64(0)
	for _, r := range w.ranges {
		end = max(end, r.end)
		w.ends = append(w.ends, end)
	}
	return w
}

// overlaps calls yield with each range that overlaps [start, end), and what both
// share.
func (w *wanted) overlaps(start, end uint64, yield func(i int, start, end uint64)) {
	k := sort.Search(len(w.ranges), func(k int) bool { return w.ranges[k].start >= end })
	for k--; k >= 0 && w.ends[k] > start; k-- {
		if r := w.ranges[k]; r.end > start {
			yield(r.i, max(start, r.start), min(end, r.end))
		}
	}
}

func (w *wanted) hits(start, end uint64, yield func(i int)) {
	w.overlaps(start, end, func(i int, _, _ uint64) { yield(i) })
}
