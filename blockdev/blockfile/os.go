package blockfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"

	"golang.org/x/sys/unix"
)

// OS returns the tree of files below a directory of the host, which must
// exist.
func OS(dir string) FS { return osFS{dir} }

type osFS struct{ dir string }

func (o osFS) path(name string) string { return filepath.Join(o.dir, filepath.FromSlash(name)) }

func (o osFS) Open(name string, flag int) (File, error) {
	f, err := os.OpenFile(o.path(name), flag, 0o600)
	if err != nil {
		return nil, err
	}
	return &osFile{File: f, fd: int(f.Fd())}, nil
}

// OpenDirect implements DirectOpener by O_DIRECT.
func (o osFS) OpenDirect(name string) (File, error) {
	f, err := o.Open(name, os.O_RDONLY|unix.O_DIRECT)
	if errors.Is(err, unix.EINVAL) { // tmpfs before Linux 6.6
		return o.Open(name, os.O_RDONLY)
	}
	return f, err
}

func (o osFS) Remove(name string) error { return os.Remove(o.path(name)) }

func (o osFS) Rename(oldName, newName string) error {
	return os.Rename(o.path(oldName), o.path(newName))
}

func (o osFS) Mkdir(name string) error { return os.Mkdir(o.path(name), 0o700) }

func (o osFS) ReadDir(name string) ([]string, error) {
	d, err := os.Open(o.path(name))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	sort.Strings(names)
	return names, err
}

func (o osFS) SyncDir(name string) error {
	d, err := os.Open(o.path(name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (o osFS) OpenTable(name string) (Table, error) { return openTable(o.path(name)) }

func (o osFS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(o.path(name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = retryEINTR(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, ErrLocked
	}
	return nil, &fs.PathError{Op: "flock", Path: name, Err: err}
}

func (o osFS) Space() (totalBytes, freeBytes int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(o.dir, &st); err != nil {
		return 0, 0, &fs.PathError{Op: "statfs", Path: o.dir, Err: err}
	}
	unit := st.Frsize
	if unit == 0 {
		unit = st.Bsize
	}
	return int64(st.Blocks) * unit, int64(st.Bavail) * unit, nil
}

// osFile is a File of the host. fd is kept because os.File.Fd costs a lock on
// every call; it is valid until Close.
type osFile struct {
	*os.File
	fd int
}

// writeBytes is the most that one pwrite(2) is given. The page cache holds what
// one call writes in folios up to that large, and ext4 looks at every 4 KiB
// buffer of a folio whenever a part of it is written: after writes of 1 MiB,
// random writes of 4 KiB were seven times slower than after writes of 64 KiB
// (docs/decisions/0002).
const writeBytes = 64 << 10

func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := f.File.WriteAt(p[done:min(len(p), done+writeBytes)], off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

func (f *osFile) TryReadAt(p []byte, off int64) error {
	for len(p) > 0 {
		n, err := unix.Preadv2(f.fd, [][]byte{p}, off, unix.RWF_NOWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return ErrWouldBlock
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

func (f *osFile) Sync() error {
	return f.wrap("fdatasync", retryEINTR(func() error { return unix.Fdatasync(f.fd) }))
}

func (f *osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (f *osFile) PunchHole(off, n int64) error {
	if n <= 0 {
		return f.wrap("punch hole", fmt.Errorf("length %d: %w", n, unix.EINVAL))
	}
	return f.wrap("punch hole", retryEINTR(func() error {
		return unix.Fallocate(f.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	}))
}

// Allocate implements Allocator by fallocate(2).
func (f *osFile) Allocate(off, n int64) error {
	return f.wrap("allocate", retryEINTR(func() error { return unix.Fallocate(f.fd, 0, off, n) }))
}

func (f *osFile) Allocated() (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return 0, f.wrap("fstat", err)
	}
	return st.Blocks * 512, nil
}

// NextData implements DataSeeker by lseek(2) with SEEK_DATA and SEEK_HOLE.
func (f *osFile) NextData(off int64) (start, end int64, err error) {
	start, err = unix.Seek(f.fd, off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, io.EOF
	}
	if err != nil {
		return 0, 0, f.wrap("seek data", err)
	}
	end, err = unix.Seek(f.fd, start, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, f.wrap("seek hole", err)
	}
	return start, end, nil
}

func (f *osFile) wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: f.Name(), Err: err}
}

func retryEINTR(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
