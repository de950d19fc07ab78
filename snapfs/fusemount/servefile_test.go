package fusemount_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs/fusemount"
	"github.com/rowan-storage/rowan/snapfs/imagetest"
)

// openServed serves a device and opens the file.
func openServed(t *testing.T, dev *memoryDisk) *os.File {
	t.Helper()
	f, err := os.OpenFile(serve(t, dev, fusemount.FileOptions{}), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestServedFile reads and writes the file itself.
func TestServedFile(t *testing.T) {
	dev := newMemoryDisk(8*imagetest.MiB + 512)
	path := serve(t, dev, fusemount.FileOptions{Name: "web", Source: "rowan-web"})
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 || entries[0].Name() != "web" || filepath.Base(path) != "web" {
		t.Errorf("the directory of %s holds %v, %v", path, entries, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, 3*imagetest.MiB+511)
	rand.Read(data)
	if _, err := f.WriteAt(data, 1000001); err != nil {
		t.Fatal(err)
	}
	dev.mu.Lock()
	same := bytes.Equal(dev.data[1000001:][:len(data)], data)
	dev.mu.Unlock()
	if !same {
		t.Error("what was written is not in the device when the write has returned")
	}
	got := make([]byte, len(data))
	if _, err := f.ReadAt(got, 1000001); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read: %v", err)
	}
	if n, err := f.ReadAt(got, dev.Size()-100); n != 100 || err != io.EOF {
		t.Errorf("read over the end: %d, %v", n, err)
	}
	if _, err := f.WriteAt(make([]byte, 1), dev.Size()); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write past the end: %v, want ENOSPC", err)
	}
	if n, err := unix.Pwrite(int(f.Fd()), make([]byte, 200), dev.Size()-100); n != 100 || err != nil {
		t.Errorf("write over the end: %d, %v, want 100", n, err)
	}
	dev.mu.Lock()
	dev.data = append(dev.data, make([]byte, imagetest.MiB)...)
	dev.mu.Unlock()
	eventually(t, "the file has grown with the device", func() bool {
		info, err := f.Stat()
		return err == nil && info.Size() == 9*imagetest.MiB+512
	})
}

func TestServedFileFallocate(t *testing.T) {
	dev := newMemoryDisk(8*imagetest.MiB + 512)
	f := openServed(t, dev)
	for _, c := range []struct {
		what   string
		mode   uint32
		off, n int64
		want   error
	}{
		{"punch", unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, 1 << 20, 1 << 20, nil},
		{"punch over the end", unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, 8 << 20, 1 << 20, nil},
		{"punch past the end", unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, 9 << 20, 1 << 20, nil},
		{"zero", unix.FALLOC_FL_ZERO_RANGE, 3 << 20, 1 << 20, nil},
		{"zero over the end", unix.FALLOC_FL_ZERO_RANGE, 8 << 20, 1 << 20, syscall.ENOSPC},
		{"allocate", 0, 0, 1 << 20, syscall.EOPNOTSUPP},
		{"allocate past the end", 0, 0, 1 << 30, syscall.ENOSPC},
	} {
		if err := unix.Fallocate(int(f.Fd()), c.mode, c.off, c.n); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
	if _, discarded, zeroed := dev.counts(); discarded != 1<<20+512 || zeroed != 1<<20 {
		t.Errorf("%d bytes were discarded, %d zeroed", discarded, zeroed)
	}
}

// TestServedFileErrors: an error of the device reaches the caller as it is.
func TestServedFileErrors(t *testing.T) {
	dev := newMemoryDisk(imagetest.MiB)
	f := openServed(t, dev)
	fd := int(f.Fd())
	buf := make([]byte, 1)
	for op, call := range map[string]func() error{
		"read":    func() error { _, err := f.ReadAt(buf, 0); return err },
		"write":   func() error { _, err := f.WriteAt(buf, 0); return err },
		"flush":   f.Sync,
		"discard": func() error { return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096) },
		"zero":    func() error { return unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 0, 4096) },
	} {
		for failure, want := range map[error]syscall.Errno{
			fmt.Errorf("pool: %w", syscall.ENOSPC): syscall.ENOSPC, syscall.EROFS: syscall.EROFS, syscall.ESTALE: syscall.ESTALE, errors.New("?"): syscall.EIO,
		} {
			dev.setFail(op, failure)
			if err := call(); !errors.Is(err, want) {
				t.Errorf("%s that fails with %v: %v, want %v", op, failure, err, want)
			}
			dev.setFail(op, nil)
		}
		if err := call(); err != nil {
			t.Errorf("%s afterwards: %v", op, err)
		}
	}
}

// TestServedFileStays: nothing can be done to the file but reading and writing.
func TestServedFileStays(t *testing.T) {
	dev := newMemoryDisk(imagetest.MiB)
	f := openServed(t, dev)
	_, openErr := os.OpenFile(f.Name(), os.O_RDWR|os.O_TRUNC, 0)
	for what, err := range map[string]error{
		"truncate": f.Truncate(0), "extend": f.Truncate(2 * imagetest.MiB), "chmod": f.Chmod(0o777), "unlink": os.Remove(f.Name()),
		"create": os.WriteFile(f.Name()+"2", nil, 0o600), "open with O_TRUNC": openErr,
	} {
		if err == nil {
			t.Errorf("%s worked", what)
		}
	}
	if err := f.Truncate(dev.Size()); err != nil {
		t.Errorf("truncate to the present size: %v", err)
	}
}

func TestServedFileReadOnly(t *testing.T) {
	dev := newMemoryDisk(imagetest.MiB)
	path := serve(t, dev, fusemount.FileOptions{ReadOnly: true})
	if _, err := os.OpenFile(path, os.O_RDWR, 0); !errors.Is(err, syscall.EROFS) {
		t.Errorf("opened for writing: %v, want EROFS", err)
	}
	imagetest.Run(t, "cmp", "-n", fmt.Sprint(imagetest.MiB), path, "/dev/zero")
}
