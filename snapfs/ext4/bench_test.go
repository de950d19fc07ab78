package ext4_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/rowan-storage/rowan/snapfs/ext4"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// benchImage makes an image with 50,000 files in 100 directories and one of
// 512 MiB.
func benchImage(b *testing.B) (path string) {
	path = makeImage(b, 1<<30, "-t", "ext4", "-b", "4096", "-N", "60000")
	dir, unmount := mount(b, path)
	for i := range 100 {
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprint(i)), 0o755); err != nil {
			b.Fatal(err)
		}
		for j := range 500 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d/file number %d", i, j)), nil, 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	p := &population{t: b, dir: dir, rng: rand.New(rand.NewPCG(1, 1))}
	chunk := p.random(1 << 20)
	f, err := os.Create(filepath.Join(dir, "large"))
	if err != nil {
		b.Fatal(err)
	}
	for range 512 {
		if _, err := f.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	unmount()
	return path
}

// BenchmarkWalk lists every directory and asks for the attributes of every
// file, in a filesystem opened anew.
func BenchmarkWalk(b *testing.B) {
	path := benchImage(b)
	for b.Loop() {
		fsys := openImage(b, path)
		n := 0
		var walk func(ino tree.Ino)
		walk = func(ino tree.Ino) {
			entries, err := fsys.ReadDir(ino)
			if err != nil {
				b.Fatal(err)
			}
			for _, e := range entries {
				a, err := fsys.Stat(e.Ino)
				if err != nil {
					b.Fatal(err)
				}
				n++
				if a.Type == tree.Directory {
					walk(e.Ino)
				}
			}
		}
		walk(fsys.Root())
		b.ReportMetric(float64(n), "files")
	}
}

// openLarge opens the large file.
func openLarge(b *testing.B) *ext4.File {
	fsys := openImage(b, benchImage(b))
	r, err := fsys.Open(lookup(b, fsys, "large"))
	if err != nil {
		b.Fatal(err)
	}
	return r.(*ext4.File)
}

// BenchmarkSequential reads a file of 512 MiB from its start to its end.
func BenchmarkSequential(b *testing.B) {
	r := openLarge(b)
	b.SetBytes(r.Size())
	buf := make([]byte, 1<<20)
	for b.Loop() {
		if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.NewSectionReader(r, 0, r.Size()), buf); n != r.Size() || err != nil {
			b.Fatal(n, err)
		}
	}
}

// BenchmarkRandom reads 4 KiB here and there in a file of 512 MiB.
func BenchmarkRandom(b *testing.B) {
	r := openLarge(b)
	rng := rand.New(rand.NewPCG(1, 1))
	b.SetBytes(4096)
	buf := make([]byte, 4096)
	for b.Loop() {
		if _, err := r.ReadAt(buf, rng.Int64N(r.Size()/4096)*4096); err != nil {
			b.Fatal(err)
		}
	}
}
