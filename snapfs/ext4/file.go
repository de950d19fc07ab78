package ext4

import (
	"errors"
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
