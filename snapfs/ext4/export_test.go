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
