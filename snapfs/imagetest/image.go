package imagetest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// memoryDir holds what tests make where it exists: a test that waits for a disk waits
// for everybody else's tests.
const memoryDir = "/dev/shm"

// New makes a sparse file of sizeBytes and returns its path.
func New(t testing.TB, name string, sizeBytes int64) string {
	t.Helper()
	path := filepath.Join(Dir(t), name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(sizeBytes); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// Dir makes a directory, in memory where the system offers it.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(memoryDir, "imagetest")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// WriteAt puts data at off of the file.
func WriteAt(t testing.TB, path string, off int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(data, off); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// CopyInto puts the content of the file src at off of the file dst, which
// stays sparse where src is.
func CopyInto(t testing.TB, dst string, off int64, src string) {
	t.Helper()
	data, err := os.ReadFile(src)
	if err != nil {
		t.Fatal(err)
	}
	const step = 64 << 10
	zeros := make([]byte, step)
	for at := 0; at < len(data); at += step {
		chunk := data[at:min(at+step, len(data))]
		if string(chunk) != string(zeros[:len(chunk)]) {
			WriteAt(t, dst, off+int64(at), chunk)
		}
	}
}

// Loop puts a loop device on the file and returns its path. options are those
// of losetup.
func Loop(t testing.TB, path string, options ...string) string {
	t.Helper()
	Root(t)
	Tool(t, "losetup")
	Device(t, "/dev/loop-control")
	dev := strings.TrimSpace(Run(t, "losetup", append([]string{"--find", "--show"}, append(options, path)...)...))
	t.Cleanup(func() { Run(t, "losetup", "--detach", dev) })
	return dev
}

// Mount mounts a device or a file with the kernel's own driver and returns the
// directory.
func Mount(t testing.TB, what, options string) string {
	t.Helper()
	Root(t)
	Tool(t, "mount", "umount")
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	Run(t, "mount", "-o", options, what, dir)
	t.Cleanup(func() { Run(t, "umount", dir) })
	return dir
}
