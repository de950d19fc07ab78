package snapfs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/imagetest"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// fuzzDepth and fuzzFiles bound the walk through a fuzzed image, whose
// directories may contain themselves.
const (
	fuzzDepth = 4
	fuzzFiles = 200
)

// FuzzTree looks at everything in an image made up of anything: no panic, no
// error but those of a damaged image, a README where nothing can be read.
func FuzzTree(f *testing.F) {
	for _, seed := range fuzzSeeds(f) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > imagetest.MiB {
			return
		}
		ctx := context.Background()
		r := snapfs.New(&memorySource{data: data}, snapfs.Options{})
		defer r.Close()
		contents, err := r.Contents(ctx, "web", "a")
		if err != nil {
			t.Fatal(err)
		}
		top, err := r.Walk(ctx, snapfs.RootIno, "web/a", false)
		if err != nil {
			t.Fatal(err)
		}
		entries, err := r.ReadDir(ctx, top)
		if err != nil || len(entries) != len(contents.Areas)+2 {
			t.Fatalf("%d entries of %d areas, %v", len(entries), len(contents.Areas), err)
		}
		left := fuzzFiles
		for i, e := range entries[2:] {
			if area := contents.Areas[i]; !area.Readable {
				expectContent(t, r, "/web/a/"+e.Name+"/README", area.Reason+"\n")
			}
			look(t, r, e.Ino, fuzzDepth, &left)
		}
		if n := r.Panics(); n > 0 {
			t.Fatalf("a reader panicked %d times", n)
		}
	})
}

// look reads a file and what is below it.
func look(t *testing.T, r *snapfs.Root, ino tree.Ino, depth int, left *int) {
	if *left--; *left < 0 || depth == 0 {
		return
	}
	ctx := context.Background()
	attr, err := r.Stat(ctx, ino)
	if errors.Is(err, snapfs.ErrUnreachable) || errors.Is(err, snapfs.ErrGone) {
		t.Fatalf("a disk that can be read: %v", err)
	}
	if err != nil {
		return
	}
	r.Xattrs(ctx, ino)
	r.Readlink(ctx, ino)
	if f, err := r.Open(ctx, ino); err == nil {
		io.CopyN(io.Discard, io.NewSectionReader(f, 0, f.Size()), 1<<16)
		f.Close()
	}
	if attr.Type != tree.Directory {
		return
	}
	entries, _ := r.ReadDir(ctx, ino)
	for _, e := range entries {
		look(t, r, e.Ino, depth-1, left)
	}
}

// fuzzSeeds are small images: filesystems and signatures, bare and in a
// partition.
func fuzzSeeds(f *testing.F) [][]byte {
	seeds := [][]byte{
		nil, make([]byte, 4096), []byte("LUKS\xba\xbe\x00\x02"), append(make([]byte, 4086), "SWAPSPACE2"...),
		[]byte("\xeb\x52\x90NTFS    \x00\x02\x08" + string(make([]byte, 8192))),
		[]byte("\xeb\x76\x90EXFAT   " + string(make([]byte, 8192))),
	}
	for _, mkfs := range [][]string{
		{"mkfs.ext2", "-q", "-F", "-N", "16", "-d", imagetest.Files(f, map[string]string{"a/b": "c", "d": "-> a/b"})},
		{"mkfs.vfat", "-n", "LABEL"},
	} {
		if _, err := exec.LookPath(mkfs[0]); err != nil {
			continue // a seed less
		}
		path := imagetest.New(f, "seed", 64<<10)
		imagetest.Mkfs(mkfs[0], mkfs[1:]...)(f, path)
		bare, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		table := make([]byte, 8*512)
		copy(table[446:], "\x80\x00\x00\x00\x83\x00\x00\x00\x08\x00\x00\x00\x80\x00\x00\x00")
		table[510], table[511] = 0x55, 0xAA
		seeds = append(seeds, bare, bytes.Join([][]byte{table, bare}, nil))
	}
	return seeds
}
