package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/rowan-storage/rowan/internal/attach"
	"github.com/rowan-storage/rowan/internal/background"
	"github.com/rowan-storage/rowan/internal/httpapi/client"
	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

func TestExitCodes(t *testing.T) {
	problem := func(code wire.Code) error { return &wire.Problem{Code: code, Detail: "LUN web: so it is"} }
	unreachable := func(err error) error { return &client.UnreachableError{Socket: "/s", Err: err} }
	cases := []struct {
		err  error
		code int
		next string // in what to do next
	}{
		{problem(wire.NotFound), 10, "rowan lun list"},
		{&wire.Problem{Code: wire.NotFound, Detail: "snapshot web@a: not found"}, 10, "rowan snapshot list"},
		{problem(wire.Stale), 10, "rowan lun list"},
		{problem(wire.Exists), 1, "another name"},
		{problem(wire.Invalid), 2, ""},
		{problem(wire.InUse), 11, "rowan attach --list"},
		{problem(wire.Locked), 11, "rowan snapshot unlock"},
		{problem(wire.ReadOnly), 12, ""},
		{problem(wire.NotAllowed), 12, ""},
		{problem(wire.NoSpace), 1, "Delete snapshots"},
		{problem(wire.Failed), 1, "log"},
		{problem(wire.Damaged), 1, "log"},
		{problem(wire.Busy), 1, "Try again"},
		{problem(wire.Stopping), 1, ""},
		{problem(wire.Internal), 1, ""},
		{unreachable(syscall.ENOENT), 1, "rowand --pool DIR --api /s"},
		{unreachable(syscall.ECONNREFUSED), 1, "rowand --pool DIR --api /s"},
		{unreachable(syscall.EACCES), 12, "group"},
		{unreachable(errors.New("reset")), 1, "log"},
		{attachError(&attach.AttachedError{Record: attach.Record{Export: "web", Device: "/dev/loop1"}}), 11, "rowan detach web"},
		{attachError(&attach.NotAttachedError{Name: "web"}), 10, "rowan attach --list"},
		{attachError(&attach.InUseError{Device: "/dev/loop1"}), 11, "Unmount it"},
		{attachError(&attach.RefusedError{Reason: "busy"}), 11, "Unmount it"},
		{attachError(&background.Error{Text: "no", Code: 12}), 12, ""},
		{attachError(fmt.Errorf("x: %w", fs.ErrPermission)), 12, "as root"},
		{fmt.Errorf("x: %w", fs.ErrNotExist), 10, ""},
		{fmt.Errorf("x: %w", syscall.EBUSY), 11, ""},
		{context.Canceled, 1, ""},
		{errors.New("x"), 1, ""},
		{usagef("x"), 2, ""},
		{nil, 0, ""},
	}
	for _, c := range cases {
		// Commands wrap errors; that changes nothing.
		if got := exitCode(c.err); got != c.code {
			t.Errorf("%v: exit code %d, want %d", c.err, got, c.code)
		}
		if c.err == nil {
			continue
		}
		what, next := explain(c.err)
		if what == "" || !strings.Contains(next, c.next) || c.next == "" && next != "" {
			t.Errorf("%v: said %q and %q, want %q in the second", c.err, what, next, c.next)
		}
	}
}

func TestSummary(t *testing.T) {
	a := &app{env: Env{Stderr: &strings.Builder{}}}
	notFound, inUse := &Error{Code: 10, Err: errors.New("a")}, &Error{Code: 11, Err: errors.New("b")}
	for _, c := range []struct {
		done int
		errs []error
		code int
	}{
		{3, nil, 0},
		{0, []error{notFound}, 10},
		{0, []error{notFound, notFound}, 10},
		{0, []error{notFound, inUse}, 1},
		{1, []error{inUse}, 3},
	} {
		if got := exitCode(a.summary(c.done, c.errs)); got != c.code {
			t.Errorf("%d done and %v: exit code %d, want %d", c.done, c.errs, got, c.code)
		}
	}
}
