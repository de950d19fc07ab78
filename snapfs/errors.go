package snapfs

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// The classes of errors, beside those of io/fs. Each carries an errno.
var (
	// ErrGone: the snapshot or LUN is not there any more.
	ErrGone error = &class{"gone", syscall.ESTALE}
	// ErrUnreachable: the source or the image cannot be read now. The next
	// call tries again.
	ErrUnreachable error = &class{"cannot be read now", syscall.EIO}
	// ErrDamaged: the content contradicts itself, or its reader failed.
	ErrDamaged error = &class{"damaged", syscall.EUCLEAN}
	// ErrClosed: the Root was closed.
	ErrClosed error = &class{"closed", syscall.ESHUTDOWN}
)

// class is an error that stands for a kind of failure and carries its errno.
type class struct {
	text  string
	errno syscall.Errno
}

func (c *class) Error() string { return c.text }

// Unwrap lets errors.As find the errno.
func (c *class) Unwrap() error { return c.errno }

// Error says what happened to which object.
type Error struct {
	Object string // "web@monday", "p1-ext4-root of web@monday"
	Class  error  // one of the Err variables, or a syscall.Errno
	Cause  error  // may be nil
}

func (e *Error) Error() string {
	if e.Cause == nil {
		return fmt.Sprintf("snapfs: %s: %v", e.Object, e.Class)
	}
	return fmt.Sprintf("snapfs: %s: %v: %v", e.Object, e.Class, e.Cause)
}

// Unwrap makes errors.Is and errors.As see the class, then the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Class}
	}
	return []error{e.Class, e.Cause}
}

// transient tells whether an error says something of now and nothing of the
// content.
func transient(err error) bool {
	return errors.Is(err, ErrUnreachable) || errors.Is(err, ErrGone) || errors.Is(err, ErrClosed)
}

// Errno is the errno that a caller of the kernel's should see for an error, 0
// for nil. Errors without one of those that say something about a file are EIO.
func Errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		switch errno {
		case syscall.ENOENT, syscall.ESTALE, syscall.EUCLEAN, syscall.ENOTDIR, syscall.EISDIR, syscall.EINVAL,
			syscall.ELOOP, syscall.ENAMETOOLONG, syscall.EACCES, syscall.EPERM, syscall.EROFS, syscall.ENODATA,
			syscall.ENOKEY, syscall.EOPNOTSUPP, syscall.EOVERFLOW, syscall.EFBIG, syscall.ENXIO:
			return errno
		}
		return syscall.EIO
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return syscall.ENOENT
	case errors.Is(err, fs.ErrPermission):
		return syscall.EACCES
	case errors.Is(err, fs.ErrInvalid):
		return syscall.EINVAL
	}
	return syscall.EIO
}
