package ext4_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rowan-storage/rowan/snapfs/ext4"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

func treeIno(n uint64) tree.Ino { return tree.Ino(n) }

// smallImage is a small filesystem with the files of TestMke2fs' kind.
func smallImage(t testing.TB, args ...string) []byte {
	t.Helper()
	source := t.TempDir()
	if err := errors.Join(
		os.WriteFile(source+"/file", bytes.Repeat([]byte("content "), 3000), 0o644),
		os.Mkdir(source+"/dir", 0o755),
		os.WriteFile(source+"/dir/inside", []byte("x"), 0o600),
		os.Symlink("file", source+"/link"),
		os.Symlink(strings.Repeat("long", 40), source+"/longlink"),
	); err != nil {
		t.Fatal(err)
	}
	path := makeImage(t, 512<<10, append([]string{"-b", "1024", "-N", "32", "-d", source}, args...)...)
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// seal writes the checksum of the superblock.
func seal(image []byte) {
	sb := image[1024:2048]
	sum := ^crc32.Update(0, crc32.MakeTable(crc32.Castagnoli), sb[:1020])
	binary.LittleEndian.PutUint32(sb[1020:], sum)
}

// TestRefusals: what this package does not read, it refuses in words.
func TestRefusals(t *testing.T) {
	put16 := func(off int, v uint16) func(sb []byte) {
		return func(sb []byte) { binary.LittleEndian.PutUint16(sb[off:], v) }
	}
	put32 := func(off int, v uint32) func(sb []byte) {
		return func(sb []byte) { binary.LittleEndian.PutUint32(sb[off:], v) }
	}
	or32 := func(off int, v uint32) func(sb []byte) {
		return func(sb []byte) {
			binary.LittleEndian.PutUint32(sb[off:], binary.LittleEndian.Uint32(sb[off:])|v)
		}
	}
	image := smallImage(t, "-t", "ext4", "-O", "metadata_csum,^has_journal,^resize_inode")
	for _, c := range []struct {
		name  string
		edit  func(sb []byte)
		class error
		text  string
	}{
		{"nothing", func([]byte) {}, nil, ""},
		{"magic", put16(0x38, 0), ext4.ErrNotExt4, ""},
		{"compression", or32(0x60, 0x1), ext4.ErrUnsupported, "compression"},
		{"dirdata", or32(0x60, 0x1000), ext4.ErrUnsupported, "dirdata"},
		{"the future", or32(0x60, 0x80000000|0x40000), ext4.ErrUnsupported, "FEATURE_I18, FEATURE_I31"},
		{"journal device", or32(0x60, 0x8), ext4.ErrUnsupported, "external journal of another filesystem"},
		{"unknown read-only feature", or32(0x64, 0x40000000), nil, ""},
		{"checksum type", func(sb []byte) { sb[0x175] = 9 }, ext4.ErrUnsupported, "checksum type 9"},
		{"block size", put32(0x18, 7), ext4.ErrCorrupt, "block size"},
		{"inode size", put16(0x58, 300), ext4.ErrCorrupt, "inode size 300"},
		{"small inode", put16(0x58, 64), ext4.ErrCorrupt, "inode size 64"},
		{"descriptor size", put16(0xfe, 48), ext4.ErrCorrupt, "descriptor size 48"},
		{"no blocks", put32(0x04, 0), ext4.ErrCorrupt, "first data block"},
		{"no groups", put32(0x20, 0), ext4.ErrCorrupt, "blocks in a group"},
		{"wide groups", put32(0x20, 8193), ext4.ErrCorrupt, "blocks in a group"},
		{"no inodes", put32(0x28, 0), ext4.ErrCorrupt, "inodes in a group"},
		{"many inodes", put32(0x00, 1<<30), ext4.ErrCorrupt, "inodes in"},
		{"first inode", put32(0x54, 5), ext4.ErrCorrupt, "first inode 5"},
		{"first data block", put32(0x14, 0), ext4.ErrCorrupt, "first data block 0"},
		{"many blocks", put32(0x150, 1<<31), ext4.ErrCorrupt, "blocks"},
		{"external journal", func(sb []byte) { or32(0x5c, 4)(sb); or32(0x60, 4)(sb); put32(0xe0, 0)(sb) }, ext4.ErrUnsupported, "another device"},
	} {
		b := bytes.Clone(image)
		c.edit(b[1024:])
		seal(b)
		_, err := openBytes(b)
		if !errors.Is(err, c.class) || err != nil && !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.name, err)
		}
		var corrupt *ext4.CorruptError
		if c.class == ext4.ErrCorrupt && (!errors.As(err, &corrupt) || corrupt.Offset != 1024 || !errors.Is(err, syscall.EUCLEAN)) {
			t.Errorf("%s: %#v", c.name, err)
		}
	}
	b := bytes.Clone(image)
	b[1024+0x78] ^= 1
	if _, err := openBytes(b); !errors.Is(err, ext4.ErrCorrupt) || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("checksum: %v", err)
	}
	for _, n := range []int{0, 1, 1024, 2047} {
		if _, err := openBytes(image[:n]); !errors.Is(err, ext4.ErrNotExt4) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// TestWrongType: operations on the wrong type of file have the errno of the
// kernel, and names that are not there that of io/fs.
func TestWrongType(t *testing.T) {
	fsys, err := openBytes(smallImage(t, "-t", "ext4", "-O", "^has_journal,^resize_inode"))
	if err != nil {
		t.Fatal(err)
	}
	file, dir, link := lookup(t, fsys, "file"), lookup(t, fsys, "dir"), lookup(t, fsys, "link")
	_, err1 := fsys.Open(dir)
	_, err2 := fsys.Open(link)
	_, err3 := fsys.ReadDir(file)
	_, err4 := fsys.Lookup(file, "x")
	_, err5 := fsys.Readlink(file)
	_, err6 := fsys.Lookup(dir, "x")
	for i, c := range []struct{ got, want error }{
		{err1, syscall.EISDIR}, {err2, syscall.EINVAL}, {err3, syscall.ENOTDIR},
		{err4, syscall.ENOTDIR}, {err5, syscall.EINVAL}, {err6, os.ErrNotExist},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%d: %v, expected %v", i, c.got, c.want)
		}
	}
	for _, ino := range []tree.Ino{0, 1, 3, 8, 10, 30, 33, 1 << 32, 1<<32 + 2, 1 << 63} {
		if _, err := fsys.Stat(ino); !errors.Is(err, ext4.ErrCorrupt) {
			t.Errorf("Stat %d: %v", ino, err)
		}
	}
	r, err := fsys.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := r.ReadAt(make([]byte, 1), -1); n != 0 || err == nil || err == io.EOF {
		t.Errorf("ReadAt -1: %d, %v", n, err)
	}
	if n, err := r.ReadAt(make([]byte, 100), 23_950); n != 50 || err != io.EOF {
		t.Errorf("ReadAt at the end: %d, %v", n, err)
	}
	if n, err := r.ReadAt(make([]byte, 50), 23_950); n != 50 || err != nil && err != io.EOF {
		t.Errorf("ReadAt to the end: %d, %v", n, err)
	}
}

// TestShortImage: an image that is cut off is read as far as it goes; beyond
// that there are errors, and no ends of files.
func TestShortImage(t *testing.T) {
	image := smallImage(t, "-t", "ext4", "-O", "^has_journal,^resize_inode")
	whole, err := openBytes(image)
	if err != nil {
		t.Fatal(err)
	}
	want, errs := manifest(whole)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	for n := 0; n < len(image); n += 3000 {
		fsys, err := openBytes(image[:n])
		if err != nil {
			if n > 4096 && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%d bytes: %v", n, err)
			}
			continue
		}
		if notes := fsys.Info().Notes; len(notes) != 1 || !strings.Contains(notes[0], "larger than what it is on") {
			t.Errorf("%d bytes: notes %q", n, notes)
		}
		got, errs := manifest(fsys)
		for _, err := range errs {
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
		for path, what := range got {
			if what != want[path] {
				t.Errorf("%d bytes: %s: %s, expected %s", n, path, what, want[path])
			}
		}
		if len(errs) == 0 && len(got) != len(want) {
			t.Errorf("%d bytes: %d of %d, and no error", n, len(got), len(want))
		}
	}
}

// TestCutInodeTable: inodes before the end of the image are not lost with those
// that are read ahead.
func TestCutInodeTable(t *testing.T) {
	image := smallImage(t, "-t", "ext4", "-O", "^has_journal,^resize_inode")
	whole, err := openBytes(image)
	if err != nil {
		t.Fatal(err)
	}
	all, err := whole.Structures(whole.Root())
	if err != nil || all[0].Kind != "inode" {
		t.Fatal(all, err)
	}
	fsys, err := openBytes(image[:all[0].Offset&^1023+1024])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fsys.Stat(fsys.Root()); err != nil {
		t.Error(err)
	}
}

// faultyReader fails now and then.
type faultyReader struct {
	io.ReaderAt
	mu  sync.Mutex
	rng *rand.Rand
}

var errFaulty = errors.New("the cable is loose")

func (r *faultyReader) ReadAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rng.IntN(20) == 0 {
		return r.rng.IntN(len(p)), errFaulty
	}
	return r.ReaderAt.ReadAt(p, off)
}

// TestReadErrors: an error of the reader comes out as such, and the next try is
// not spoilt by it.
func TestReadErrors(t *testing.T) {
	image := smallImage(t, "-t", "ext4", "-O", "^has_journal,^resize_inode")
	sound, err := openBytes(image)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := manifest(sound)
	for seed := range uint64(300) {
		r := &faultyReader{ReaderAt: bytes.NewReader(image), rng: rand.New(rand.NewPCG(seed, 4))}
		fsys, err := ext4.Open(t.Context(), r, int64(len(image)))
		if err != nil {
			if !errors.Is(err, errFaulty) {
				t.Fatalf("seed %d: %v", seed, err)
			}
			continue
		}
		for range 2 {
			got, errs := manifest(fsys)
			for _, err := range errs {
				if !errors.Is(err, errFaulty) || errors.Is(err, ext4.ErrCorrupt) {
					t.Errorf("seed %d: %v", seed, err)
				}
			}
			for path, what := range got {
				if what != want[path] {
					t.Errorf("seed %d: %s: %s, expected %s", seed, path, what, want[path])
				}
			}
		}
	}
}

// TestConcurrent reads everything from several goroutines at once.
func TestConcurrent(t *testing.T) {
	fsys, err := openBytes(smallImage(t, "-t", "ext4", "-O", "^has_journal,^resize_inode"))
	if err != nil {
		t.Fatal(err)
	}
	want, _ := manifest(fsys)
	file, err := fsys.Open(lookup(t, fsys, "file"))
	if err != nil {
		t.Fatal(err)
	}
	content, err := readAll(file, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range uint64(8) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(i, 0))
			for range 30 {
				got, errs := manifest(fsys)
				if len(errs) != 0 || len(got) != len(want) {
					t.Error(errs)
				}
				_ = fsys.Info()
				p := make([]byte, 1+rng.IntN(5000))
				at := rng.IntN(len(content) - len(p))
				if _, err := file.ReadAt(p, int64(at)); err != nil || !bytes.Equal(p, content[at:at+len(p)]) {
					t.Errorf("ReadAt %d+%d: %v", at, len(p), err)
				}
			}
		})
	}
	wg.Wait()
}
