package ext4_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs/ext4"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// dataRange is a range of a file that holds data.
type dataRange struct{ start, end int64 }

// kernelRanges asks the kernel where a file holds data.
func kernelRanges(t *testing.T, path string) (ranges []dataRange) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at := int64(0); ; {
		start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return ranges
		}
		end, err2 := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err != nil || err2 != nil {
			t.Fatal(path, err, err2)
		}
		ranges = append(ranges, dataRange{start, end})
		at = end
	}
}

// ranges gives the data of n bytes at off, puts together what is next to each
// other, and says how often it was called.
func ranges(t *testing.T, f *ext4.File, off, n int64) (ranges []dataRange, calls int) {
	t.Helper()
	at := off
	err := f.Extents(t.Context(), off, n, func(length int64, data bool) bool {
		calls++
		if length <= 0 {
			t.Fatalf("a range of %d bytes", length)
		}
		last := len(ranges) - 1
		switch {
		case !data:
		case last >= 0 && ranges[last].end == at:
			ranges[last].end += length
		default:
			ranges = append(ranges, dataRange{at, at + length})
		}
		at += length
		return true
	})
	if err != nil || at != off+n {
		t.Fatalf("extents of %d bytes at %d end at %d, %v", n, off, at, err)
	}
	return ranges, calls
}

// TestExtents compares where files hold data with what the kernel says, among
// them one of 1 TiB with four blocks.
func TestExtents(t *testing.T) {
	for _, v := range []struct {
		name string
		args []string
	}{
		{"ext4", []string{"-t", "ext4", "-b", "4096"}},
		{"ext4-inline", []string{"-t", "ext4", "-b", "4096", "-O", "inline_data"}},
		{"ext4-bigalloc", []string{"-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "16384"}},
		{"ext4-noextent", []string{"-t", "ext4", "-b", "4096", "-O", "^extent,^64bit,huge_file"}},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			image := makeDirtyImage(t, 64<<20, v.args...)
			dir, unmount := mount(t, image)
			p := &population{t: t, dir: dir, rng: rand.New(rand.NewPCG(3, 4)), farOffset: 1 << 30}
			p.files()
			p.sparse()
			p.fragmented()
			f, err := os.Create(p.path("terabyte"))
			p.check(err)
			for _, off := range []int64{0, 1 << 30, 700<<30 + 5000, 1<<40 - 100} {
				_, err := f.WriteAt(p.random(100), off)
				p.check(err)
			}
			p.check(f.Close())
			unmount()
			dir, _ = mount(t, image, "ro")
			e := &extentComparison{t: t, fsys: openImage(t, image), dir: dir, rng: p.rng}
			e.walk("", e.fsys.Root())
			if e.files < 30 {
				t.Errorf("%d files were compared", e.files)
			}
			big := e.open(lookup(t, e.fsys, "terabyte"))
			data, calls := ranges(t, big, 0, big.Size())
			if len(data) != 4 || data[3].end != 1<<40 || calls > 5000 {
				t.Errorf("1 TiB: %d calls, data at %v", calls, data)
			}
		})
	}
}

// extentComparison compares files with the kernel's.
type extentComparison struct {
	t     *testing.T
	fsys  *ext4.FS
	dir   string
	rng   *rand.Rand
	files int
}

func (e *extentComparison) open(ino tree.Ino) *ext4.File {
	e.t.Helper()
	r, err := e.fsys.Open(ino)
	if err != nil {
		e.t.Fatal(err)
	}
	return r.(*ext4.File)
}

func (e *extentComparison) walk(path string, dir tree.Ino) {
	entries, err := e.fsys.ReadDir(dir)
	if err != nil {
		e.t.Fatal(err)
	}
	for _, entry := range entries {
		name := filepath.Join(path, entry.Name)
		switch entry.Type {
		case tree.Directory:
			e.walk(name, entry.Ino)
		case tree.Regular:
			e.file(name, e.open(entry.Ino))
		}
	}
}

// file compares all of a file, and some ranges of it.
func (e *extentComparison) file(name string, f *ext4.File) {
	e.files++
	want := kernelRanges(e.t, filepath.Join(e.dir, name))
	if got, _ := ranges(e.t, f, 0, f.Size()); !slices.Equal(got, want) {
		e.t.Errorf("%s: data at %v, expected %v", name, got, want)
	}
	for range 10 {
		off := e.rng.Int64N(f.Size() + 1)
		n := e.rng.Int64N(f.Size() - off + 1)
		var part []dataRange
		for _, r := range want {
			if r = (dataRange{max(r.start, off), min(r.end, off+n)}); r.start < r.end {
				part = append(part, r)
			}
		}
		if got, _ := ranges(e.t, f, off, n); !slices.Equal(got, part) {
			e.t.Errorf("%s: data of %d bytes at %d: %v, expected %v", name, n, off, got, part)
		}
	}
}

// TestExtentsEnds: a range outside of the file is refused, and the walk ends
// with who asked for it.
func TestExtentsEnds(t *testing.T) {
	fsys, err := openBytes(smallImage(t, "-t", "ext4", "-O", "^has_journal,^resize_inode"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := fsys.Open(lookup(t, fsys, "file"))
	if err != nil {
		t.Fatal(err)
	}
	f := r.(*ext4.File)
	never := func(int64, bool) bool { t.Error("a range is told"); return false }
	for _, c := range [][2]int64{{-1, 1}, {0, -1}, {0, f.Size() + 1}, {f.Size(), 1}, {1, 1<<63 - 1}} {
		if err := f.Extents(t.Context(), c[0], c[1], never); err == nil {
			t.Errorf("%d bytes at %d: no error", c[1], c[0])
		}
	}
	if err := f.Extents(t.Context(), f.Size(), 0, never); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Extents(ctx, 0, f.Size(), never); !errors.Is(err, context.Canceled) || errors.Is(err, io.EOF) {
		t.Errorf("given up: %v", err)
	}
	calls := 0
	if err := f.Extents(t.Context(), 0, f.Size(), func(int64, bool) bool { calls++; return false }); err != nil || calls != 1 {
		t.Errorf("stopped: %d calls, %v", calls, err)
	}
}
