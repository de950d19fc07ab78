package ext4

import "github.com/rowan-storage/rowan/snapfs/tree"

// Range is a range of bytes of the image.
type Range struct{ Offset, Length int64 }

// ContentRanges gives where the content of a file, or the long target of a
// link, is: what no checksum covers.
func (f *FS) ContentRanges(ino tree.Ino) ([]Range, error) {
	in, err := f.usedInode(ino)
	if err != nil || in.has(flagInlineData) ||
		in.typ() != modeRegular && (in.typ() != modeSymlink || f.isShortLink(in)) {
		return nil, err
	}
	m, err := f.blockMap(in)
	if err != nil {
		return nil, err
	}
	bs := f.sb.blockSize
	runs, err := layOut(in, m, fileBlock((in.size+bs-1)/bs))
	var out []Range
	for _, r := range runs {
		if r.start != 0 {
			out = append(out, Range{int64(r.start) * bs, int64(r.count) * bs})
		}
	}
	return out, err
}

// JournalRanges gives where the journal is.
func (f *FS) JournalRanges() ([]Range, error) {
	j, err := f.journalFile()
	if err != nil {
		return nil, err
	}
	var out []Range
	for _, r := range j.runs {
		out = append(out, Range{int64(r.start) * f.sb.blockSize, int64(r.count) * f.sb.blockSize})
	}
	return out, nil
}

// BlockSize is the size of a block in bytes.
func (f *FS) BlockSize() int64 { return f.sb.blockSize }

// Structure is a piece of metadata that has a checksum.
type Structure struct {
	Kind string
	Ino  tree.Ino // of the file that it belongs to
	Range
}

// Structures gives the checksummed structures that file ino hangs on.
func (f *FS) Structures(ino tree.Ino) ([]Structure, error) {
	in, err := f.usedInode(ino)
	if err != nil {
		return nil, err
	}
	bs := f.sb.blockSize
	var out []Structure
	add := func(kind string, offset, length int64) {
		out = append(out, Structure{kind, ino, Range{offset, length}})
	}
	add("inode", in.offset, f.sb.inodeSize)
	g := (in.ino - 1) / f.sb.inodesPerGroup
	perBlock := uint32(bs / f.sb.descSize)
	add("group descriptor", int64(f.sb.descriptorBlock(g/perBlock))*bs+int64(g%perBlock)*f.sb.descSize, f.sb.descSize)
	if b := in.xattrBlock(f.sb); b != 0 {
		add("attribute block", int64(b)*bs, bs)
	}
	entries, err := f.inodeXattrs(in)
	if err != nil {
		return nil, err
	}
	more, err := f.blockXattrs(in)
	if err != nil {
		return nil, err
	}
	for _, x := range append(entries, more...) {
		if x.valueIno == 0 {
			continue
		}
		ea, err := f.inode(x.valueIno)
		if err != nil {
			return nil, err
		}
		m, err := f.blockMap(ea)
		if err != nil {
			return nil, err
		}
		r, err := m.runAt(0)
		if err != nil {
			return nil, err
		}
		add("attribute value", int64(r.start)*bs, min(ea.size, bs))
	}
	if in.has(flagInlineData) || in.typ() != modeRegular && in.typ() != modeDirectory {
		return out, nil
	}
	return out, f.treeStructures(in, add)
}

// treeStructures adds the nodes of the extent tree, and of a directory its
// blocks.
func (f *FS) treeStructures(in *inode, add func(kind string, offset, length int64)) error {
	bs := f.sb.blockSize
	m := &extentMap{f: f, in: in}
	root, err := m.root()
	if err != nil {
		return err
	}
	if root.depth > 0 {
		for i := range root.len() {
			add("extent node", int64(root.pointer(i))*bs, extentEntrySize)
		}
	}
	if in.typ() != modeDirectory {
		return nil
	}
	runs, err := layOut(in, m, fileBlock(in.size/bs))
	for _, r := range runs {
		for i := range r.count {
			b, err := f.block(r.start + fsBlock(i))
			if err != nil {
				return err
			}
			kind, length := "directory block", bs
			if number := r.at + fileBlock(i); f.isIndexBlock(in, b, number) {
				kind, length = "index node", dxNodeLimit+dxEntrySize
				if number == 0 {
					kind, length = "index root", dxRootLimit+dxEntrySize
				}
			}
			add(kind, int64(r.start+fsBlock(i))*bs, length)
		}
	}
	return err
}
