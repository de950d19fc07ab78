package blockfile

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"
)

// TestSyncOfATableIsNoWantOfSpace: what a failed sync has lost does not come
// back when there is room.
func TestSyncOfATableIsNoWantOfSpace(t *testing.T) {
	if err := updateError(syscall.ENOSPC); errors.Is(err, syscall.ENOSPC) || !errors.Is(err, syscall.EIO) {
		t.Errorf("sync: %v", err)
	}
	write := &fs.PathError{Op: "write", Path: "catalogue", Err: syscall.ENOSPC}
	if err := updateError(write); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write: %v", err)
	}
	if err := updateError(nil); err != nil {
		t.Error(err)
	}
}
