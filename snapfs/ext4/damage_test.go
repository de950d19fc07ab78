package ext4_test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs/ext4"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// TestDamage damages metadata in hundreds of ways. Nothing may panic, hang or
// take much memory; and where the filesystem has checksums, whatever is read
// without an error is what was there.
//
// ROWAN_DAMAGE_TRIALS sets how many trials there are of each kind, and
// ROWAN_DAMAGE_SEED the number of the first.
func TestDamage(t *testing.T) {
	for _, v := range []struct {
		name    string
		args    []string
		dirty   bool // with a journal to be replayed
		checked bool // with checksums of everything
	}{
		{"csum", []string{"-t", "ext4", "-b", "1024", "-O", "metadata_csum"}, false, true},
		{"csum-4k-inline", []string{"-t", "ext4", "-b", "4096", "-O", "metadata_csum,inline_data,ea_inode,orphan_file"}, false, true},
		{"csum-dirty", []string{"-t", "ext4", "-b", "1024", "-O", "metadata_csum"}, true, true},
		{"csum-fast_commit", []string{"-t", "ext4", "-b", "1024", "-O", "metadata_csum,fast_commit"}, true, true},
		{"nocsum", []string{"-t", "ext4", "-b", "1024", "-O", "^metadata_csum"}, false, false},
		{"ext3-dirty", []string{"-t", "ext3", "-b", "1024"}, true, false},
		{"ext2", []string{"-t", "ext2", "-b", "1024"}, false, false},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			d := newDamage(t, makeDamageImage(t, v.args, v.dirty))
			trials, first := number("ROWAN_DAMAGE_TRIALS", 50), number("ROWAN_DAMAGE_SEED", 0)
			if testing.Short() {
				trials = min(trials, 10)
			}
			for seed := first; seed < first+trials; seed++ {
				d.trial(seed, v.checked)
			}
			t.Logf("%d trials from seed %d: %d not opened, %d with errors or notes, %d files compared, %d MiB of memory from the system",
				trials, first, d.refused, d.noticed, d.compared, d.memory()>>20)
			if d.memory() > 1<<30 {
				t.Error("too much memory")
			}
		})
	}
}

// number is a number in the environment.
func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// makeDamageImage makes a small image with one of everything.
func makeDamageImage(t *testing.T, args []string, dirty bool) string {
	image := makeImage(t, 12<<20, append(args, "-N", "1200")...)
	dir, unmount := mount(t, image)
	p := &population{t: t, dir: dir, rng: rand.New(rand.NewPCG(8, 8)), manyNames: 500, farOffset: 1 << 30}
	fill := func() {
		p.check(os.Mkdir(p.path("files"), 0o755))
		for _, n := range []int{10, 100, 5000, 100_000} {
			p.write(fmt.Sprintf("files/%d", n), p.random(n))
		}
		p.fragmented()
		p.sparse()
		p.directories()
		p.check(os.Symlink("short", p.path("short")), os.Symlink(strings.Repeat("l", 200), p.path("long")))
		p.check(os.Mkdir(p.path("attributes"), 0o755))
		for i, n := range []int{5, 50, 500} {
			name := fmt.Sprintf("attributes/%d", i)
			p.write(name, p.random(10))
			p.check(unix.Lsetxattr(p.path(name), "user.a", p.random(n), 0))
		}
	}
	if !dirty {
		fill()
		unmount()
		return image
	}
	fill()
	command(t, "sync", "--file-system", dir)
	p.write("last", p.random(3000))
	for i := range 5 {
		p.write(fmt.Sprintf("files/last%d", i), p.random(3000))
		f, err := os.Open(p.path(fmt.Sprintf("files/last%d", i)))
		p.check(err)
		p.check(f.Sync(), f.Close())
	}
	image = copyImage(t, image)
	unmount()
	return image
}

// damage is an image and what is in it.
type damage struct {
	t        *testing.T
	image    []byte
	original []byte
	metadata []int64 // offsets of the blocks with metadata in use
	bs       int64
	notes    string
	want     map[string]string // what there is at each path

	refused, noticed, compared int
}

func newDamage(t *testing.T, path string) *damage {
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := &damage{t: t, image: image, original: slices.Clone(image)}
	fsys, err := openBytes(image)
	if err != nil {
		t.Fatal(err)
	}
	d.bs = fsys.BlockSize()
	d.notes = strings.Join(fsys.Info().Notes, " ")
	var errs []error
	d.want, errs = manifest(fsys)
	if len(errs) != 0 || len(d.want) < 300 {
		t.Fatalf("%d entries, %v", len(d.want), errs)
	}
	content := make(map[int64]bool)
	d.walk(fsys, func(ino tree.Ino) {
		ranges, err := fsys.ContentRanges(ino)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range ranges {
			for off := r.Offset; off < r.Offset+r.Length; off += d.bs {
				content[off] = true
			}
		}
	})
	zeros := make([]byte, d.bs)
	for off := int64(0); off < int64(len(image)); off += d.bs {
		if !content[off] && string(image[off:off+d.bs]) != string(zeros) {
			d.metadata = append(d.metadata, off)
		}
	}
	return d
}

func (d *damage) walk(fsys *ext4.FS, visit func(tree.Ino)) {
	_, _ = manifestOf(fsys, visit)
}

// trial damages one to four blocks, and puts them back.
func (d *damage) trial(seed int, checked bool) {
	rng := rand.New(rand.NewPCG(uint64(seed), 77))
	for range 1 + rng.IntN(4) {
		off := d.metadata[rng.IntN(len(d.metadata))]
		if rng.IntN(8) == 0 {
			off = d.metadata[rng.IntN(12)] // superblock, group descriptors
		}
		d.hurt(d.image[off:off+d.bs], rng)
		defer copy(d.image[off:off+d.bs], d.original[off:off+d.bs])
	}
	started := time.Now()
	fsys, err := openBytes(d.image)
	if err != nil {
		d.refused++
		return
	}
	got, errs := manifest(fsys)
	if took := time.Since(started); took > 10*time.Second {
		d.t.Errorf("seed %d: took %v", seed, took)
	}
	notes := strings.Join(fsys.Info().Notes, " ")
	if len(errs) > 0 || notes != d.notes {
		d.noticed++
	}
	if !checked || notes != d.notes { // then an earlier state is shown
		return
	}
	for path, what := range got {
		d.compared++
		if what != d.want[path] {
			d.t.Errorf("seed %d: /%s: %s\nexpected %s", seed, path, what, d.want[path])
		}
	}
	if len(errs) == 0 && len(got) != len(d.want) {
		d.t.Errorf("seed %d: %d entries of %d, and no error", seed, len(got), len(d.want))
	}
}

// hurt damages a block.
func (d *damage) hurt(b []byte, rng *rand.Rand) {
	switch rng.IntN(6) {
	case 0:
		clear(b)
	case 1:
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
	case 2:
		other := d.metadata[rng.IntN(len(d.metadata))]
		copy(b, d.original[other:other+d.bs])
	case 3: // a sector torn
		clear(b[rng.IntN(len(b)/512)*512:][:512])
	default:
		for range 1 + rng.IntN(5) {
			b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
		}
	}
}

func (d *damage) memory() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Sys
}

// manifest describes everything in a filesystem that can be read, by path.
func manifest(fsys tree.FileSystem) (map[string]string, []error) {
	return manifestOf(fsys, func(tree.Ino) {})
}

// maxManifest bounds how many entries and bytes are looked at, as a damaged
// filesystem may have any number.
const (
	maxManifest      = 20_000
	maxManifestBytes = 64 << 20
)

func manifestOf(fsys tree.FileSystem, visit func(tree.Ino)) (map[string]string, []error) {
	m := &manifestWalk{fsys: fsys, visit: visit, out: make(map[string]string), budget: maxManifestBytes}
	m.walk("", fsys.Root(), 0)
	return m.out, m.errs
}

// manifestFrom is manifest for the file ino and what is below it.
func manifestFrom(fsys tree.FileSystem, ino tree.Ino) (map[string]string, []error) {
	m := &manifestWalk{fsys: fsys, visit: func(tree.Ino) {}, out: make(map[string]string), budget: maxManifestBytes}
	m.walk("", ino, 0)
	return m.out, m.errs
}

type manifestWalk struct {
	fsys   tree.FileSystem
	visit  func(tree.Ino)
	out    map[string]string
	errs   []error
	budget int64
}

func (m *manifestWalk) failed(err error) bool {
	if err != nil && len(m.errs) < 1000 {
		m.errs = append(m.errs, err)
	}
	return err != nil
}

func (m *manifestWalk) walk(path string, ino tree.Ino, depth int) {
	if len(m.out) > maxManifest || depth > 100 {
		return
	}
	a, err := m.fsys.Stat(ino)
	if m.failed(err) {
		return
	}
	m.visit(ino)
	x, err := m.fsys.Xattrs(ino)
	attributes := fmt.Sprint(x)
	if m.failed(err) {
		attributes = ""
	}
	m.out[path] = fmt.Sprintf("%+v %x", a, sha256.Sum256([]byte(attributes)))
	if m.errs != nil && err != nil {
		delete(m.out, path)
	}
	switch a.Type {
	case tree.Directory:
		entries, err := m.fsys.ReadDir(ino)
		m.failed(err)
		for _, e := range entries {
			if _, err := m.fsys.Lookup(ino, e.Name); err != nil {
				m.failed(err)
			}
			m.walk(filepath.Join(path, e.Name), e.Ino, depth+1)
		}
	case tree.Symlink:
		target, err := m.fsys.Readlink(ino)
		if !m.failed(err) {
			m.out[path+" target"] = target
		}
	case tree.Regular:
		sum, err := m.content(ino, a.Size)
		if !m.failed(err) {
			m.out[path+" content"] = sum
		}
	}
}

// content hashes a file: all of it if it is small, else its start and its end.
func (m *manifestWalk) content(ino tree.Ino, size int64) (string, error) {
	r, err := m.fsys.Open(ino)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	const edge = 1 << 19
	for _, r2 := range [][2]int64{{0, min(size, 2*edge)}, {max(size-edge, 0), size}} {
		n := r2[1] - r2[0]
		if m.budget -= n; m.budget < 0 {
			return "", nil
		}
		b := make([]byte, n)
		if n, err := r.ReadAt(b, r2[0]); n < len(b) {
			return "", err
		}
		h.Write(b)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}
