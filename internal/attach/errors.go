package attach

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// AttachedError says that a LUN has a device already.
type AttachedError struct{ Record Record }

func (e *AttachedError) Error() string {
	return fmt.Sprintf("%s is attached already, as %s", e.Record.Export, e.Record.Device)
}

// Unwrap lets errors.Is see what class it is of.
func (e *AttachedError) Unwrap() error { return unix.EBUSY }

// NotAttachedError says that there is no such device.
type NotAttachedError struct{ Name string }

func (e *NotAttachedError) Error() string { return e.Name + " is not attached on this host" }

// Unwrap lets errors.Is see what class it is of.
func (e *NotAttachedError) Unwrap() error { return unix.ENOENT }

// InUseError says who keeps a device from being detached.
type InUseError struct {
	Device string
	Users  []string // may be empty if that cannot be seen
}

func (e *InUseError) Error() string {
	who := "the kernel does not say by whom"
	if len(e.Users) > 0 {
		who = strings.Join(e.Users, ", ")
	}
	return fmt.Sprintf("%s is in use: %s", e.Device, who)
}

// Unwrap lets errors.Is see what class it is of.
func (e *InUseError) Unwrap() error { return unix.EBUSY }

// RefusedError is why a holder did not end.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

// Unwrap lets errors.Is see what class it is of.
func (e *RefusedError) Unwrap() error { return unix.EBUSY }
