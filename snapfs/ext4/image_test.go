package ext4_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs/ext4"
)

// need skips the test if a program is missing, or the right to use mount; in CI
// that is a failure.
func need(t testing.TB, programs ...string) {
	t.Helper()
	missing := ""
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			missing = "program " + p
		}
		if p == "mount" && os.Geteuid() != 0 {
			missing = "root, to mount filesystems"
		}
	}
	if missing == "" {
		return
	}
	if os.Getenv("ROWAN_CI") != "" {
		t.Fatalf("missing: %s", missing)
	}
	t.Skipf("missing: %s", missing)
}

// command runs a program that must succeed, and returns what it prints.
func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

// makeImage makes a filesystem of size bytes in a file, with arguments for
// mke2fs.
func makeImage(t testing.TB, size int64, args ...string) string {
	t.Helper()
	need(t, "mke2fs")
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	command(t, "mke2fs", append([]string{"-q", "-F"}, append(args, path)...)...)
	return path
}

// makeDirtyImage is makeImage on a disk on which something was before.
func makeDirtyImage(t testing.TB, size int64, args ...string) string {
	t.Helper()
	path := makeImage(t, size, args...)
	if err := os.WriteFile(path, bytes.Repeat([]byte("old content; "), int(size/13+1))[:size], 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, "mke2fs", append([]string{"-q", "-F", "-E", "nodiscard"}, append(args, path)...)...)
	return path
}

// mount mounts an image through a loop device. The function that it returns
// unmounts it; so does the end of the test.
func mount(t testing.TB, image string, options ...string) (dir string, unmount func()) {
	t.Helper()
	dir, unmount, err := tryMount(t, image, options...)
	if err != nil {
		t.Fatal(err)
	}
	return dir, unmount
}

// tryMount is mount of an image that the kernel may refuse.
func tryMount(t testing.TB, image string, options ...string) (dir string, unmount func(), err error) {
	t.Helper()
	need(t, "mount", "umount")
	dir = t.TempDir()
	option := strings.Join(append([]string{"loop"}, options...), ",")
	if out, err := exec.Command("mount", "-t", "ext4", "-o", option, image, dir).CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("mount -o %s: %w: %s", option, err, out)
	}
	mounted := true
	unmount = func() {
		if !mounted {
			return
		}
		mounted = false
		// A child of another test may have inherited a descriptor for a file in
		// there, up to its exec(2): try again, and leave the rest to the kernel.
		for range 100 {
			if err := unix.Unmount(dir, 0); err == nil {
				return
			} else if err != unix.EBUSY || t.Failed() {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("cannot unmount %s", dir)
		command(t, "umount", "--lazy", dir)
	}
	t.Cleanup(unmount)
	return dir, unmount, nil
}

// copyImage copies an image, holes and all.
func copyImage(t testing.TB, image string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "copy")
	command(t, "cp", "--sparse=always", image, path)
	return path
}

// openImage opens the filesystem in a file.
func openImage(t testing.TB, path string) *ext4.FS {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	fsys, err := ext4.Open(t.Context(), file, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return fsys
}

// openBytes opens the filesystem in memory.
func openBytes(b []byte) (*ext4.FS, error) {
	return ext4.Open(context.Background(), bytes.NewReader(b), int64(len(b)))
}

// readAll reads the content of a file, at most limit bytes of it.
func readAll(r io.ReaderAt, limit int64) ([]byte, error) {
	return io.ReadAll(io.NewSectionReader(r, 0, limit))
}
