package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs/ext4"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// TestEveryChecksum changes one bit in each kind of structure that has a
// checksum, here and there: the read that needs it has to fail.
func TestEveryChecksum(t *testing.T) {
	for _, v := range []struct {
		name  string
		args  []string
		kinds []string
	}{
		{"metadata_csum", []string{"-b", "1024", "-O", "metadata_csum,ea_inode"},
			[]string{"inode", "group descriptor", "attribute block", "attribute value", "extent node", "directory block", "index root", "index node"}},
		{"metadata_csum-32bit", []string{"-b", "1024", "-I", "128", "-O", "metadata_csum,^64bit"},
			[]string{"inode", "group descriptor", "attribute block", "extent node", "directory block", "index root", "index node"}},
		{"uninit_bg", []string{"-b", "1024", "-O", "^metadata_csum,uninit_bg"},
			[]string{"group descriptor"}},
		{"uninit_bg-32bit", []string{"-b", "1024", "-O", "^metadata_csum,uninit_bg,^64bit"},
			[]string{"group descriptor"}},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			image := checksumImage(t, append(v.args, "-t", "ext4"))
			fsys, err := openBytes(image)
			if err != nil {
				t.Fatal(err)
			}
			places := structures(t, fsys)
			rng := rand.New(rand.NewPCG(2, 2))
			for _, kind := range v.kinds {
				if len(places[kind]) == 0 {
					t.Errorf("there is no %s", kind)
				}
				for i := range min(len(places[kind]), 12) {
					s := places[kind][i*len(places[kind])/min(len(places[kind]), 12)]
					checkFlip(t, image, s, rng.Int64N(s.Length), rng.IntN(8))
				}
			}
			for off := int64(1024); v.name == "metadata_csum" && off < 2048; off += 5 {
				image[off] ^= 1
				if _, err := openBytes(image); err == nil {
					t.Errorf("superblock: bit changed in byte %d, and no error", off-1024)
				}
				image[off] ^= 1
			}
		})
	}
}

// checkFlip changes a bit of s and reads all that hangs on it.
func checkFlip(t *testing.T, image []byte, s ext4.Structure, at int64, bit int) {
	t.Helper()
	image[s.Offset+at] ^= 1 << bit
	defer func() { image[s.Offset+at] ^= 1 << bit }()
	fsys, err := openBytes(image)
	if err != nil {
		t.Fatal(err)
	}
	if _, errs := manifestFrom(fsys, s.Ino); !errors.Is(errors.Join(errs...), ext4.ErrCorrupt) {
		t.Errorf("%s of inode %d: bit changed in byte %d, and no error: %v", s.Kind, s.Ino, at, errs)
	}
}

// structures sorts all checksummed structures of an image by kind.
func structures(t *testing.T, fsys *ext4.FS) map[string][]ext4.Structure {
	t.Helper()
	out := make(map[string][]ext4.Structure)
	_, errs := manifestOf(fsys, func(ino tree.Ino) {
		all, err := fsys.Structures(ino)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range all {
			out[s.Kind] = append(out[s.Kind], s)
		}
	})
	if len(errs) != 0 {
		t.Fatal(errs)
	}
	return out
}

// TestMisplacedDirBlock copies blocks of a directory over others of the same
// directory. Their checksums hold in the wrong place as well.
func TestMisplacedDirBlock(t *testing.T) {
	image := checksumImage(t, []string{"-t", "ext4", "-b", "1024", "-O", "metadata_csum"})
	fsys, err := openBytes(image)
	if err != nil {
		t.Fatal(err)
	}
	many := lookup(t, fsys, "many")
	all, err := fsys.Structures(many)
	if err != nil {
		t.Fatal(err)
	}
	kinds := make(map[string][]int64)
	for _, s := range all {
		kinds[s.Kind] = append(kinds[s.Kind], s.Offset)
	}
	leaves, nodes := kinds["directory block"], kinds["index node"]
	for name, c := range map[string]struct{ from, to int64 }{
		"a leaf over another":    {leaves[3], leaves[9]},
		"an index over a leaf":   {nodes[1], leaves[20]},
		"a leaf over an index":   {leaves[5], nodes[1]},
		"a leaf over the root":   {leaves[5], kinds["index root"][0]},
		"an index over the root": {nodes[0], kinds["index root"][0]},
	} {
		saved := bytes.Clone(image[c.to : c.to+1024])
		copy(image[c.to:c.to+1024], image[c.from:])
		fsys, err := openBytes(image)
		if err != nil {
			t.Fatal(err)
		}
		if entries, err := fsys.ReadDir(many); !errors.Is(err, ext4.ErrCorrupt) || len(entries) < 3900 {
			t.Errorf("%s: %d entries, %v", name, len(entries), err)
		}
		if _, err := fsys.ReadDir(many); !errors.Is(err, ext4.ErrCorrupt) {
			t.Errorf("%s, from the cache: %v", name, err)
		}
		copy(image[c.to:], saved)
	}
}

// checksumImage has all kinds of structures in it.
func checksumImage(t *testing.T, args []string) []byte {
	path := makeImage(t, 32<<20, append(args, "-N", "8000")...)
	dir, unmount := mount(t, path)
	p := &population{t: t, dir: dir, rng: rand.New(rand.NewPCG(4, 4))}
	p.check(os.Mkdir(p.path("files"), 0o755), os.Mkdir(p.path("many"), 0o755))
	p.fragmented()
	for i := range 4000 { // an index of two levels
		p.check(unix.Mknod(p.path(fmt.Sprintf("many/a rather long name, that the directory may have many blocks, number %d", i)), unix.S_IFREG, 0))
	}
	for i := range 20 {
		name := fmt.Sprintf("files/%d", i)
		p.write(name, p.random(100))
		p.check(unix.Lsetxattr(p.path(name), "user.small", p.random(300), 0))
		if err := unix.Lsetxattr(p.path(name), "user.large", p.random(1500), 0); err != nil && !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	unmount()
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return image
}
