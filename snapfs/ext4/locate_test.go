package ext4_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rowan-storage/rowan/snapfs/ext4"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// located is what Locate tells, by range.
func located(t *testing.T, fsys *ext4.FS, ranges []tree.Range) ([][]tree.Owner, error) {
	t.Helper()
	out := make([][]tree.Owner, len(ranges))
	err := fsys.Locate(t.Context(), ranges, func(i int, o tree.Owner) {
		if !slices.Contains(out[i], o) {
			out[i] = append(out[i], o)
		}
	})
	return out, err
}

// TestLocate asks for every block of filesystems and compares the answers with
// those of debugfs, which finds the inode of a block and knows which are in use.
func TestLocate(t *testing.T) {
	need(t, "debugfs", "setfacl")
	for _, v := range []struct {
		name  string
		block int64
		args  []string
	}{
		{"ext4-1k", 1024, []string{"-t", "ext4", "-b", "1024"}},
		{"ext4-4k", 4096, []string{"-t", "ext4", "-b", "4096", "-g", "1024", "-O", "mmp,quota"}},
		{"ext4-inline", 4096, []string{"-t", "ext4", "-b", "4096", "-O", "inline_data,ea_inode,orphan_file"}},
		{"ext4-meta_bg", 1024, []string{"-t", "ext4", "-b", "1024", "-g", "512", "-O", "meta_bg,^resize_inode"}},
		{"ext3", 1024, []string{"-t", "ext3", "-b", "1024"}},
		{"ext2-nocsum", 4096, []string{"-t", "ext2", "-b", "4096"}},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			source := t.TempDir()
			p := &population{t: t, dir: source, rng: rand.New(rand.NewPCG(1, 2)), manyNames: 300, farOffset: 1 << 27}
			p.files()
			p.check(os.Symlink("short", p.path("short")), os.Symlink(strings.Repeat("l", 200), p.path("long")))
			p.fragmented()
			p.directories()
			image := makeImage(t, 24<<20, append(v.args, "-N", "3000", "-d", source)...)
			ranges := make([]tree.Range, 24<<20/v.block)
			for i := range ranges {
				ranges[i] = tree.Range{OffsetBytes: int64(i) * v.block, LengthBytes: v.block}
			}
			got, err := located(t, openImage(t, image), ranges)
			if err != nil {
				t.Fatal(err)
			}
			owners, used := debugfsOwners(t, image, len(ranges))
			files := 0
			for b, list := range got {
				if b == 0 { // debugfs does not count it
					continue
				}
				if len(list) == 0 && used[b] || len(list) > 0 && !used[b] {
					t.Fatalf("block %d: %v, in use for debugfs: %v", b, list, used[b])
				}
				var inos []tree.Ino
				for _, o := range list {
					if o.Ino != 0 && o.Part != tree.Inode {
						inos = append(inos, o.Ino)
						files++
					}
				}
				// debugfs names one, and the filesystem's own inodes too.
				if want := owners[b]; (want == 2 || want > 10) && !slices.Contains(inos, want) && len(list) == 0 {
					t.Fatalf("block %d: %v, it belongs to inode %d", b, list, want)
				} else if len(inos) > 0 && !slices.Contains(inos, want) {
					t.Fatalf("block %d: inodes %v, for debugfs %d", b, inos, want)
				}
			}
			if files < 1000 {
				t.Errorf("only %d blocks of files", files)
			}
		})
	}
}

// debugfsOwners asks debugfs for the inode of each of n blocks and whether it is
// in use.
func debugfsOwners(t *testing.T, image string, n int) (owners []tree.Ino, used []bool) {
	t.Helper()
	var script strings.Builder
	for b := range n {
		fmt.Fprintf(&script, "testb %d\n", b)
	}
	script.WriteString("icheck")
	for b := range n {
		fmt.Fprintf(&script, " %d", b)
		if b%500 == 499 { // a line of debugfs is not longer
			script.WriteString("\nicheck")
		}
	}
	commands := t.TempDir() + "/commands"
	if err := os.WriteFile(commands, []byte(strings.TrimSuffix(script.String(), "icheck")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	owners, used = make([]tree.Ino, n), make([]bool, n)
	for line := range strings.Lines(command(t, "debugfs", "-f", commands, image)) {
		words := strings.Fields(line)
		switch {
		case len(words) >= 4 && words[0] == "Block":
			b, err := strconv.Atoi(words[1])
			if err != nil {
				t.Fatal(line)
			}
			used[b] = words[2] != "not"
		case len(words) == 2:
			if b, err := strconv.Atoi(words[0]); err == nil {
				ino, err := strconv.Atoi(words[1])
				if err != nil {
					t.Fatal(line)
				}
				owners[b] = tree.Ino(ino)
			}
		}
	}
	return owners, used
}

// badSectors is an image of which parts cannot be read.
type badSectors struct {
	io.ReaderAt
	mu  sync.Mutex
	bad []tree.Range
}

func (b *badSectors) ReadAt(p []byte, off int64) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.bad {
		if off < r.OffsetBytes+r.LengthBytes && r.OffsetBytes < off+int64(len(p)) {
			return 0, syscall.EIO
		}
	}
	return b.ReaderAt.ReadAt(p, off)
}

// open opens an image of which parts can then not be read any more.
func openBad(t *testing.T, image string, bad ...tree.Range) *ext4.FS {
	t.Helper()
	file, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	fsys, err := ext4.Open(t.Context(), &badSectors{ReaderAt: file, bad: bad}, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return fsys
}

// TestLocateUnreadable asks for a block of the inode table that cannot be read:
// the inodes in use of it are told, and that files may be missing.
func TestLocateUnreadable(t *testing.T) {
	source := t.TempDir()
	p := &population{t: t, dir: source, rng: rand.New(rand.NewPCG(1, 2))}
	for i := range 100 {
		p.write(fmt.Sprintf("f%02d", i), p.random(5000))
	}
	image := makeImage(t, 16<<20, "-t", "ext4", "-b", "4096", "-N", "512", "-d", source)
	table := inodeTableOf(t, image)
	bad := tree.Range{OffsetBytes: table + 2*4096, LengthBytes: 4096}
	fsys := openBad(t, image, bad)
	got, err := located(t, fsys, []tree.Range{bad})
	if !errors.Is(err, syscall.EIO) || strings.Count(err.Error(), "more") != 0 {
		t.Errorf("error %v", err)
	}
	want := []tree.Owner{{Part: "inode table"}}
	for ino := tree.Ino(33); ino <= 48; ino++ {
		want = append(want, tree.Owner{Ino: ino, Part: tree.Inode})
	}
	if !slices.Equal(got[0], want) {
		t.Errorf("got %v, want %v", got[0], want)
	}
	// Those around it can be read, though tables are read in larger pieces.
	for ino := tree.Ino(11); ino <= 110; ino++ {
		_, err := fsys.Stat(ino)
		if lost := ino >= 33 && ino <= 48; (err != nil) != lost {
			t.Errorf("inode %d: %v", ino, err)
		}
	}
}

// inodeTableOf says at which byte the first inode table is.
func inodeTableOf(t *testing.T, image string) int64 {
	t.Helper()
	for line := range strings.Lines(command(t, "debugfs", "-R", "imap <1>", image)) {
		if _, at, ok := strings.Cut(line, "located at block "); ok {
			b, _, _ := strings.Cut(at, ",")
			n, err := strconv.ParseInt(strings.TrimSpace(b), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n * 4096
		}
	}
	t.Fatal("debugfs does not say where the inode table is")
	return 0
}

// TestDirectoryWithUnreadableBlock lists the names that the other blocks of a
// directory hold, though it is read in larger pieces.
func TestDirectoryWithUnreadableBlock(t *testing.T) {
	source := t.TempDir()
	p := &population{t: t, dir: source, rng: rand.New(rand.NewPCG(1, 2))}
	for i := range 400 {
		p.write(fmt.Sprintf("a-name-that-is-quite-long-and-takes-room-%03d", i), nil)
	}
	image := makeImage(t, 16<<20, "-t", "ext4", "-b", "4096", "-N", "1024", "-d", source)
	blocks := strings.Fields(command(t, "debugfs", "-R", "blocks <2>", image))
	var bad int64
	if n, err := strconv.ParseInt(blocks[len(blocks)-3], 10, 64); err != nil {
		t.Fatal(err)
	} else {
		bad = n * 4096
	}
	all, err := openImage(t, image).ReadDir(2)
	if err != nil {
		t.Fatal(err)
	}
	some, err := openBad(t, image, tree.Range{OffsetBytes: bad, LengthBytes: 4096}).ReadDir(2)
	if !errors.Is(err, syscall.EIO) {
		t.Errorf("error %v", err)
	}
	if lost := len(all) - len(some); lost < 20 || lost > 90 {
		t.Errorf("%d names of %d, of %d blocks one is lost", len(some), len(all), len(blocks))
	}
}

// TestLocateEnds gives a search up when its context ends.
func TestLocateEnds(t *testing.T) {
	source := t.TempDir()
	p := &population{t: t, dir: source, rng: rand.New(rand.NewPCG(1, 2))}
	p.write("file", p.random(100_000))
	image := makeImage(t, 16<<20, "-t", "ext4", "-d", source)
	ctx, cancel := context.WithCancel(t.Context())
	err := openImage(t, image).Locate(ctx, []tree.Range{{OffsetBytes: 0, LengthBytes: 16 << 20}}, func(int, tree.Owner) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
