package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/rowan-storage/rowan/internal/httpapi/client"
	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

// The exit codes.
const (
	ExitDone       = 0
	ExitFailed     = 1
	ExitUsage      = 2
	ExitPartly     = 3  // some of what was asked for was done
	ExitNotFound   = 10 // what was named does not exist
	ExitInUse      = 11 // locked or in use
	ExitNotAllowed = 12
)

// Error is an error with an exit code and what to do about it.
type Error struct {
	Code int
	Err  error
	Hint string // a line for the person, may be ""
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// usagef makes an error about how the command was called.
func usagef(format string, args ...any) error {
	return &Error{Code: ExitUsage, Err: fmt.Errorf(format, args...)}
}

// exitCode finds the exit code that tells best what err is.
func exitCode(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	var p *wire.Problem
	if errors.As(err, &p) {
		switch p.Code {
		case wire.NotFound, wire.Stale:
			return ExitNotFound
		case wire.InUse, wire.Locked:
			return ExitInUse
		case wire.NotAllowed, wire.ReadOnly:
			return ExitNotAllowed
		case wire.Invalid:
			return ExitUsage
		}
		return ExitFailed
	}
	switch {
	case err == nil:
		return ExitDone
	case errors.As(err, new(*client.UnreachableError)) && !errors.Is(err, fs.ErrPermission):
		return ExitFailed
	case errors.Is(err, fs.ErrNotExist):
		return ExitNotFound
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return ExitNotAllowed
	case errors.Is(err, syscall.EBUSY):
		return ExitInUse
	}
	return ExitFailed
}

// explain puts err into words for a person: what happened, and what to do
// next, which may be "".
func explain(err error) (what, next string) {
	var e *Error
	if errors.As(err, &e) && e.Hint != "" {
		return err.Error(), e.Hint
	}
	var u *client.UnreachableError
	if errors.As(err, &u) {
		return explainUnreachable(u)
	}
	var p *wire.Problem
	if errors.As(err, &p) {
		return err.Error(), hintFor(p)
	}
	if errors.Is(err, context.Canceled) {
		return "interrupted", ""
	}
	return err.Error(), ""
}

func explainUnreachable(u *client.UnreachableError) (what, next string) {
	switch {
	case errors.Is(u, fs.ErrPermission):
		return fmt.Sprintf("you may not open the API's socket %s", u.Socket),
			"Ask to be put into the socket's group, or run the command as its owner."
	case errors.Is(u, fs.ErrNotExist), errors.Is(u, syscall.ECONNREFUSED):
		return fmt.Sprintf("no appliance is running at %s", u.Socket),
			fmt.Sprintf("Start one with: rowand --pool DIR --api %s\n"+
				"or name the socket of another with --api or ROWAN_API.", u.Socket)
	}
	return fmt.Sprintf("no answer from the appliance at %s: %v", u.Socket, u.Err),
		"Its log tells more. rowan status shows whether it answers again."
}

func hintFor(p *wire.Problem) string {
	switch p.Code {
	case wire.NotFound, wire.Stale:
		if strings.Contains(p.Detail, "@") {
			return "rowan snapshot list shows the snapshots that there are."
		}
		return "rowan lun list shows the LUNs that there are."
	case wire.Locked:
		return "rowan snapshot unlock LUN@NAME takes the lock off."
	case wire.InUse:
		return "rowan lun list shows which LUNs have clients, rowan attach --list what is attached on this host."
	case wire.Exists:
		return "Choose another name."
	case wire.NoSpace:
		return "Delete snapshots that are no longer needed (rowan snapshot list shows what each would give back),\n" +
			"or make the filesystem of the pool larger."
	case wire.Failed, wire.Damaged:
		return "rowan status and the daemon's log tell more."
	case wire.Busy:
		return "Try again in a moment."
	}
	return ""
}
