package httpapi

import (
	"syscall"
	"testing"

	"github.com/rowan-storage/rowan/blockdev"
)

func TestProblemsAreSentences(t *testing.T) {
	for _, c := range []struct {
		err  blockdev.Error
		want string
	}{
		{blockdev.Error{Object: "size", Class: blockdev.ErrInvalid, Detail: "5 bytes: a LUN has a multiple of 4096 bytes, up to 100 TiB"},
			"the size 5 bytes is not possible: a LUN has a multiple of 4096 bytes, up to 100 TiB"},
		{blockdev.Error{Object: "name", Class: blockdev.ErrInvalid, Detail: `"a: b": use letters`},
			`the name "a: b" is not possible: use letters`},
		{blockdev.Error{Object: "LUN web", Class: blockdev.ErrInvalid, Detail: "has 2 bytes and cannot shrink to 1: what lies beyond would be lost"},
			"LUN web: has 2 bytes and cannot shrink to 1: what lies beyond would be lost"},
		{blockdev.Error{Object: "new layer", Class: blockdev.ErrNoSpace, Cause: syscall.ENOSPC}, "there is no space left in the pool"},
		{blockdev.Error{Object: "LUN web", Class: blockdev.ErrNoSpace, Cause: syscall.ENOSPC}, "LUN web: there is no space left in the pool"},
		{blockdev.Error{Object: "LUN web", Class: blockdev.ErrExists}, "LUN web: exists already"},
	} {
		if got := problemOf(&c.err).Detail; got != c.want {
			t.Errorf("%v is told as %q, want %q", &c.err, got, c.want)
		}
	}
}
