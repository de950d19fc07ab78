package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// The bounds of a copy.
const (
	maxDepth    = 1000 // directories within one another, each an open file
	maxProblems = 1000 // that are kept in words
)

// Options say how to copy. The zero value copies as another user would see it.
type Options struct {
	// Owners sets owners and set-id bits and makes devices, which needs root.
	Owners bool
	// Replace lets a single file take the place of one that exists.
	Replace bool
	// Progress, if not nil, is kept up to date while copying.
	Progress *Progress
}

// Progress is how far a copy is.
type Progress struct {
	Files atomic.Int64 // files of all kinds, directories too
	Bytes atomic.Int64 // of content
}

// Result is what was copied and what not.
type Result struct {
	Files int64 `json:"files"` // of all kinds, directories too
	Bytes int64 `json:"bytes"` // of content
	// Problems are files that were left out or are incomplete in something
	// else than their content.
	Problems []Problem `json:"problems,omitempty"`
	// MoreProblems counts those beyond what Problems holds.
	MoreProblems int `json:"more_problems,omitempty"`
	// Skipped counts devices, and Attributes extended attributes, that the
	// destination does not take from this user.
	Skipped    int `json:"skipped,omitempty"`
	Attributes int `json:"attributes,omitempty"`
}

// Problem is what went wrong with one file.
type Problem struct {
	Path string `json:"path"` // below what was copied
	Err  string `json:"error"`
}

// Copy copies the file or directory ino to dest, which must not exist. An error
// says that the copy has ended early; a Result with Problems, that it is not
// complete.
func Copy(ctx context.Context, root *snapfs.Root, ino tree.Ino, dest string, o Options) (Result, error) {
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	parent, err := os.Open(filepath.Dir(dest))
	if err != nil {
		return Result{}, fmt.Errorf("restore: %w", err)
	}
	defer parent.Close()
	c := &copier{ctx: ctx, root: root, o: o, entered: map[tree.Ino]bool{}, links: map[tree.Ino]string{}}
	attr, err := root.Stat(ctx, ino)
	if err != nil {
		return Result{}, err
	}
	name := filepath.Base(dest)
	if attr.Type == tree.Regular {
		err = c.single(parent, name, attr)
	} else {
		err = c.top(parent, name, attr)
	}
	c.result.Files, c.result.Bytes = o.Progress.Files.Load(), o.Progress.Bytes.Load()
	return c.result, err
}

// copier is one copy under way.
type copier struct {
	ctx    context.Context
	root   *snapfs.Root
	o      Options
	result Result

	entered map[tree.Ino]bool   // directories
	links   map[tree.Ino]string // first paths of files with several names
	filled  []filled            // those in a directory before itself
	dest    *os.Root            // of the directory that is copied, for hard links
}

// place is where a file is made.
type place struct {
	dir  int    // open directory
	name string // in it
	path string // below what is copied, for people
}

// single copies one regular file, which appears under its name when it is
// complete.
func (c *copier) single(parent *os.File, name string, attr tree.Attr) error {
	temp := fmt.Sprintf(".%.200s.rowan-%d", name, os.Getpid())
	dir := int(parent.Fd())
	if err := c.regular(place{dir, temp, name}, attr, true); err != nil {
		return err
	}
	var err error
	if c.o.Replace {
		err = unix.Renameat(dir, temp, dir, name)
	} else if err = unix.Renameat2(dir, temp, dir, name, unix.RENAME_NOREPLACE); errors.Is(err, unix.EINVAL) {
		err = linkInstead(dir, temp, name) // not every filesystem has the flag
	}
	if err != nil {
		_ = unix.Unlinkat(dir, temp, 0)
		return unixError("create", place{path: filepath.Join(parent.Name(), name)}, err)
	}
	c.o.Progress.Files.Add(1)
	return nil
}

// linkInstead renames a file, but not over another.
func linkInstead(dir int, from, to string) error {
	if err := unix.Linkat(dir, from, dir, to, 0); err != nil {
		return err
	}
	return unix.Unlinkat(dir, from, 0)
}

// top copies a directory with all that is in it, or a special file.
func (c *copier) top(parent *os.File, name string, attr tree.Attr) error {
	at := place{int(parent.Fd()), name, filepath.Join(parent.Name(), name)}
	if attr.Type != tree.Directory {
		return c.file(at, attr)
	}
	if err := unix.Mkdirat(at.dir, name, 0o700); err != nil {
		return unixError("mkdir", at, err)
	}
	dest, err := os.OpenRoot(filepath.Join(parent.Name(), name))
	if err != nil {
		return &destError{err}
	}
	defer dest.Close()
	c.dest = dest
	if err := c.directory(at, attr, "", 0); err != nil {
		return err
	}
	for _, d := range c.filled {
		if err := c.finish(at, d); err != nil {
			return err
		}
	}
	return unix.Syncfs(at.dir)
}

// filled is a directory that has its content but not its attributes yet.
type filled struct {
	path string // below what is copied, "" for that itself
	attr tree.Attr
}

// finish gives a directory its attributes. Those in it have theirs, since it may
// not be entered any more afterwards.
func (c *copier) finish(top place, d filled) error {
	at := top
	if d.path != "" {
		parent, err := c.dest.Open(filepath.Dir(d.path))
		if err != nil {
			return &destError{err}
		}
		defer parent.Close()
		at = place{int(parent.Fd()), filepath.Base(d.path), d.path}
	}
	fd, err := unix.Openat(at.dir, at.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return unixError("open", at, err)
	}
	defer unix.Close(fd)
	return c.attributes(fd, at, d.attr)
}

// destError is an error of the destination.
type destError struct{ err error }

func (e *destError) Error() string { return "restore: " + e.err.Error() }
func (e *destError) Unwrap() error { return e.err }

// fatal tells whether going on would only meet the same error again.
func (c *copier) fatal(err error) bool {
	if c.ctx.Err() != nil {
		return true
	}
	var d *destError
	if !errors.As(err, &d) {
		return errors.Is(err, snapfs.ErrGone) || errors.Is(err, snapfs.ErrUnreachable) || errors.Is(err, snapfs.ErrClosed)
	}
	for _, errno := range []unix.Errno{unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.EIO, unix.EMFILE} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// problem notes what went wrong with a file. It returns the error if the copy
// has to end.
func (c *copier) problem(path string, err error) error {
	if c.fatal(err) {
		return err
	}
	if len(c.result.Problems) == maxProblems {
		c.result.MoreProblems++
		return nil
	}
	c.result.Problems = append(c.result.Problems, Problem{Path: path, Err: err.Error()})
	return nil
}

// directory copies what is in a directory into at, which has been made.
func (c *copier) directory(at place, attr tree.Attr, below string, depth int) error {
	if c.entered[attr.Ino] {
		return errors.New("the directory is found in more than one place, which no intact filesystem has")
	}
	c.entered[attr.Ino] = true
	if depth > maxDepth {
		return fmt.Errorf("it lies below more than %d directories", maxDepth)
	}
	fd, err := unix.Openat(at.dir, at.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return unixError("open", at, err)
	}
	defer unix.Close(fd)
	entries, err := c.root.ReadDir(c.ctx, attr.Ino)
	if err != nil {
		// What could be read is there all the same.
		if err := c.problem(at.path, err); err != nil {
			return err
		}
	}
	for _, e := range entries {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		path := filepath.Join(below, e.Name)
		if err := c.entry(place{fd, e.Name, path}, e, depth); err != nil {
			if err := c.problem(path, err); err != nil {
				return err
			}
		}
	}
	c.o.Progress.Files.Add(1)
	c.filled = append(c.filled, filled{below, attr})
	return nil
}

// entry copies one entry of a directory.
func (c *copier) entry(at place, e tree.DirEntry, depth int) error {
	if e.Name == "" || e.Name == "." || e.Name == ".." || filepath.Base(e.Name) != e.Name {
		return fmt.Errorf("%q cannot be the name of a file", e.Name)
	}
	attr, err := c.root.Stat(c.ctx, e.Ino)
	if err != nil {
		return err
	}
	if attr.Type != tree.Directory {
		return c.file(at, attr)
	}
	if c.entered[attr.Ino] {
		return errors.New("the directory is found in more than one place, which no intact filesystem has")
	}
	if err := unix.Mkdirat(at.dir, at.name, 0o700); err != nil {
		return unixError("mkdir", at, err)
	}
	return c.directory(at, attr, at.path, depth+1)
}
