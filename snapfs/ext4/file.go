package ext4

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// File is the content of a file. It is safe for concurrent use.
type File struct {
	f      *FS
	size   int64
	inline []byte   // content kept in the inode, if blocks is nil
	blocks blockMap // where the content is
}

// Size is the length of the content in bytes.
func (fl *File) Size() int64 { return fl.size }

// ReadAt reads as [io.ReaderAt] says. What is missing in the image is an error
// that is not io.EOF.
func (fl *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("ext4: negative offset")
	}
	if off >= fl.size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > fl.size-off {
		p, eof = p[:fl.size-off], io.EOF
	}
	if fl.blocks == nil {
		copy(p, fl.inline[off:])
		return len(p), eof
	}
	bs := fl.f.sb.blockSize
	done := 0
	for done < len(p) {
		at := off + int64(done)
		r, err := fl.blocks.runAt(fileBlock(at / bs))
		if err != nil {
			return done, err
		}
		within := at % bs
		n := min(int64(len(p)-done), clampMul(r.count, bs)-within)
		part := p[done : done+int(n)]
		if r.start == 0 {
			clear(part)
		} else if err := fl.f.image.readAt(part, int64(r.start)*bs+within); err != nil {
			return done, err
		}
		done += int(n)
	}
	return done, eof
}

// extentPieceBytes is how long a range that is told by Extents gets by putting
// pieces of the file together: enough for those who read it to do so in one go,
// and not so much that who wants the next byte of data waits for the end of it.
const extentPieceBytes = 1 << 20

// Extents tells where [off, off+n), a range of the file, holds data: it covers it
// in order with ranges of more than 0 bytes, and stops when yield returns false.
// Holes, and what is allocated but was never written, are not data and read as
// zeros. A range ends where a block does, or with [off, off+n).
func (fl *File) Extents(ctx context.Context, off, n int64, yield func(lengthBytes int64, data bool) bool) error {
	if off < 0 || n < 0 || off > fl.size-n {
		return fmt.Errorf("ext4: extents of %d bytes at %d of %d: outside of the file", n, off, fl.size)
	}
	if fl.blocks == nil {
		if n > 0 {
			yield(n, true)
		}
		return nil
	}
	bs, end := fl.f.sb.blockSize, off+n
	length, data := int64(0), false // of what is not told yet, and ends at off
	for off < end {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("ext4: extents: %w", err)
		}
		r, err := fl.blocks.runAt(fileBlock(off / bs))
		if err != nil {
			return err
		}
		if length > 0 && (data != (r.start != 0) || length >= extentPieceBytes) {
			if !yield(length, data) {
				return nil
			}
			length = 0
		}
		piece := min(end-off, clampMul(r.count, bs)-off%bs)
		length, data, off = length+piece, r.start != 0, off+piece
	}
	if length > 0 {
		yield(length, data)
	}
	return nil
}

// clampMul is count blocks in bytes, or a number larger than any buffer.
func clampMul(count uint64, blockSize int64) int64 {
	const huge = 1 << 40
	if count > huge {
		count = huge
	}
	return int64(count) * blockSize
}

// content opens what inode in holds, whatever its type.
func (f *FS) content(in *inode) (*File, error) {
	fl := &File{f: f, size: in.size}
	if in.has(flagInlineData) {
		data, err := f.inlineData(in)
		if err != nil {
			return nil, err
		}
		if int64(len(data)) < in.size {
			return nil, in.corrupt("size %d with %d bytes of inline data", in.size, len(data))
		}
		fl.inline = data[:in.size]
		return fl, nil
	}
	var err error
	fl.blocks, err = f.blockMap(in)
	return fl, err
}
