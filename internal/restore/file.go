package restore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

const (
	chunkBytes = 1 << 20  // read at once
	holeBytes  = 64 << 10 // written at once, or left out if it is zeros
)

// file copies anything but a directory.
func (c *copier) file(at place, attr tree.Attr) error {
	if attr.Nlink > 1 && c.dest != nil {
		if first, ok := c.links[attr.Ino]; ok {
			if err := c.dest.Link(first, at.path); err != nil {
				return &destError{err}
			}
			c.o.Progress.Files.Add(1)
			return nil
		}
	}
	made, err := c.make(at, attr)
	if err != nil || !made {
		return err
	}
	if attr.Nlink > 1 {
		c.links[attr.Ino] = at.path
	}
	c.o.Progress.Files.Add(1)
	return nil
}

// make makes a file. It returns false if this user cannot.
func (c *copier) make(at place, attr tree.Attr) (bool, error) {
	switch attr.Type {
	case tree.Regular:
		return true, c.regular(at, attr, false)
	case tree.Symlink:
		target, err := c.root.Readlink(c.ctx, attr.Ino)
		if err != nil {
			return false, err
		}
		if err := unix.Symlinkat(target, at.dir, at.name); err != nil {
			return false, unixError("symlink", at, err)
		}
	case tree.FIFO, tree.Socket, tree.CharDevice, tree.BlockDevice:
		device := attr.Type == tree.CharDevice || attr.Type == tree.BlockDevice
		if device && !c.o.Owners {
			c.result.Skipped++
			return false, nil
		}
		if err := unix.Mknodat(at.dir, at.name, nodeType(attr.Type)|0o600, int(attr.Rdev)); err != nil {
			if device && errors.Is(err, unix.EPERM) {
				c.result.Skipped++
				return false, nil
			}
			return false, unixError("mknod", at, err)
		}
	default:
		return false, errors.New("the type of the file is not known")
	}
	return true, c.attributes(-1, at, attr)
}

func nodeType(t tree.Type) uint32 {
	switch t {
	case tree.FIFO:
		return unix.S_IFIFO
	case tree.Socket:
		return unix.S_IFSOCK
	case tree.CharDevice:
		return unix.S_IFCHR
	}
	return unix.S_IFBLK
}

// regular copies a regular file; with sync it is durable on return. If it
// cannot be copied whole, nothing is left of it.
func (c *copier) regular(at place, attr tree.Attr, sync bool) (err error) {
	src, err := c.root.Open(c.ctx, attr.Ino)
	if err != nil {
		return err
	}
	defer src.Close()
	fd, err := unix.Openat(at.dir, at.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return unixError("create", at, err)
	}
	dst := os.NewFile(uintptr(fd), at.path)
	whole := false
	defer func() {
		closeErr := dst.Close()
		if err == nil && closeErr != nil {
			err, whole = &destError{closeErr}, false
		}
		if !whole {
			_ = unix.Unlinkat(at.dir, at.name, 0)
		}
	}()
	if err := c.content(dst, src); err != nil {
		return err
	}
	if err := c.attributes(fd, at, attr); err != nil {
		return err
	}
	if sync {
		if err := dst.Sync(); err != nil {
			return &destError{err}
		}
	}
	whole = true
	return nil
}

// content copies the data of a file and leaves its holes out.
func (c *copier) content(dst *os.File, src *snapfs.File) error {
	if err := dst.Truncate(src.Size()); err != nil {
		return &destError{err}
	}
	buf := make([]byte, min(chunkBytes, src.Size()))
	at, failed := int64(0), error(nil)
	err := src.Extents(c.ctx, 0, src.Size(), func(length int64, data bool) bool {
		end := at + length
		for data && at < end {
			n := min(end-at, int64(len(buf)))
			if failed = c.piece(dst, src, buf[:n], at); failed != nil {
				return false
			}
			at += n
		}
		c.o.Progress.Bytes.Add(end - at) // a hole
		at = end
		return true
	})
	if failed != nil {
		return failed
	}
	if err == nil && at != src.Size() {
		err = fmt.Errorf("its extents end at %d, its size is %d", at, src.Size())
	}
	return err
}

func (c *copier) piece(dst *os.File, src *snapfs.File, buf []byte, off int64) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if n, err := src.ReadAt(buf, off); n < len(buf) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading at %d: %w", off, err)
	}
	for at := 0; at < len(buf); at += holeBytes {
		part := buf[at:min(at+holeBytes, len(buf))]
		if isZero(part) {
			continue // the file has been made with a hole there
		}
		if _, err := dst.WriteAt(part, off+int64(at)); err != nil {
			return &destError{err}
		}
	}
	c.o.Progress.Bytes.Add(int64(len(buf)))
	return nil
}

func isZero(p []byte) bool {
	return len(p) == 0 || p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1])
}

// attributes gives a file its owner, mode, extended attributes and times, in
// this order: a change of the owner takes set-id bits and capabilities away. fd
// is the open file, or -1 if it is none that can be opened. A file keeps its
// content though an attribute cannot be set.
func (c *copier) attributes(fd int, at place, attr tree.Attr) error {
	mode := attr.Mode & 0o7777
	var errs []error
	if c.o.Owners {
		errs = append(errs, unixError("chown", at, unix.Fchownat(at.dir, at.name, int(attr.UID), int(attr.GID), unix.AT_SYMLINK_NOFOLLOW)))
	} else {
		mode &= 0o1777
	}
	if fd >= 0 {
		errs = append(errs, unixError("chmod", at, unix.Fchmod(fd, mode)))
	} else if attr.Type != tree.Symlink {
		// Nothing but this copy could have put a link here.
		errs = append(errs, unixError("chmod", at, unix.Fchmodat(at.dir, at.name, mode, 0)))
	}
	errs = append(errs, c.xattrs(fd, at, attr))
	times := []unix.Timespec{timespec(attr.Atime), timespec(attr.Mtime)}
	errs = append(errs, unixError("utimens", at, unix.UtimesNanoAt(at.dir, at.name, times, unix.AT_SYMLINK_NOFOLLOW)))
	for _, err := range errs {
		if err == nil {
			continue
		}
		if err := c.problem(at.path, err); err != nil {
			return err
		}
	}
	return nil
}

// unixError makes an error of the destination of one of a system call.
func unixError(op string, at place, err error) error {
	if err == nil {
		return nil
	}
	return &destError{&fs.PathError{Op: op, Path: at.path, Err: err}}
}

func timespec(t time.Time) unix.Timespec {
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// xattrs sets the extended attributes. Those of namespaces that belong to
// the system are only tried with Owners.
func (c *copier) xattrs(fd int, at place, attr tree.Attr) error {
	attrs, err := c.root.Xattrs(c.ctx, attr.Ino)
	if err != nil {
		return fmt.Errorf("extended attributes: %w", err)
	}
	for name, value := range attrs {
		anyUser := strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "system.posix_acl_")
		if !anyUser && !c.o.Owners {
			c.result.Attributes++
			continue
		}
		if fd >= 0 {
			err = unix.Fsetxattr(fd, name, value, 0)
		} else {
			// There is no setxattrat: the directory's own link stands in for it.
			err = unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", at.dir, at.name), name, value, 0)
		}
		switch {
		case err == nil:
		case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EACCES):
			c.result.Attributes++
		default:
			return unixError("setxattr "+name, at, err)
		}
	}
	return nil
}
