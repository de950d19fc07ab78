package snapfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
)

// File is an open regular file. It is safe for concurrent use. Until it is
// closed the image that it lies in stays open.
type File struct {
	sizeBytes int64
	content   io.ReaderAt
	// extents tells where there is data, nil if that is not known.
	extents func(ctx context.Context, off, n int64, yield func(int64, bool) bool) error
	release func() // nil if there is nothing to release
	once    sync.Once
}

// textFile is a file with a content made here.
func textFile(text string) *File {
	return &File{sizeBytes: int64(len(text)), content: strings.NewReader(text)}
}

// Size is the length of the file in bytes.
func (f *File) Size() int64 { return f.sizeBytes }

// ReadAt reads at off. It returns io.EOF with a read that reaches the end of
// the file, and another error with any other read that is short.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &Error{Object: "file", Class: syscall.EINVAL, Cause: errors.New("negative offset")}
	}
	if off >= f.sizeBytes {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), f.sizeBytes-off)]
	n, err := f.content.ReadAt(want, off)
	if n < len(want) {
		if err == nil || errors.Is(err, io.EOF) {
			err = &Error{Object: "file", Class: ErrDamaged, Cause: fmt.Errorf("%w: its content ends at %d, its size is %d", io.ErrUnexpectedEOF, off+int64(n), f.sizeBytes)}
		}
		return n, err
	}
	if len(want) < len(p) || off+int64(n) == f.sizeBytes {
		return n, io.EOF
	}
	return n, nil
}

// Extents tells where [off, off+n) holds data, see Extenter. Where that is not
// known all of it counts as data. The range must lie in the file.
func (f *File) Extents(ctx context.Context, off, n int64, yield func(lengthBytes int64, data bool) bool) error {
	if off < 0 || n < 0 || off > f.sizeBytes-n {
		return &Error{Object: "file", Class: syscall.EINVAL, Cause: errors.New("range outside of the file")}
	}
	if n == 0 {
		return nil
	}
	if f.extents == nil {
		yield(n, true)
		return nil
	}
	return f.extents(ctx, off, n, yield)
}

// Close gives back what the file holds. Reads must have ended.
func (f *File) Close() error {
	f.once.Do(func() {
		if f.release != nil {
			f.release()
		}
	})
	return nil
}
