package fusemount

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// status is what the kernel is told of an error.
func status(err error) fuse.Status { return fuse.Status(snapfs.Errno(err)) }

// lifetime is how long the kernel may keep what it is told of a file.
func (b *browser) lifetime(ino tree.Ino) time.Duration {
	if b.root.Volatile(ino) {
		return volatileFor
	}
	return constantFor
}

// setEntry fills in what a lookup answers.
func (b *browser) setEntry(out *fuse.EntryOut, attr tree.Attr) {
	life := b.lifetime(attr.Ino)
	out.NodeId = uint64(attr.Ino)
	out.Generation = 1 // numbers are never used again
	out.SetEntryTimeout(life)
	out.SetAttrTimeout(life)
	setAttr(&out.Attr, attr)
}

func (b *browser) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir := tree.Ino(header.NodeId)
	attr, err := serve(cancel, func() (tree.Attr, error) {
		ino, err := b.root.Lookup(b.ctx, dir, name)
		if err != nil {
			return tree.Attr{}, err
		}
		attr, err := b.root.Stat(b.ctx, ino)
		if errors.Is(err, fs.ErrNotExist) {
			err = syscall.ESTALE // it went between the two, which says nothing of the name
		}
		return attr, err
	})
	if errors.Is(err, fs.ErrNotExist) {
		out.NodeId = 0 // absent, to be kept
		out.SetEntryTimeout(b.lifetime(dir))
		return fuse.OK
	}
	if err != nil {
		return requestStatus(err)
	}
	b.setEntry(out, attr)
	return fuse.OK
}

// Forget has nothing to forget: numbers lead to files without a table.
func (b *browser) Forget(uint64, uint64) {}

func (b *browser) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	attr, err := b.stat(cancel, tree.Ino(in.NodeId))
	if err != nil {
		return requestStatus(err)
	}
	out.SetTimeout(b.lifetime(attr.Ino))
	setAttr(&out.Attr, attr)
	return fuse.OK
}

// stat describes a file for a request.
func (b *browser) stat(cancel <-chan struct{}, ino tree.Ino) (tree.Attr, error) {
	return serve(cancel, func() (tree.Attr, error) { return b.root.Stat(b.ctx, ino) })
}

func (b *browser) Statx(cancel <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	attr, err := b.stat(cancel, tree.Ino(in.NodeId))
	if err != nil {
		return requestStatus(err)
	}
	out.SetTimeout(b.lifetime(attr.Ino))
	setStatx(&out.Statx, attr)
	return fuse.OK
}

func (b *browser) Readlink(cancel <-chan struct{}, header *fuse.InHeader) ([]byte, fuse.Status) {
	target, err := serve(cancel, func() (string, error) { return b.root.Readlink(b.ctx, tree.Ino(header.NodeId)) })
	if err != nil {
		return nil, requestStatus(err)
	}
	return []byte(target), fuse.OK
}

func (b *browser) GetXAttr(cancel <-chan struct{}, header *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	attrs, err := serve(cancel, func() (map[string][]byte, error) {
		return b.root.Xattrs(b.ctx, tree.Ino(header.NodeId))
	})
	if err != nil {
		return 0, requestStatus(err)
	}
	value, ok := attrs[name]
	if !ok {
		return 0, fuse.ENODATA
	}
	return answer(dest, value)
}

func (b *browser) ListXAttr(cancel <-chan struct{}, header *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	attrs, err := serve(cancel, func() (map[string][]byte, error) {
		return b.root.Xattrs(b.ctx, tree.Ino(header.NodeId))
	})
	if err != nil {
		return 0, requestStatus(err)
	}
	var names []byte
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		names = append(append(names, name...), 0)
	}
	return answer(dest, names)
}

// answer puts a value into the buffer for it, or says how long it is.
func answer(dest, value []byte) (uint32, fuse.Status) {
	if len(dest) < len(value) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}

func (b *browser) StatFs(cancel <-chan struct{}, header *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.Frsize, out.NameLen = 4096, 4096, 255
	info, err := serve(cancel, func() (*tree.Info, error) {
		info, ok, err := b.root.Filesystem(b.ctx, tree.Ino(header.NodeId))
		if !ok {
			return nil, err
		}
		return &info, err
	})
	if err != nil {
		return requestStatus(err)
	}
	if info != nil {
		out.Blocks = uint64(info.SizeBytes) / 4096
		out.Bfree = out.Blocks - min(uint64(info.UsedBytes)/4096, out.Blocks)
		out.Bavail = out.Bfree
	}
	return fuse.OK
}
