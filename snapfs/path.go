package snapfs

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"syscall"

	"github.com/rowan-storage/rowan/snapfs/tree"
)

// Bounds on paths and on links in them, those of Linux.
const (
	maxPathBytes = 4096
	maxLinks     = 40
)

// Walk finds a file by its path, from the directory dir. Elements are separated
// by "/"; empty ones and "." mean nothing, ".." is the directory above and
// leads nowhere above dir. With follow a path that ends at a symbolic link
// leads to what it points at; links on the way are always followed.
//
// A link is followed inside of the filesystem that it lies in: an absolute
// target begins at the root of that filesystem (at dir, if the walk began below
// the root), and ".." leads nowhere above it. The link to the newest snapshot
// stays inside of its LUN. The error is ELOOP after maxLinks links.
func (r *Root) Walk(ctx context.Context, dir tree.Ino, path string, follow bool) (tree.Ino, error) {
	w := walker{root: r, follow: follow, stack: []tree.Ino{dir}}
	if err := w.walk(ctx, path, 0, true); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = syscall.ENOENT
		}
		return 0, &fs.PathError{Op: "walk", Path: path, Err: err}
	}
	return w.here(), nil
}

// walker walks a path.
type walker struct {
	root   *Root
	follow bool
	stack  []tree.Ino // the directories on the way, and at last the file
	links  int
}

func (w *walker) here() tree.Ino { return w.stack[len(w.stack)-1] }

// walk goes along path; ".." does not go below floor in the stack. last tells
// that the end of path is the end of the whole way.
func (w *walker) walk(ctx context.Context, path string, floor int, last bool) error {
	if len(path) > maxPathBytes {
		return syscall.ENAMETOOLONG
	}
	if strings.Contains(path, "\x00") {
		return syscall.EINVAL
	}
	elements := strings.Split(path, "/")
	for i, name := range elements {
		switch name {
		case "", ".":
			continue
		case "..":
			if len(w.stack)-1 > floor {
				w.stack = w.stack[:len(w.stack)-1]
			}
			continue
		}
		if err := w.step(ctx, name, last && i == len(elements)-1); err != nil {
			return err
		}
	}
	return nil
}

// step goes to name in the present directory, through it if it is a link and
// not the end of the way.
func (w *walker) step(ctx context.Context, name string, last bool) error {
	ino, err := w.root.Lookup(ctx, w.here(), name)
	if err != nil {
		return err
	}
	if last && !w.follow {
		w.stack = append(w.stack, ino)
		return nil
	}
	attr, err := w.root.Stat(ctx, ino)
	if err != nil {
		return err
	}
	if attr.Type != tree.Symlink {
		if !last && attr.Type != tree.Directory {
			return syscall.ENOTDIR
		}
		w.stack = append(w.stack, ino)
		return nil
	}
	if w.links++; w.links > maxLinks {
		return syscall.ELOOP
	}
	target, err := w.root.Readlink(ctx, ino)
	if err != nil {
		return err
	}
	if target == "" {
		return syscall.ENOENT
	}
	floor := w.floor(ino)
	if strings.HasPrefix(target, "/") {
		w.stack = w.stack[:floor+1]
	}
	return w.walk(ctx, target, floor, last)
}

// floor is the place in the stack of the root of the filesystem that a link
// lies in. For the link to the newest snapshot it is the LUN.
func (w *walker) floor(link tree.Ino) int {
	a := w.root.areaOf(link)
	if a == nil {
		return len(w.stack) - 1
	}
	for i, ino := range w.stack {
		if ino == a.id {
			return i
		}
	}
	return 0 // the walk began inside of the filesystem
}
