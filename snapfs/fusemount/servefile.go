package fusemount

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs"
)

// BlockDevice is what a served file stands for. Errors that carry a
// syscall.Errno reach the caller as that errno, others as EIO. Its methods are
// safe for concurrent use.
type BlockDevice interface {
	io.ReaderAt
	io.WriterAt
	Size() int64                                     // bytes; may grow
	Flush(ctx context.Context) error                 // every acknowledged write is durable on return
	Discard(ctx context.Context, off, n int64) error // reads as zeros afterwards
	WriteZeroes(ctx context.Context, off, n int64) error
}

// FileOptions sets up a served file. The zero value is ready to use.
type FileOptions struct {
	Logger   *slog.Logger // nil: nothing is logged
	Name     string       // of the file; "disk" if it is empty
	Source   string       // shown as the device of the mount; "rowan" if it is empty
	ReadOnly bool
}

// FileServer is a mount that holds one regular file.
type FileServer struct {
	*Server
	path string
}

// ServeFile mounts one regular file on a directory, which must exist: a file
// that stands for dev, readable and writable by the user who mounts alone, fit
// for a loop device with or without direct I/O. The caller takes away what is
// on the file first and then ends the mount; dev is not closed.
//
// Where it may, ServeFile marks the whole process as one that writes for the
// kernel (PR_SET_IO_FLUSHER, prctl(2)): what it needs of memory while the
// machine is short of it must not wait for writes to dev.
func ServeFile(dir string, dev BlockDevice, o FileOptions) (*FileServer, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Name == "" {
		o.Name = "disk"
	}
	if o.Source == "" {
		o.Source = subtype
	}
	if err := markFlusher(); err != nil {
		o.Logger.Debug("not marked as a process that writes for the kernel", "error", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &deviceFile{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		dev:           dev,
		name:          o.Name,
		ctx:           ctx,
		cancel:        cancel,
		log:           o.Logger,
		made:          time.Now(),
		readOnly:      o.ReadOnly,
	}
	s, err := newServer(dir, f, mountOptions{
		source: o.Source, readOnly: o.ReadOnly, log: o.Logger,
		// Direct I/O of a loop device is asynchronous only with this.
		extra: fuse.CAP_ASYNC_DIO,
	})
	if err != nil {
		cancel()
		return nil, err
	}
	return &FileServer{Server: s, path: filepath.Join(s.dir, o.Name)}, nil
}

// Path is the path of the file.
func (s *FileServer) Path() string { return s.path }

// markFlusher marks every thread of the process, and so those that they will
// start. It fails in programs that use cgo and without CAP_SYS_RESOURCE.
func markFlusher() error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// fileNode is the node of the file; its directory is fuse.FUSE_ROOT_ID.
const fileNode = 2

// deviceFile serves the file.
type deviceFile struct {
	fuse.RawFileSystem // ENOSYS for what is not here

	dev      BlockDevice
	name     string
	ctx      context.Context // until the mount ends
	cancel   context.CancelFunc
	log      *slog.Logger
	made     time.Time
	readOnly bool
}

func (f *deviceFile) String() string { return subtype }

func (f *deviceFile) OnUnmount() { f.cancel() }

// failed is what the kernel is told of an error of the device: its errno as it
// is, since a filesystem on the device acts on it.
func (f *deviceFile) failed(what string, err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	f.log.Warn("the block device failed", "operation", what, "error", err)
	if errno, ok := errors.AsType[syscall.Errno](err); ok && errno != 0 {
		return fuse.Status(errno)
	}
	return fuse.EIO
}

func (f *deviceFile) setAttr(out *fuse.Attr, node uint64) {
	out.Ino = node
	out.Mode, out.Nlink = unix.S_IFDIR|0o500, 2
	out.Uid, out.Gid = uint32(os.Geteuid()), uint32(os.Getegid())
	out.Blksize = preferredBytes
	if node == fileNode {
		out.Mode, out.Nlink = unix.S_IFREG|0o600, 1
		if f.readOnly {
			out.Mode = unix.S_IFREG | 0o400
		}
		out.Size = uint64(f.dev.Size())
		out.Blocks = out.Size / 512
	}
	out.SetTimes(&f.made, &f.made, &f.made)
}

func (f *deviceFile) Lookup(_ <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if header.NodeId != fuse.FUSE_ROOT_ID || name != f.name {
		return fuse.ENOENT
	}
	out.NodeId, out.Generation = fileNode, 1
	out.SetEntryTimeout(constantFor)
	out.SetAttrTimeout(volatileFor) // it may grow
	f.setAttr(&out.Attr, fileNode)
	return fuse.OK
}

func (f *deviceFile) Forget(uint64, uint64) {}

func (f *deviceFile) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.SetTimeout(volatileFor)
	f.setAttr(&out.Attr, in.NodeId)
	return fuse.OK
}

// SetAttr lets times be set, to no effect, and the size to what it is.
func (f *deviceFile) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
		return fuse.EPERM
	}
	if in.Valid&fuse.FATTR_SIZE != 0 && in.Size != uint64(f.dev.Size()) {
		return fuse.EPERM
	}
	out.SetTimeout(volatileFor)
	f.setAttr(&out.Attr, in.NodeId)
	return fuse.OK
}

// StatFs matters to a loop device: it discards in units of the block size.
func (f *deviceFile) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.Frsize, out.NameLen = 4096, 4096, 255
	out.Blocks = uint64(f.dev.Size()) / 4096
	return fuse.OK
}

func (f *deviceFile) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.NodeId != fileNode {
		return fuse.Status(syscall.EISDIR)
	}
	out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES | fuse.FOPEN_NOFLUSH
	return fuse.OK
}

func (f *deviceFile) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	size, off := f.dev.Size(), int64(in.Offset)
	if off < 0 || off >= size {
		return fuse.ReadResultData(nil), fuse.OK
	}
	buf = buf[:min(int64(len(buf)), int64(in.Size), size-off)]
	if n, err := f.dev.ReadAt(buf, off); n < len(buf) {
		return nil, f.failed("read", errors.Join(err, io.ErrUnexpectedEOF))
	}
	return fuse.ReadResultData(buf), fuse.OK
}

// Write writes what lies on the device. Past its end there is no space.
func (f *deviceFile) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	size, off := f.dev.Size(), int64(in.Offset)
	if off < 0 || off >= size {
		return 0, fuse.Status(syscall.ENOSPC)
	}
	data = data[:min(int64(len(data)), size-off)]
	n, err := f.dev.WriteAt(data, off)
	if err != nil {
		return 0, f.failed("write", err)
	}
	return uint32(n), fuse.OK
}

func (f *deviceFile) Fsync(_ <-chan struct{}, _ *fuse.FsyncIn) fuse.Status {
	return f.failed("flush", f.dev.Flush(f.ctx))
}

// Fallocate discards or zeroes a range. Space cannot be set aside on a thin
// device.
func (f *deviceFile) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	size, off, n := f.dev.Size(), int64(in.Offset), int64(in.Length)
	if off < 0 || n <= 0 || in.NodeId != fileNode {
		return fuse.EINVAL
	}
	keepSize := in.Mode&unix.FALLOC_FL_KEEP_SIZE != 0
	if off >= size || n > size-off {
		if !keepSize {
			return fuse.Status(syscall.ENOSPC)
		}
		if off >= size {
			return fuse.OK
		}
		n = size - off
	}
	switch in.Mode &^ unix.FALLOC_FL_KEEP_SIZE {
	case unix.FALLOC_FL_PUNCH_HOLE:
		return f.failed("discard", f.dev.Discard(f.ctx, off, n))
	case unix.FALLOC_FL_ZERO_RANGE:
		return f.failed("write zeroes", f.dev.WriteZeroes(f.ctx, off, n))
	}
	return fuse.Status(syscall.EOPNOTSUPP)
}

// Lseek finds data and holes if the device knows them.
func (f *deviceFile) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	x, ok := f.dev.(snapfs.Extenter)
	if !ok {
		return fuse.ENOSYS
	}
	return seek(f.ctx, x.Extents, f.dev.Size(), in, out)
}

func (f *deviceFile) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status {
	return fuse.OK
}

func (f *deviceFile) entries(place uint64) []fuse.DirEntry {
	entries := []fuse.DirEntry{
		{Name: ".", Ino: fuse.FUSE_ROOT_ID, Mode: unix.S_IFDIR, Off: 1},
		{Name: "..", Ino: fuse.FUSE_UNKNOWN_INO, Mode: unix.S_IFDIR, Off: 2},
		{Name: f.name, Ino: fileNode, Mode: unix.S_IFREG, Off: 3},
	}
	return entries[min(place, uint64(len(entries))):]
}

func (f *deviceFile) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	for _, e := range f.entries(in.Offset) {
		if !out.AddDirEntry(e) {
			break
		}
	}
	return fuse.OK
}

func (f *deviceFile) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	for _, e := range f.entries(in.Offset) {
		if out.AddDirLookupEntry(e) == nil { // without attributes
			break
		}
	}
	return fuse.OK
}
