package blockdev

import (
	"errors"
	"fmt"
	"syscall"
)

// The classes of errors. Each carries an errno, so that a caller that does not
// import this package can map it with errors.As to a syscall.Errno.
var (
	ErrNotFound = newClass("not found", syscall.ENOENT)
	ErrExists   = newClass("exists already", syscall.EEXIST)
	ErrInvalid  = newClass("invalid", syscall.EINVAL)
	// ErrInUse: clients are connected, or another object needs this one.
	ErrInUse = newClass("in use", syscall.EBUSY)
	// ErrLocked: a snapshot's lock forbids it.
	ErrLocked   = newClass("locked", syscall.EPERM)
	ErrReadOnly = newClass("read-only", syscall.EROFS)
	ErrNoSpace  = newClass("no space left in the pool", syscall.ENOSPC)
	// ErrStale: what the handle was opened on is gone.
	ErrStale = newClass("gone", syscall.ESTALE)
	// ErrFailed: the LUN lost data it had not made durable and takes no more
	// writes.
	ErrFailed = newClass("failed", syscall.EIO)
	// ErrCorrupt: stored metadata contradicts itself or its checksum.
	ErrCorrupt = newClass("damaged", syscall.EUCLEAN)
	// ErrClosed: the pool or handle was closed.
	ErrClosed = newClass("closed", syscall.ESHUTDOWN)
)

// class is an error that stands for a kind of failure and carries its errno.
type class struct {
	text  string
	errno syscall.Errno
}

func newClass(text string, errno syscall.Errno) error { return &class{text, errno} }

func (c *class) Error() string { return c.text }

// Unwrap lets errors.As find the errno.
func (c *class) Unwrap() error { return c.errno }

// Error says what was done to which object when class happened.
type Error struct {
	Object string // "LUN web", "snapshot web@monday", a file of the pool
	Class  error  // one of the Err variables
	Detail string // what to know or do next, may be ""
	Cause  error  // the underlying error, may be nil
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s: %v", e.Object, e.Class)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap makes errors.Is and errors.As see the class and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Class}
	}
	return []error{e.Class, e.Cause}
}

func errorf(class error, object, format string, args ...any) error {
	return &Error{Object: object, Class: class, Detail: fmt.Sprintf(format, args...)}
}

// isNoSpace tells whether err is the system's way to say that a disk or a
// quota is full, and nothing is lost: a sync that finds no space has lost what
// it should have written (ErrFailed).
func isNoSpace(err error) bool {
	if errors.Is(err, ErrFailed) {
		return false
	}
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
