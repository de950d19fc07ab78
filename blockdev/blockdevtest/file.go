package blockdevtest

import (
	"io"
	"io/fs"
	"math"
	"sync/atomic"
	"syscall"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// file is an open file.
type file struct {
	s        session
	ino      uint64
	name     string
	writable bool
	closed   atomic.Bool
}

// enter locks the disk for an operation on a file that is open.
func (f *file) enter(op string) error {
	if err := f.s.enter(); err != nil {
		return pathError(op, f.name, err)
	}
	if f.closed.Load() {
		f.s.d.mu.Unlock()
		return pathError(op, f.name, fs.ErrClosed)
	}
	return nil
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.enter("read"); err != nil {
		return 0, err
	}
	defer f.s.d.mu.Unlock()
	if off < 0 {
		return 0, pathError("read", f.name, syscall.EINVAL)
	}
	if err := f.s.d.fault(ReadAt, f.name); err != nil {
		return 0, pathError("read", f.name, err)
	}
	c := f.s.d.st.inodes[f.ino].cache
	return c.readAt(p, off)
}

func (f *file) TryReadAt(p []byte, off int64) error {
	if err := f.s.enter(); err != nil {
		return err
	}
	never := f.s.d.opts.TryRead == TryReadNever ||
		(f.s.d.opts.TryRead == TryReadRandom && f.s.d.rng.IntN(2) == 0)
	f.s.d.mu.Unlock()
	if never {
		return blockfile.ErrWouldBlock
	}
	if n, err := f.ReadAt(p, off); n < len(p) || (err != nil && len(p) == 0) {
		return blockfile.ErrWouldBlock
	}
	return nil
}

// mutate is one mutating call on the file.
func (f *file) mutate(op string, c call) (int, error) {
	f.s.d.yield()
	if err := f.enter(op); err != nil {
		return 0, err
	}
	defer f.s.d.mu.Unlock()
	c.ino, c.name = f.ino, f.name
	switch {
	case !f.writable && c.class != Sync:
		return 0, pathError(op, f.name, syscall.EBADF)
	case c.off < 0 || c.n < 0 || c.off > math.MaxInt64-max(c.n, int64(len(c.data))):
		return 0, pathError(op, f.name, syscall.EINVAL)
	}
	n, err := f.s.d.mutate(c)
	if err != nil {
		return n, pathError(op, f.name, err)
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	return f.mutate("write", call{class: WriteAt, off: off, data: p})
}

func (f *file) Sync() error {
	_, err := f.mutate("sync", call{class: Sync})
	return err
}

func (f *file) Truncate(sizeBytes int64) error {
	_, err := f.mutate("truncate", call{class: Truncate, off: sizeBytes})
	return err
}

func (f *file) PunchHole(off, n int64) error {
	if n <= 0 {
		return pathError("punch", f.name, syscall.EINVAL) // as fallocate does
	}
	_, err := f.mutate("punch", call{class: PunchHole, off: off, n: n})
	return err
}

func (f *file) Size() (int64, error) {
	if err := f.enter("stat"); err != nil {
		return 0, err
	}
	defer f.s.d.mu.Unlock()
	return f.s.d.st.inodes[f.ino].cache.size, nil
}

func (f *file) Allocated() (int64, error) {
	if err := f.enter("stat"); err != nil {
		return 0, err
	}
	defer f.s.d.mu.Unlock()
	return f.s.d.st.inodes[f.ino].bytes(), nil
}

// NextData implements blockfile.DataSeeker by pages.
func (f *file) NextData(off int64) (start, end int64, err error) {
	if err := f.enter("seek"); err != nil {
		return 0, 0, err
	}
	defer f.s.d.mu.Unlock()
	c := &f.s.d.st.inodes[f.ino].cache
	for start = off; start < c.size && c.missing(start, 1) > 0; start = (start/pageSize + 1) * pageSize {
	}
	if start >= c.size {
		return 0, 0, io.EOF
	}
	for end = start; end < c.size && c.missing(end, 1) == 0; end = (end/pageSize + 1) * pageSize {
	}
	return start, min(end, c.size), nil
}

func (f *file) Close() error {
	if err := f.s.enter(); err != nil {
		return pathError("close", f.name, err)
	}
	defer f.s.d.mu.Unlock()
	if f.closed.Swap(true) {
		return pathError("close", f.name, fs.ErrClosed)
	}
	f.s.d.st.release(f.ino)
	return nil
}
