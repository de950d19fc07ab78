package snapfs

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rowan-storage/rowan/snapfs/tree"
)

// FS is a directory of the tree as an fs.FS. It also has the methods of
// fs.ReadDirFS, fs.StatFS and fs.ReadLinkFS; its files have those of
// io.ReaderAt and io.Seeker. FileInfo.Sys is a tree.Attr. Links are followed as
// Walk does. ctx goes to every call of the source.
func (r *Root) FS(ctx context.Context, dir tree.Ino) fs.FS {
	return &dirFS{ctx: ctx, root: r, dir: dir}
}

type dirFS struct {
	ctx  context.Context
	root *Root
	dir  tree.Ino
}

var (
	_ fs.ReadDirFS  = (*dirFS)(nil)
	_ fs.StatFS     = (*dirFS)(nil)
	_ fs.ReadLinkFS = (*dirFS)(nil)
)

// find walks to a name and describes what is there.
func (d *dirFS) find(op, name string, follow bool) (*fileInfo, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	ino, err := d.root.Walk(d.ctx, d.dir, name, follow)
	if err == nil {
		var attr tree.Attr
		if attr, err = d.root.Stat(d.ctx, ino); err == nil {
			return &fileInfo{name: path.Base(name), attr: attr}, nil
		}
	}
	return nil, pathError(op, name, err)
}

// pathError names the operation and path that the caller used.
func pathError(op, name string, err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

func (d *dirFS) Open(name string) (fs.File, error) {
	info, err := d.find("open", name, true)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return &openDir{fs: d, info: info, name: name}, nil
	}
	f, err := d.root.Open(d.ctx, info.attr.Ino)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return &openFile{File: f, SectionReader: io.NewSectionReader(f, 0, f.Size()), info: info}, nil
}

func (d *dirFS) Stat(name string) (fs.FileInfo, error) {
	info, err := d.find("stat", name, true)
	if err != nil {
		return nil, err
	}
	return info, nil
}

func (d *dirFS) Lstat(name string) (fs.FileInfo, error) {
	info, err := d.find("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return info, nil
}

func (d *dirFS) ReadLink(name string) (string, error) {
	info, err := d.find("readlink", name, false)
	if err != nil {
		return "", err
	}
	target, err := d.root.Readlink(d.ctx, info.attr.Ino)
	if err != nil {
		return "", pathError("readlink", name, err)
	}
	return target, nil
}

// ReadDir lists a directory, sorted. If part of it is damaged it returns what
// could be read and an error.
func (d *dirFS) ReadDir(name string) ([]fs.DirEntry, error) {
	info, err := d.find("readdir", name, true)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: syscall.ENOTDIR}
	}
	return d.list(name, info.attr.Ino)
}

func (d *dirFS) list(name string, ino tree.Ino) ([]fs.DirEntry, error) {
	list, err := d.root.ReadDir(d.ctx, ino)
	entries := make([]fs.DirEntry, 0, len(list))
	for _, e := range list {
		entry := &dirEntry{fs: d, entry: e}
		if e.Type == tree.Unknown {
			if info, statErr := entry.Info(); statErr == nil {
				entry.entry.Type = info.(*fileInfo).attr.Type
			}
		}
		entries = append(entries, entry)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	if err != nil {
		err = pathError("readdir", name, err)
	}
	return entries, err
}

// openFile is an open regular file.
type openFile struct {
	*File
	*io.SectionReader
	info *fileInfo
}

func (f *openFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *openFile) Size() int64                { return f.File.Size() }
func (f *openFile) ReadAt(p []byte, off int64) (n int, err error) {
	return f.SectionReader.ReadAt(p, off)
}

// openDir is an open directory.
type openDir struct {
	fs     *dirFS
	info   *fileInfo
	name   string
	listed bool
	rest   []fs.DirEntry
	err    error // of the listing, to be returned after what could be read
}

func (d *openDir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *openDir) Close() error               { return nil }

func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: syscall.EISDIR}
}

func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.listed {
		d.rest, d.err = d.fs.list(d.name, d.info.attr.Ino)
		d.listed = true
	}
	count := len(d.rest)
	if n > 0 {
		count = min(n, count)
	}
	some := d.rest[:count:count]
	d.rest = d.rest[count:]
	switch {
	case n <= 0:
		err := d.err
		d.err = nil
		return some, err
	case count > 0:
		return some, nil
	case d.err != nil:
		return some, d.err
	}
	return some, io.EOF
}

// dirEntry is an entry of a directory.
type dirEntry struct {
	fs    *dirFS
	entry tree.DirEntry
}

func (e *dirEntry) Name() string      { return e.entry.Name }
func (e *dirEntry) IsDir() bool       { return e.entry.Type == tree.Directory }
func (e *dirEntry) Type() fs.FileMode { return typeMode(e.entry.Type) }
func (e *dirEntry) String() string    { return fs.FormatDirEntry(e) }
func (e *dirEntry) Info() (fs.FileInfo, error) {
	attr, err := e.fs.root.Stat(e.fs.ctx, e.entry.Ino)
	if err != nil {
		return nil, pathError("stat", e.entry.Name, err)
	}
	return &fileInfo{name: e.entry.Name, attr: attr}, nil
}

// fileInfo describes a file.
type fileInfo struct {
	name string
	attr tree.Attr
}

func (i *fileInfo) Name() string       { return i.name }
func (i *fileInfo) Size() int64        { return i.attr.Size }
func (i *fileInfo) ModTime() time.Time { return i.attr.Mtime }
func (i *fileInfo) IsDir() bool        { return i.attr.Type == tree.Directory }
func (i *fileInfo) Sys() any           { return i.attr }
func (i *fileInfo) String() string     { return fs.FormatFileInfo(i) }

func (i *fileInfo) Mode() fs.FileMode {
	m := fs.FileMode(i.attr.Mode&0o777) | typeMode(i.attr.Type)
	for _, bit := range []struct {
		unix uint32
		mode fs.FileMode
	}{{syscall.S_ISUID, fs.ModeSetuid}, {syscall.S_ISGID, fs.ModeSetgid}, {syscall.S_ISVTX, fs.ModeSticky}} {
		if i.attr.Mode&bit.unix != 0 {
			m |= bit.mode
		}
	}
	return m
}

func typeMode(t tree.Type) fs.FileMode {
	switch t {
	case tree.Regular:
		return 0
	case tree.Directory:
		return fs.ModeDir
	case tree.Symlink:
		return fs.ModeSymlink
	case tree.CharDevice:
		return fs.ModeDevice | fs.ModeCharDevice
	case tree.BlockDevice:
		return fs.ModeDevice
	case tree.FIFO:
		return fs.ModeNamedPipe
	case tree.Socket:
		return fs.ModeSocket
	}
	return fs.ModeIrregular
}
