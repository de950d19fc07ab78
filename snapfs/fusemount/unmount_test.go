package fusemount_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/fusemount"
	"github.com/rowan-storage/rowan/snapfs/imagetest"
)

// TestUnmountBusy: Unmount refuses while a file is open, lazily it works, and
// the mount ends with the file.
func TestUnmountBusy(t *testing.T) {
	needFUSE(t)
	src := imagetest.NewSource(t)
	src.Add(t, "web", "a", small(t, "one"))
	root := snapfs.New(src, snapfs.Options{})
	defer root.Close()
	dir := t.TempDir()
	s, err := fusemount.Mount(dir, root, fusemount.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(dir, "web/a/disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Unmount(); !errors.Is(err, syscall.EBUSY) || !strings.Contains(err.Error(), "has a file in it open") {
		t.Errorf("unmount with an open file: %v, want EBUSY", err)
	}
	if _, err := fusemount.Mount(dir, root, fusemount.Options{}); !errors.Is(err, syscall.EBUSY) || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second mount: %v, want EBUSY", err)
	}
	if err := s.UnmountLazily(); err != nil {
		t.Fatal(err)
	}
	expectNames(t, dir)
	if err := s.Unmount(); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("unmount with a file open that is out of sight: %v, want EBUSY", err)
	}
	if _, err := f.ReadAt(make([]byte, 10), 0); err != nil {
		t.Errorf("read of the file that is still open: %v", err)
	}
	f.Close()
	s.Wait()
	for _, unmount := range []func() error{s.Unmount, s.UnmountLazily} {
		if err := unmount(); err != nil {
			t.Errorf("after the end: %v", err)
		}
	}
}

// TestUnmountedFromOutside: the administrator unmounts, and what is mounted
// there afterwards is left alone.
func TestUnmountedFromOutside(t *testing.T) {
	needFUSE(t)
	src := imagetest.NewSource(t)
	src.AddLUN("web")
	root := snapfs.New(src, snapfs.Options{})
	defer root.Close()
	dir := t.TempDir()
	s, err := fusemount.Mount(dir, root, fusemount.Options{})
	if err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, "umount", dir)
	s.Wait()
	imagetest.Run(t, "mount", "-t", "tmpfs", "tmpfs", dir)
	defer imagetest.Run(t, "umount", dir)
	if err := s.Unmount(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Error(err)
	}
	expectNames(t, dir, "file")
}
