package blockdevtest_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/blockdev"
	"github.com/rowan-storage/rowan/blockdev/blockdevtest"
)

// rotten is a small pool on a disk that bits are flipped on.
type rotten struct {
	disk *blockdevtest.Disk
	// content is that of every LUN, and of every snapshot as lun@name.
	content map[string][]byte
	files   []string
}

const rottenBlocks = 40

// newRotten makes a pool as kill -9 leaves it, with journals that hold records:
// two LUNs with snapshots, and a clone.
func newRotten(t *testing.T) *rotten {
	t.Helper()
	ctx := context.Background()
	r := &rotten{disk: blockdevtest.NewDisk(blockdevtest.DiskOptions{}), content: make(map[string][]byte)}
	p, err := engine(true).Open(r.disk.Session(), r.disk.BootID())
	must(t, err)
	rng := rand.New(rand.NewPCG(1, 2))
	fill := func(lun string, block, count int64) {
		v, err := p.OpenLUN(lun)
		must(t, err)
		b := make([]byte, count*blockdev.BlockSize)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		_, err = v.WriteAt(b, block*blockdev.BlockSize)
		must(t, err)
		must(t, v.Close())
	}
	do := func(a blockdevtest.Action) {
		t.Helper()
		must(t, p.Do(ctx, a))
	}
	for _, lun := range []string{"a", "b"} {
		do(blockdevtest.Action{Kind: blockdevtest.OpCreateLUN, NewName: lun, SizeBytes: rottenBlocks * blockdev.BlockSize})
		fill(lun, 0, 20)
		do(blockdevtest.Action{Kind: blockdevtest.OpSnapshot, LUNs: []string{lun}, NewName: "s1"})
		fill(lun, 5, 3)
		fill(lun, 30, 1)
		do(blockdevtest.Action{Kind: blockdevtest.OpSnapshot, LUNs: []string{lun}, NewName: "s2"})
		do(blockdevtest.Action{Kind: blockdevtest.OpSettle})
		fill(lun, 6, 4)
	}
	do(blockdevtest.Action{Kind: blockdevtest.OpClone, LUNs: []string{"a"}, Snapshot: "s1", NewName: "c"})
	fill("c", 1, 1)
	r.read(t, p, func(name string, b []byte, err error) {
		must(t, err)
		r.content[name] = b
	})
	if len(r.content) != 7 {
		t.Fatalf("%d LUNs and snapshots", len(r.content))
	}
	r.disk.Crash(blockdevtest.Kill, 1)
	p.Close() // fails: its disk is gone
	r.list(t, ".")
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// list gathers the files below a directory, without the catalogue.
func (r *rotten) list(t *testing.T, dir string) {
	t.Helper()
	names, err := r.disk.ReadDir(dir)
	must(t, err)
	for _, n := range names {
		name := path.Join(dir, n)
		if _, err := r.disk.ReadDir(name); err == nil {
			r.list(t, name)
		} else if n != "catalogue" && n != "lock" {
			r.files = append(r.files, name)
		}
	}
}

func (r *rotten) read(t *testing.T, p blockdevtest.Pool, each func(name string, b []byte, err error)) {
	t.Helper()
	luns, err := p.State()
	must(t, err)
	for _, l := range luns {
		v, err := p.OpenLUN(l.Name)
		b, err := content(v, err)
		each(l.Name, b, err)
		for _, s := range l.Snapshots {
			v, err := p.OpenSnapshot(l.Name, s.Name)
			b, err := content(v, err)
			each(l.Name+"@"+s.Name, b, err)
		}
	}
}

// content reads a volume block by block, so that one damaged block does not
// hide how the others are read.
func content(v blockdevtest.Volume, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer v.Close()
	b := make([]byte, rottenBlocks*blockdev.BlockSize)
	for off := 0; off < len(b); off += blockdev.BlockSize {
		if _, err := v.ReadAt(b[off:off+blockdev.BlockSize], int64(off)); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// flip tries one bit and tells whether it was found.
func (r *rotten) flip(t *testing.T, name string, off int64, bit uint) (found bool) {
	t.Helper()
	d := r.disk.Clone()
	must(t, d.FlipBit(name, off, bit))
	what := fmt.Sprintf("%s, byte %d, bit %d", name, off, bit)
	segment := strings.HasPrefix(name, "segments/")
	if err := blockdev.Check(d.Session()); err != nil {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s: the check names another file: %v", what, err)
		}
		found = true
	}
	p, err := engine(true).Open(d.Session(), d.BootID())
	if err != nil {
		if name != "pool" || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: the pool cannot be opened: %v", what, err)
		}
		return true
	}
	defer p.Close()
	seen := 0
	r.read(t, p, func(object string, b []byte, err error) {
		seen++
		isSnapshot := strings.Contains(object, "@")
		switch {
		case err != nil:
			found = true
		case !bytes.Equal(b, r.content[object]) && (isSnapshot || !segment):
			t.Errorf("%s: %s has other content", what, object)
		}
		if err != nil && (strings.HasPrefix(object, "b") != r.ofB(name)) {
			t.Errorf("%s: %s does not stand on it and fails: %v", what, object, err)
		}
	})
	if seen != len(r.content) {
		t.Errorf("%s: %d of %d LUNs and snapshots are listed", what, seen, len(r.content))
	}
	// The rest goes on: b without a, or a without b.
	other := "b"
	if r.ofB(name) {
		other = "a"
	}
	if err := p.Do(context.Background(), blockdevtest.Action{Kind: blockdevtest.OpSnapshot, LUNs: []string{other}, NewName: "after"}); err != nil {
		t.Errorf("%s: %s cannot be snapshotted: %v", what, other, err)
	}
	return found
}

// ofB tells whether a file belongs to LUN b, whose layers are 4 to 6.
func (r *rotten) ofB(name string) bool {
	id := strings.Split(name, "/")
	return len(id) > 1 && id[1] >= "00000004" && id[1] <= "00000006"
}

// flips says how much is tried.
type flips struct {
	seed    uint64
	bits    uint // of each byte of the part of a header in use
	padding int  // bytes of the rest of each header
	samples int  // bits of each file
}

// TestEveryFlippedBitIsFound flips bits of every file of a pool but the
// catalogue. What concerns a layer is always found, and named with its file,
// and fails only what stands on the layer. What concerns data is found where a
// snapshot shows it, and is never read from one.
func TestEveryFlippedBitIsFound(t *testing.T) {
	tried := flips{seed: 7, bits: 1, padding: 20, samples: 20}
	if raceDetector {
		tried.padding, tried.samples = 2, 4
	}
	flipBits(t, newRotten(t), tried)
}

// TestSoakFlips is TestEveryFlippedBitIsFound with each bit of the parts of
// headers in use, each byte of the rest of headers, and more samples.
func TestSoakFlips(t *testing.T) {
	budget, err := time.ParseDuration(os.Getenv("ROWAN_SOAK"))
	if err != nil {
		t.Skip("ROWAN_SOAK does not say how long, such as 10m")
	}
	r := newRotten(t)
	for seed, end := uint64(0), time.Now().Add(budget); seed == 0 || time.Now().Before(end); seed++ {
		flipBits(t, r, flips{seed: seed, bits: 8, padding: 4096, samples: 400})
	}
}

// headerUsed is more than what any header uses.
const headerUsed = 104

func flipBits(t *testing.T, r *rotten, f flips) {
	t.Helper()
	rng := rand.New(rand.NewPCG(f.seed, 0))
	total, kinds := 0, make(map[string]int)
	for _, name := range r.files {
		file, err := r.disk.Open(name, os.O_RDONLY)
		must(t, err)
		size, err := file.Size()
		must(t, err)
		must(t, file.Close())
		segment := strings.HasPrefix(name, "segments/")
		try := func(off int64, bit uint) {
			total++
			found := r.flip(t, name, off, bit)
			if name == "reserve" {
				if found {
					t.Errorf("%s, byte %d, bit %d: found, but the file only takes space", name, off, bit)
				}
				return
			}
			if !found && !segment {
				t.Errorf("%s, byte %d, bit %d: not found", name, off, bit)
			}
			if found && segment {
				kinds["data found"]++
			}
		}
		if !segment {
			kinds[strings.Split(path.Base(name), "-")[0]]++
			for off := range min(size, headerUsed) {
				first := rng.UintN(8)
				for bit := range f.bits {
					try(off, (first+bit)%8)
				}
			}
			for off := int64(headerUsed); off < min(size, 4096); off += 1 + int64(4096/(f.padding+1)) {
				try(off, rng.UintN(8))
			}
		}
		for range f.samples {
			off := rng.Int64N(size)
			if d := r.disk.Clone(); d.FlipBit(name, off, 0) != nil {
				continue // a hole
			}
			try(off, rng.UintN(8))
		}
		if t.Failed() {
			t.Fatalf("seed %d", f.seed)
		}
	}
	t.Logf("seed %d: %d bits of %d files flipped: %v", f.seed, total, len(r.files), kinds)
	if kinds["data found"] == 0 || kinds["sums"] < 4 || kinds["journal"] < 3 || kinds["presence"] < 4 || kinds["pool"] != 1 {
		t.Errorf("too little was tried: %v", kinds)
	}
}
