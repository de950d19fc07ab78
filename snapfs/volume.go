package snapfs

import (
	"context"
	"errors"
	"io"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/rowan-storage/rowan/snapfs/tree"
)

// maxXattrFiles bounds the files whose attributes a volume keeps.
const maxXattrFiles = 8192

// volume is an opened filesystem. It gives the numbers of the reader their
// place in the whole tree, and is where a panic of the reader ends: after one
// the reader is not called again, since it may hold locks for good.
type volume struct {
	area    *area
	fs      tree.FileSystem
	info    tree.Info
	rootIno tree.Ino
	dead    atomic.Bool

	// The kernel asks for the attributes of a file again and again and keeps
	// none of the answers.
	mu    sync.Mutex
	xattr map[tree.Ino]map[string][]byte
}

// openVolume opens the filesystem in w.
func openVolume(ctx context.Context, a *area, w *window, open opener) (*volume, error) {
	v := &volume{area: a, xattr: map[tree.Ino]map[string][]byte{}}
	_, err := guard(v, func() (struct{}, error) {
		fs, err := open(ctx, w, w.sizeBytes)
		if err != nil {
			return struct{}{}, err
		}
		v.fs, v.info, v.rootIno = fs, fs.Info(), fs.Root()
		return struct{}{}, nil
	})
	if err != nil {
		return nil, err
	}
	return v, nil
}

// guard calls the reader and makes a panic of it the end of the volume.
func guard[T any](v *volume, call func() (T, error)) (out T, err error) {
	if v.dead.Load() {
		return out, v.failed()
	}
	defer func() {
		if p := recover(); p != nil {
			v.dead.Store(true)
			v.area.readerPanicked(p, debug.Stack())
			err = v.failed()
		}
	}()
	return call()
}

func (v *volume) failed() error {
	return &Error{Object: v.area.object(), Class: ErrDamaged, Cause: errors.New("its reader failed")}
}

// global is the number of an inode in the whole tree.
func (v *volume) global(ino tree.Ino) (tree.Ino, error) {
	if ino == v.rootIno {
		return v.area.id, nil
	}
	return v.area.snap.root.global(v.area.number, ino)
}

func (v *volume) stat(ino tree.Ino) (tree.Attr, error) {
	attr, err := guard(v, func() (tree.Attr, error) { return v.fs.Stat(ino) })
	if err != nil {
		return tree.Attr{}, err
	}
	attr.Ino, err = v.global(ino)
	return attr, err
}

// readDir lists a directory. Entries come with an error if part of it is
// damaged.
func (v *volume) readDir(ino tree.Ino) ([]tree.DirEntry, error) {
	list, err := guard(v, func() ([]tree.DirEntry, error) { return v.fs.ReadDir(ino) })
	entries := list[:0] // a directory may be large: not twice
	for _, e := range list {
		if !fileName(e.Name) {
			err = errors.Join(err, &Error{Object: v.area.object(), Class: ErrDamaged, Cause: errors.New("a directory holds a name that no file can have")})
			continue
		}
		id, idErr := v.global(e.Ino)
		if idErr != nil {
			return entries, idErr
		}
		e.Ino = id
		entries = append(entries, e)
	}
	return entries, err
}

func (v *volume) lookup(dir tree.Ino, name string) (tree.Ino, error) {
	if !fileName(name) {
		return 0, notFound(name)
	}
	ino, err := guard(v, func() (tree.Ino, error) { return v.fs.Lookup(dir, name) })
	if err != nil {
		return 0, err
	}
	return v.global(ino)
}

func (v *volume) readlink(ino tree.Ino) (string, error) {
	return guard(v, func() (string, error) { return v.fs.Readlink(ino) })
}

func (v *volume) xattrs(ino tree.Ino) (map[string][]byte, error) {
	v.mu.Lock()
	x, ok := v.xattr[ino]
	v.mu.Unlock()
	if ok {
		return x, nil
	}
	x, err := guard(v, func() (map[string][]byte, error) { return v.fs.Xattrs(ino) })
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	if len(v.xattr) >= maxXattrFiles {
		clear(v.xattr)
	}
	v.xattr[ino] = x
	v.mu.Unlock()
	return x, nil
}

func (v *volume) open(ino tree.Ino) (*File, error) {
	attr, err := v.stat(ino)
	if err != nil {
		return nil, err
	}
	switch attr.Type {
	case tree.Regular:
	case tree.Directory:
		return nil, &Error{Object: v.area.object(), Class: syscall.EISDIR}
	default:
		return nil, &Error{Object: v.area.object(), Class: syscall.EINVAL, Cause: errors.New("not a regular file")}
	}
	content, err := guard(v, func() (io.ReaderAt, error) { return v.fs.Open(ino) })
	if err != nil {
		return nil, err
	}
	f := &File{sizeBytes: attr.Size, content: &volumeContent{v, content}}
	if x, ok := content.(Extenter); ok {
		f.extents = func(ctx context.Context, off, n int64, yield func(int64, bool) bool) error {
			_, err := guard(v, func() (struct{}, error) { return struct{}{}, x.Extents(ctx, off, n, yield) })
			return err
		}
	}
	return f, nil
}

// volumeContent is the content of a file, read through the guard.
type volumeContent struct {
	v *volume
	r io.ReaderAt
}

func (c *volumeContent) ReadAt(p []byte, off int64) (int, error) {
	return guard(c.v, func() (int, error) { return c.r.ReadAt(p, off) })
}
