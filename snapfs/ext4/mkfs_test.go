package ext4_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs/tree"
)

// TestMke2fs has mke2fs fill filesystems from a directory, and compares them
// with that directory. So kinds can be read that the kernel here cannot mount.
func TestMke2fs(t *testing.T) {
	need(t, "mke2fs", "setfacl")
	source := t.TempDir()
	p := &population{t: t, dir: source, rng: rand.New(rand.NewPCG(5, 6)), manyNames: 900, farOffset: 1 << 30}
	p.files()
	p.links()
	p.special()
	p.times()
	p.fragmented()
	p.directories()
	for _, n := range []int{1, 100, 400} {
		p.check(unix.Lsetxattr(p.path("files/4096"), fmt.Sprintf("user.of%d", n), p.random(n), 0))
	}
	sparse := &population{t: t, dir: t.TempDir(), rng: p.rng, farOffset: 1 << 30}
	sparse.sparse()
	for _, v := range []struct {
		name string
		args []string
	}{
		{"64k", []string{"-t", "ext4", "-b", "65536"}},
		{"64k-sparse", []string{"-t", "ext4", "-b", "65536"}},
		{"64k-nocsum", []string{"-t", "ext4", "-b", "65536", "-O", "^metadata_csum"}},
		{"16k-inline", []string{"-t", "ext4", "-b", "16384", "-I", "512", "-O", "inline_data"}},
		{"8k-ext2", []string{"-t", "ext2", "-b", "8192"}},
		{"4k-quota-verity", []string{"-t", "ext4", "-b", "4096", "-O", "quota,project,verity,casefold,encrypt"}},
		{"4k-everything", []string{"-t", "ext4", "-b", "4096", "-O", "bigalloc,inline_data,ea_inode,large_dir,meta_bg,^resize_inode,metadata_csum_seed,orphan_file"}},
		{"4k-raid", []string{"-t", "ext4", "-b", "4096", "-E", "stride=16,stripe_width=64", "-G", "4", "-g", "2048"}},
		{"4k-no-sparse-super", []string{"-t", "ext4", "-b", "4096", "-g", "4096", "-O", "^sparse_super,^metadata_csum,^resize_inode"}},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			source := source
			if strings.HasSuffix(v.name, "-sparse") { // with inline_data, mke2fs 1.47.0 makes wrong files of such
				source = sparse.dir
			}
			image := makeImage(t, 160<<20, append(v.args, "-N", "6000", "-d", source)...)
			c := &comparison{t: t, fsys: openImage(t, image), dir: source, rng: rand.New(rand.NewPCG(1, 2)), without: []string{"lost+found"}}
			c.adjust = func(path string, got *tree.Attr, want tree.Attr) {
				got.Ino, got.Blocks = want.Ino, want.Blocks
				mtime := got.Mtime
				takeTimes(got, want)
				if path != "" && want.Type != tree.Directory {
					got.Mtime = mtime
				}
				if mtime.Nanosecond() == 0 { // this mke2fs keeps whole seconds, of 32 bits
					got.Mtime = want.Mtime
				}
				if want.Type == tree.Directory || want.Type == tree.Symlink {
					got.Size, got.Nlink = want.Size, want.Nlink
				}
				if path == "" {
					got.Mode, got.UID, got.GID = want.Mode, want.UID, want.GID
				}
			}
			c.run()
		})
	}
}

// TestInfo compares what is told of a filesystem with mke2fs and statfs(2).
func TestInfo(t *testing.T) {
	for _, v := range []struct {
		kind string
		args []string
	}{
		{"ext2", []string{"-t", "ext2"}},
		{"ext3", []string{"-t", "ext3"}},
		{"ext4", []string{"-t", "ext4"}},
		{"ext4", []string{"-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "16384"}},
	} {
		const uuid = "01234567-89ab-cdef-0123-456789abcdef"
		image := makeImage(t, 64<<20, append(v.args, "-L", "a label, 16 byte", "-U", uuid)...)
		dir, unmount := mount(t, image)
		if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 3<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		command(t, "sync", "--file-system", dir)
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		unmount()
		info := openImage(t, image).Info()
		if info.Type != v.kind || info.Label != "a label, 16 byte" || info.UUID != uuid || info.SizeBytes != 64<<20 || len(info.Notes) != 0 {
			t.Errorf("%q: %+v", v.args, info)
		}
		if free := int64(st.Bfree) * st.Bsize; info.SizeBytes-info.UsedBytes != free {
			t.Errorf("%q: %d bytes free, statfs says %d", v.args, info.SizeBytes-info.UsedBytes, free)
		}
	}
}

// TestResized reads filesystems that were grown and shrunk.
func TestResized(t *testing.T) {
	need(t, "resize2fs")
	for _, args := range [][]string{
		{"-t", "ext4", "-b", "1024"},
		{"-t", "ext4", "-b", "1024", "-O", "^64bit"},
		{"-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"},
		{"-t", "ext4", "-b", "4096", "-O", "sparse_super2", "-E", "num_backup_sb=1"},
	} {
		image := makeImage(t, 24<<20, args...)
		for i, size := range []string{"130M", "100M"} {
			dir, unmount := mount(t, image)
			p := &population{t: t, dir: dir, rng: rand.New(rand.NewPCG(1, 1)), manyNames: 100, farOffset: 1 << 30}
			p.check(os.MkdirAll(p.path(fmt.Sprintf("%d/files", i)), 0o755))
			p.dir = p.path(fmt.Sprint(i))
			p.sparse()
			p.fragmented()
			p.directories()
			unmount()
			if err := os.Truncate(image, 130<<20); err != nil {
				t.Fatal(err)
			}
			command(t, "resize2fs", "-f", image, size)
		}
		dir, _ := mount(t, image, "ro")
		compare(t, openImage(t, image), dir)
	}
}

// TestLargeDirectory reads a directory of 45,000 names, most of which go.
func TestLargeDirectory(t *testing.T) {
	for i, args := range [][]string{
		{"-t", "ext4", "-b", "1024"},
		{"-t", "ext4", "-b", "4096", "-O", "^dir_index"},
		{"-t", "ext4", "-b", "4096", "-O", "^metadata_csum,large_dir"},
	} {
		n := 45_000
		if i > 0 || testing.Short() {
			n = 5000
		}
		image := makeImage(t, 96<<20, append(args, "-N", "60000")...)
		dir, unmount := mount(t, image)
		p := &population{t: t, dir: dir, manyNames: n}
		p.directories()
		unmount()
		dir, _ = mount(t, image, "ro")
		compare(t, openImage(t, image), dir)
	}
}

// TestDeepTree reads a file in 30,000 pieces, whose tree of extents has three
// levels below its root.
func TestDeepTree(t *testing.T) {
	for _, args := range [][]string{
		{"-t", "ext4", "-b", "1024"},
		{"-t", "ext2", "-b", "1024"},
	} {
		image := makeImage(t, 96<<20, args...)
		dir, unmount := mount(t, image)
		f, err := os.Create(filepath.Join(dir, "pieces"))
		if err != nil {
			t.Fatal(err)
		}
		block := make([]byte, 1024)
		for i := range 30_000 {
			binary.LittleEndian.PutUint64(block[8*(i%128):], uint64(i))
			if _, err := f.WriteAt(block, int64(i)*2048); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		unmount()
		dir, _ = mount(t, image, "ro")
		fsys := openImage(t, image)
		compare(t, fsys, dir)
		got, err := readPath(fsys, "pieces")
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(dir, "pieces"))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q: %d bytes differ from the kernel's %d, %v", args, len(got), len(want), err)
		}
	}
}
