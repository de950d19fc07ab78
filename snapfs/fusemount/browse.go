package fusemount

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
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

func (b *browser) Lookup(_ <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir := tree.Ino(header.NodeId)
	ino, err := b.root.Lookup(b.ctx, dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		out.NodeId = 0 // absent, to be kept
		out.SetEntryTimeout(b.lifetime(dir))
		return fuse.OK
	}
	if err != nil {
		return status(err)
	}
	attr, err := b.root.Stat(b.ctx, ino)
	if err != nil {
		return status(err)
	}
	b.setEntry(out, attr)
	return fuse.OK
}

// Forget has nothing to forget: numbers lead to files without a table.
func (b *browser) Forget(uint64, uint64) {}

func (b *browser) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	attr, err := b.root.Stat(b.ctx, tree.Ino(in.NodeId))
	if err != nil {
		return status(err)
	}
	out.SetTimeout(b.lifetime(attr.Ino))
	setAttr(&out.Attr, attr)
	return fuse.OK
}

func (b *browser) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	attr, err := b.root.Stat(b.ctx, tree.Ino(in.NodeId))
	if err != nil {
		return status(err)
	}
	out.SetTimeout(b.lifetime(attr.Ino))
	setStatx(&out.Statx, attr)
	return fuse.OK
}

func (b *browser) Readlink(_ <-chan struct{}, header *fuse.InHeader) ([]byte, fuse.Status) {
	target, err := b.root.Readlink(b.ctx, tree.Ino(header.NodeId))
	if err != nil {
		return nil, status(err)
	}
	return []byte(target), fuse.OK
}

func (b *browser) GetXAttr(_ <-chan struct{}, header *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	attrs, err := b.root.Xattrs(b.ctx, tree.Ino(header.NodeId))
	if err != nil {
		return 0, status(err)
	}
	value, ok := attrs[name]
	if !ok {
		return 0, fuse.ENODATA
	}
	return answer(dest, value)
}

func (b *browser) ListXAttr(_ <-chan struct{}, header *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	attrs, err := b.root.Xattrs(b.ctx, tree.Ino(header.NodeId))
	if err != nil {
		return 0, status(err)
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

func (b *browser) StatFs(_ <-chan struct{}, header *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.Frsize, out.NameLen = 4096, 4096, 255
	info, ok, err := b.root.Filesystem(b.ctx, tree.Ino(header.NodeId))
	if err != nil {
		return status(err)
	}
	if ok {
		out.Blocks = uint64(info.SizeBytes) / 4096
		out.Bfree = out.Blocks - min(uint64(info.UsedBytes)/4096, out.Blocks)
		out.Bavail = out.Bfree
	}
	return fuse.OK
}
