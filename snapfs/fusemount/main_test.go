package fusemount_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/fusemount"
	"github.com/rowan-storage/rowan/snapfs/imagetest"
)

// needFUSE says that the test mounts with FUSE.
func needFUSE(t testing.TB) {
	t.Helper()
	imagetest.Root(t)
	imagetest.Device(t, "/dev/fuse")
}

// mountSource mounts the tree over a source and returns its directory.
func mountSource(t testing.TB, src snapfs.Source, o snapfs.Options) string {
	t.Helper()
	dir, _ := mountServer(t, src, o)
	return dir
}

func mountServer(t testing.TB, src snapfs.Source, o snapfs.Options) (string, *fusemount.Server) {
	t.Helper()
	needFUSE(t)
	root := snapfs.New(src, o)
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := fusemount.Mount(dir, root, fusemount.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Unmount(); err != nil {
			t.Error(err)
			if err := s.UnmountLazily(); err != nil {
				t.Error(err)
			}
		}
		if err := root.Close(); err != nil {
			t.Error(err)
		}
	})
	return dir, s
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after a minute it is not so that %s", what)
		}
	}
}
