package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// Bounds of an archive.
const (
	maxDepth    = 1000 // directories within one another
	maxProblems = 1000 // that are kept in words
	chunkBytes  = 1 << 20
)

// Result is what was written and what not.
type Result struct {
	Files int64 // of all kinds, directories too
	Bytes int64 // of content
	// Problems are files that were left out, or directories of which a part
	// was. MoreProblems counts those beyond.
	Problems     []Problem
	MoreProblems int
}

// Problem is what went wrong with one file.
type Problem struct {
	Path string // in the archive
	Err  error
}

// Tar writes the file or directory ino to w as a tar archive in which it is
// called name, a relative path. An error says that the archive is not whole; a
// Result with Problems, that files are missing in it.
func Tar(ctx context.Context, root *snapfs.Root, ino tree.Ino, name string, w io.Writer) (Result, error) {
	a := &archiver{
		ctx: ctx, root: root, w: tar.NewWriter(w),
		entered: map[tree.Ino]bool{}, links: map[tree.Ino]string{}, buf: make([]byte, chunkBytes),
	}
	if err := a.add(path.Clean(name), ino, 0); err != nil {
		return a.result, fmt.Errorf("archive: %w", err)
	}
	if err := a.w.Close(); err != nil {
		return a.result, fmt.Errorf("archive: %w", err)
	}
	return a.result, nil
}

// archiver is one archive under way.
type archiver struct {
	ctx     context.Context
	root    *snapfs.Root
	w       *tar.Writer
	result  Result
	entered map[tree.Ino]bool   // directories
	links   map[tree.Ino]string // first names of files with several
	buf     []byte
}

// problem notes a file that is left out. It returns the error if it would be
// the same for all others.
func (a *archiver) problem(name string, err error) error {
	switch {
	case a.ctx.Err() != nil:
		return a.ctx.Err()
	case errors.Is(err, snapfs.ErrGone), errors.Is(err, snapfs.ErrUnreachable), errors.Is(err, snapfs.ErrClosed):
		return err
	case len(a.result.Problems) == maxProblems:
		a.result.MoreProblems++
	default:
		a.result.Problems = append(a.result.Problems, Problem{Path: name, Err: err})
	}
	return nil
}

// add writes a file of any kind.
func (a *archiver) add(name string, ino tree.Ino, depth int) error {
	attr, err := a.root.Stat(a.ctx, ino)
	if err != nil {
		return a.problem(name, err)
	}
	h, err := a.header(name, attr)
	if err != nil {
		return a.problem(name, err)
	}
	switch attr.Type {
	case tree.Directory:
		return a.directory(h, attr, depth)
	case tree.Regular:
		return a.regular(h, attr)
	}
	return a.write(h)
}

// write writes the header of a file.
func (a *archiver) write(h *tar.Header) error {
	if err := a.w.WriteHeader(h); err != nil {
		return err
	}
	a.result.Files++
	return nil
}

// header describes a file as tar does.
func (a *archiver) header(name string, attr tree.Attr) (*tar.Header, error) {
	h := &tar.Header{
		Format: tar.FormatPAX, Name: name, Mode: int64(attr.Mode & 0o7777),
		Uid: int(attr.UID), Gid: int(attr.GID), ModTime: attr.Mtime, PAXRecords: map[string]string{},
	}
	switch attr.Type {
	case tree.Regular:
		h.Typeflag, h.Size = tar.TypeReg, attr.Size
	case tree.Directory:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case tree.Symlink:
		target, err := a.root.Readlink(a.ctx, attr.Ino)
		if err != nil {
			return nil, err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	case tree.CharDevice:
		h.Typeflag = tar.TypeChar
	case tree.BlockDevice:
		h.Typeflag = tar.TypeBlock
	case tree.FIFO:
		h.Typeflag = tar.TypeFifo
	case tree.Socket:
		return nil, errors.New("a tar archive cannot hold a socket")
	default:
		return nil, errors.New("the type of the file is not known")
	}
	if attr.Type == tree.CharDevice || attr.Type == tree.BlockDevice {
		h.Devmajor, h.Devminor = int64(unix.Major(attr.Rdev)), int64(unix.Minor(attr.Rdev))
	}
	if attr.Type != tree.Directory && attr.Nlink > 1 {
		if first, ok := a.links[attr.Ino]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return h, nil
		}
	}
	attrs, err := a.root.Xattrs(a.ctx, attr.Ino)
	if err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(attrs)) {
		// As GNU tar has it: "=" ends the key of a record.
		escaped := strings.NewReplacer("%", "%25", "=", "%3D").Replace(key)
		h.PAXRecords["SCHILY.xattr."+escaped] = string(attrs[key])
	}
	if attr.Type != tree.Directory && attr.Nlink > 1 {
		a.links[attr.Ino] = name
	}
	return h, nil
}

// directory writes a directory and what is in it.
func (a *archiver) directory(h *tar.Header, attr tree.Attr, depth int) error {
	name := strings.TrimSuffix(h.Name, "/")
	if a.entered[attr.Ino] {
		return a.problem(name, errors.New("the directory is found in more than one place, which no intact filesystem has"))
	}
	a.entered[attr.Ino] = true
	if depth > maxDepth {
		return a.problem(name, fmt.Errorf("it lies below more than %d directories", maxDepth))
	}
	if err := a.write(h); err != nil {
		return err
	}
	entries, err := a.root.ReadDir(a.ctx, attr.Ino)
	if err != nil {
		// What could be read is written all the same.
		if err := a.problem(name, err); err != nil {
			return err
		}
	}
	for _, e := range entries {
		if err := a.ctx.Err(); err != nil {
			return err
		}
		if err := a.add(name+"/"+e.Name, e.Ino, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// regular writes a regular file with its content.
func (a *archiver) regular(h *tar.Header, attr tree.Attr) error {
	if h.Typeflag == tar.TypeLink {
		return a.write(h)
	}
	f, err := a.root.Open(a.ctx, attr.Ino)
	if err != nil {
		delete(a.links, attr.Ino)
		return a.problem(h.Name, err)
	}
	defer f.Close()
	h.Size = f.Size()
	for off := int64(0); off < h.Size || off == 0; {
		chunk := a.buf[:min(h.Size-off, chunkBytes)]
		if err := a.ctx.Err(); err != nil {
			return err
		}
		if n, err := f.ReadAt(chunk, off); n < len(chunk) {
			if off == 0 { // nothing of it is in the archive yet
				delete(a.links, attr.Ino)
				return a.problem(h.Name, err)
			}
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		if off == 0 {
			if err := a.write(h); err != nil {
				return err
			}
		}
		if _, err := a.w.Write(chunk); err != nil {
			return err
		}
		a.result.Bytes += int64(len(chunk))
		if off += int64(len(chunk)); len(chunk) == 0 {
			break // an empty file
		}
	}
	return nil
}
