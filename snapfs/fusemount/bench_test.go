package fusemount_test

import (
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/imagetest"
)

// dropCache makes the kernel forget what it keeps of a file's content.
func dropCache(b *testing.B, f *os.File) {
	b.Helper()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		b.Fatal(err)
	}
}

// benchmarkRead reads one file from beginning to end.
func benchmarkRead(b *testing.B, path string) {
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	b.SetBytes(info.Size())
	for b.Loop() {
		dropCache(b, f)
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			b.Fatal(err)
		}
		for {
			_, err := f.Read(buf)
			if err == io.EOF {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkRead reads a file through FUSE, and with the kernel's own driver.
func BenchmarkRead(b *testing.B) {
	needFUSE(b)
	dir := imagetest.Dir(b)
	data := make([]byte, 128*imagetest.MiB)
	rand.Read(data)
	if err := os.WriteFile(filepath.Join(dir, "file"), data, 0o600); err != nil {
		b.Fatal(err)
	}
	image := imagetest.New(b, "ext4.img", 160*imagetest.MiB)
	imagetest.Ext4("", dir)(b, image)
	src := imagetest.NewSource(b)
	src.Add(b, "web", "a", image)
	mnt := mountSource(b, src, snapfs.Options{})
	kernel := imagetest.Mount(b, image, "loop,ro")
	b.Run("rowan", func(b *testing.B) { benchmarkRead(b, filepath.Join(mnt, "web/a/fs/file")) })
	b.Run("raw", func(b *testing.B) { benchmarkRead(b, filepath.Join(mnt, "web/a/disk.raw")) })
	b.Run("kernel", func(b *testing.B) { benchmarkRead(b, filepath.Join(kernel, "file")) })
}

// BenchmarkList lists a directory of 45,000 files with their attributes, from
// a mount that has only been made ("first") and again ("kept").
func BenchmarkList(b *testing.B) {
	needFUSE(b)
	const count = 45000
	image := largeDirectory(b, count)
	list := func(b *testing.B, dir string) {
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != count {
			b.Fatalf("%d entries, %v", len(entries), err)
		}
		for _, e := range entries {
			if _, err := e.Info(); err != nil {
				b.Fatal(err)
			}
		}
	}
	src := imagetest.NewSource(b)
	src.Add(b, "web", "a", image)
	kernel := imagetest.Mount(b, image, "loop,ro")
	b.Run("kernel", func(b *testing.B) {
		for b.Loop() {
			list(b, filepath.Join(kernel, "large"))
		}
	})
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			mnt, s := mountServer(b, src, snapfs.Options{})
			if _, err := os.Stat(filepath.Join(mnt, "web/a/fs")); err != nil { // opens the filesystem
				b.Fatal(err)
			}
			b.StartTimer()
			list(b, filepath.Join(mnt, "web/a/fs/large"))
			b.StopTimer()
			if err := s.Unmount(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.Run("kept", func(b *testing.B) {
		mnt := mountSource(b, src, snapfs.Options{})
		list(b, filepath.Join(mnt, "web/a/fs/large"))
		for b.Loop() {
			list(b, filepath.Join(mnt, "web/a/fs/large"))
		}
	})
}
