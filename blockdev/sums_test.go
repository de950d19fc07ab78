package blockdev

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// summed is a pool in a directory whose maintenance is done by calls of Settle.
type summed struct {
	t   *testing.T
	p   *Pool
	dir string
	log bytes.Buffer
}

func newSummed(t *testing.T) *summed {
	t.Helper()
	s := &summed{t: t, dir: t.TempDir()}
	s.open()
	t.Cleanup(func() { s.p.Close() })
	return s
}

func (s *summed) open() {
	s.t.Helper()
	p, err := Open(s.dir, Options{
		ManualMaintenance: true, ShardBytes: 1 << 20, JournalBytes: 16 << 10,
		Logger: slog.New(slog.NewTextHandler(&s.log, nil)),
	})
	s.must(err)
	s.p = p
}

func (s *summed) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *summed) reopen() {
	s.t.Helper()
	s.must(s.p.Close())
	s.open()
}

func (s *summed) lun(name string) *Volume {
	s.t.Helper()
	if s.p.cat.lunByName(name) == nil {
		_, err := s.p.CreateLUN(context.Background(), name, 4<<20)
		s.must(err)
	}
	v, err := s.p.OpenLUN(name, "test")
	s.must(err)
	s.t.Cleanup(func() { v.Close() })
	return v
}

// write fills blocks with a byte.
func (s *summed) write(v *Volume, fill byte, block, count int64) {
	s.t.Helper()
	_, err := v.WriteAt(bytes.Repeat([]byte{fill}, int(count*BlockSize)), block*BlockSize)
	s.must(err)
}

func (s *summed) snapshot(lun, name string) {
	s.t.Helper()
	_, err := s.p.Snapshot(context.Background(), SnapshotRequest{Items: []SnapshotItem{{LUN: lun, Name: name}}})
	s.must(err)
}

func (s *summed) delete(lun, name string) {
	s.t.Helper()
	s.must(s.p.DeleteSnapshot(context.Background(), lun, name, false))
	s.settle()
}

func (s *summed) settle() {
	s.t.Helper()
	s.must(s.p.Settle(context.Background()))
}

// flip inverts a bit of the block that a snapshot has at a place.
func (s *summed) flip(lun, name string, block uint64) {
	s.t.Helper()
	_, r, err := s.p.cat.find(lun, name)
	s.must(err)
	m, err := s.p.viewMap(r.Layer)
	s.must(err)
	at, err := m.at(block)
	s.must(err)
	if !at.isData() {
		s.t.Fatalf("block %d of %s@%s holds no data", block, lun, name)
	}
	file, off := s.p.segmentOffset(at, block)
	s.flipByte(file, off+1234)
}

func (s *summed) flipByte(file string, off int64) {
	s.t.Helper()
	f, err := os.OpenFile(filepath.Join(s.dir, file), os.O_RDWR, 0)
	s.must(err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], off)
	s.must(err)
	b[0] ^= 4
	_, err = f.WriteAt(b[:], off)
	s.must(err)
}

// read reads a range of a snapshot.
func (s *summed) read(lun, name string, off int64, n int) ([]byte, error) {
	s.t.Helper()
	v, err := s.p.OpenSnapshot(lun, name, "test")
	s.must(err)
	defer v.Close()
	b := make([]byte, n)
	_, err = v.ReadAt(b, off)
	return b, err
}

// wantAllSummed fails unless every data block of every sealed layer has the
// right sum, and none has another.
func (s *summed) wantAllSummed() {
	s.t.Helper()
	for id, r := range s.p.cat.layers {
		sums, err := openSums(s.p.fs, id)
		if !r.Sealed {
			if !errors.Is(err, fs.ErrNotExist) {
				s.t.Fatalf("open layer %08x has sums: %v", id, err)
			}
			continue
		}
		own := newExtentMap()
		s.must(s.p.overlayPresence(own, id))
		if errors.Is(err, fs.ErrNotExist) && own.dataBlocks() == 0 {
			continue
		}
		s.must(err)
		if sums.header.sums != own.dataBlocks() {
			s.t.Fatalf("layer %08x has %d sums of %d blocks", id, sums.header.sums, own.dataBlocks())
		}
		for n := range sums.count() {
			l, err := sums.leaf(n)
			s.must(err)
			for i, at := range l.places {
				block := sums.number(n)*leafBlocks + uint64(i)
				b := make([]byte, BlockSize)
				if at == nowhere {
					continue
				}
				s.must(s.p.readPlace(at, b, int64(block)*BlockSize))
				if !own.has(block, at) || crcOf(b) != l.sums[i] {
					s.t.Fatalf("layer %08x, block %d: wrong sum or place", id, block)
				}
			}
		}
		s.must(sums.close())
	}
}

// TestDamagedBlockIsNotRead: what rots in a segment is an error of the
// snapshot, however it is read, and nothing else is.
func TestDamagedBlockIsNotRead(t *testing.T) {
	s := newSummed(t)
	v := s.lun("a")
	s.write(v, 1, 0, 600)
	s.snapshot("a", "s1")
	s.write(v, 2, 100, 10)
	s.settle()
	s.wantAllSummed()
	s.flip("a", "s1", 500)
	const at = 500 * BlockSize
	for _, r := range []struct {
		off  int64
		n    int
		want error
	}{
		{at, BlockSize, ErrCorrupt},
		{at - 5*BlockSize, 20 * BlockSize, ErrCorrupt},
		{at + 7, 3, ErrCorrupt}, // not the byte that was changed: the block is
		{at - 100, 200, ErrCorrupt},
		{at + BlockSize - 1, 2 * BlockSize, ErrCorrupt},
		{at - BlockSize, BlockSize, nil},
		{at + BlockSize, 20 * BlockSize, nil},
		{at - 100, 100, nil},
	} {
		b, err := s.read("a", "s1", r.off, r.n)
		if !errors.Is(err, r.want) {
			t.Errorf("%d bytes at %d: %v, want %v", r.n, r.off, err, r.want)
		}
		if err == nil && !bytes.Equal(b, bytes.Repeat([]byte{1}, r.n)) {
			t.Errorf("%d bytes at %d: wrong content", r.n, r.off)
		}
		if err != nil && (!strings.Contains(err.Error(), "snapshot a@s1") || !strings.Contains(err.Error(), "offset 2048000")) {
			t.Errorf("the error names no snapshot or offset: %v", err)
		}
	}
	for _, want := range []string{"lun=a", "snapshot=s1", "offset=2048000"} {
		if n := strings.Count(s.log.String(), want); n != 1 {
			t.Errorf("%q is %d times in the log:\n%s", want, n, &s.log)
		}
	}
	sv, err := s.p.OpenSnapshot("a", "s1", "test")
	s.must(err)
	defer sv.Close()
	if err := sv.TryReadAt(make([]byte, 512), at); err == nil {
		t.Error("the fast way reads what is damaged")
	}
	if err := sv.TryReadAt(make([]byte, 512), at+BlockSize); err != nil {
		t.Errorf("the fast way reads nothing: %v", err)
	}
	// A write that fills a block up would make a good sum for it later.
	if _, err := v.WriteAt([]byte{9}, at); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a write to a part of the block: %v", err)
	}
	s.write(v, 9, 500, 1)
	if _, err := v.WriteAt([]byte{8}, at); err != nil {
		t.Errorf("after the block was written whole: %v", err)
	}
}

// TestSumsFollowMerges: layers are merged into sealed children and into heads;
// sums stay right, and damage that was there before is found after a merge into
// a sealed layer.
func TestSumsFollowMerges(t *testing.T) {
	s := newSummed(t)
	v := s.lun("a")
	s.write(v, 1, 0, 40)
	s.snapshot("a", "s1")
	s.write(v, 2, 10, 10)
	s.snapshot("a", "s2")
	s.write(v, 3, 15, 10)
	s.snapshot("a", "s3")
	s.settle()
	s.flip("a", "s3", 12) // origin of s2
	s.flip("a", "s3", 35) // origin of s1
	if _, err := s.read("a", "s3", 0, BlockSize); err != nil {
		t.Fatal(err) // and its sums are in memory now
	}
	s.delete("a", "s1")
	s.delete("a", "s2")
	for _, block := range []int64{12, 35} {
		if _, err := s.read("a", "s3", block*BlockSize, BlockSize); !errors.Is(err, ErrCorrupt) {
			t.Errorf("block %d after the merge: %v", block, err)
		}
	}
	s.flip("a", "s3", 12)
	s.flip("a", "s3", 35)
	s.wantAllSummed()
	s.reopen()
	if _, err := s.read("a", "s3", 0, 64*BlockSize); err != nil {
		t.Error(err)
	}
	v = s.lun("a")
	s.snapshot("a", "s4")
	s.delete("a", "s3") // into s4, which is empty
	s.wantAllSummed()
	s.delete("a", "s4") // into the head
	s.write(v, 4, 12, 1)
	s.write(v, 5, 35, 1)
	s.settle()
	s.wantAllSummed()
	s.snapshot("a", "s5")
	b, err := s.read("a", "s5", 12*BlockSize, BlockSize)
	if err != nil || b[0] != 4 {
		t.Errorf("before the layer has sums: %v", err)
	}
	s.settle()
	s.wantAllSummed()
	b, err = s.read("a", "s5", 12*BlockSize, BlockSize)
	if err != nil || b[0] != 4 {
		t.Errorf("with sums: %v", err)
	}
}

// TestSumsOfRandomTrees: through writes, snapshots, reverts, deletes
// and restarts, all sums are there and right after each settling, and no
// snapshot refuses a read.
func TestSumsOfRandomTrees(t *testing.T) {
	const seed = 5
	ctx := context.Background()
	rng := rand.New(rand.NewPCG(seed, 0))
	s := newSummed(t)
	v := s.lun("a")
	var names []string
	for i := range 60 {
		for range rng.IntN(10) {
			s.write(v, byte(i), rng.Int64N(1000), 1+rng.Int64N(20))
		}
		s.must(v.Discard(ctx, rng.Int64N(1000)*BlockSize, 8*BlockSize))
		name := "s" + string(rune('a'+i/26)) + string(rune('a'+i%26))
		s.snapshot("a", name)
		names = append(names, name)
		if len(names) > 4 {
			k := rng.IntN(len(names))
			s.must(s.p.DeleteSnapshot(ctx, "a", names[k], true))
			names = slices.Delete(names, k, k+1)
		}
		if rng.IntN(10) == 0 {
			_, err := s.p.Revert(ctx, "a", names[rng.IntN(len(names))], RevertOptions{Force: true, SavedName: "r" + name})
			s.must(err)
			names = append(names, "r"+name)
		}
		if rng.IntN(3) == 0 {
			s.settle()
			s.wantAllSummed()
		}
		if rng.IntN(20) == 0 {
			s.reopen()
			v = s.lun("a")
		}
		for _, name := range names {
			if _, err := s.read("a", name, 0, 4<<20); err != nil {
				t.Fatalf("round %d, seed %d: %v", i, seed, err)
			}
		}
	}
}

// TestSumsOfBranches: a layer that nothing names and that clones stand on loses
// the blocks that all of them hide, and their sums.
func TestSumsOfBranches(t *testing.T) {
	ctx := context.Background()
	s := newSummed(t)
	v := s.lun("a")
	s.write(v, 1, 0, 40)
	s.snapshot("a", "s1")
	s.settle()
	_, err := s.p.Clone(ctx, "a", "s1", "b")
	s.must(err)
	w := s.lun("b")
	s.delete("a", "s1")
	s.wantAllSummed()
	s.write(v, 2, 0, 20)
	s.write(w, 3, 10, 20)
	s.settle()
	s.wantAllSummed()
	s.snapshot("a", "s2")
	s.snapshot("b", "s2")
	s.settle()
	s.wantAllSummed()
	s.flip("a", "s2", 5)
	s.flip("b", "s2", 35)
	for ref, want := range map[string]error{"a 5": ErrCorrupt, "a 35": ErrCorrupt, "b 35": ErrCorrupt, "b 5": nil, "a 15": nil} {
		var lun string
		var block int64
		_, err := fmt.Sscan(ref, &lun, &block)
		s.must(err)
		if _, err := s.read(lun, "s2", block*BlockSize, BlockSize); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", ref, err, want)
		}
	}
}

// TestBackgroundSums: without anybody asking, sealed layers get sums.
func TestBackgroundSums(t *testing.T) {
	p, err := Open(t.TempDir(), Options{BackgroundBytesPerSecond: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	s := &summed{t: t, p: p}
	v := s.lun("a")
	s.write(v, 1, 0, 10)
	s.snapshot("a", "s1")
	for {
		r, err := openSums(p.fs, 1)
		if err == nil {
			s.must(r.close())
			return
		}
		if !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		runtime.Gosched()
	}
}

// sumsFile writes the sums of layer 1.
func sumsFile(t testing.TB, fsys blockfile.FS) (good []byte, file string) {
	t.Helper()
	batch := map[uint64]*sumLeaf{3: {}, 7: {}}
	for i := range leafBlocks {
		batch[3].places[i], batch[3].sums[i] = dataPlace(1), uint32(i)*77
		if i%3 == 0 {
			batch[7].places[i], batch[7].sums[i] = dataPlace(1+uint32(i%2)), uint32(i)*99
		}
	}
	if err := writeSums(fsys, 1, batchSource(batch)); err != nil {
		t.Fatal(err)
	}
	f, err := fsys.Open(sumsName(1), os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	good, err = io.ReadAll(io.NewSectionReader(f, 0, size))
	if err != nil {
		t.Fatal(err)
	}
	r, err := openSums(fsys, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	for index, want := range batch {
		if l, err := r.find(index); err != nil || *l != *want {
			t.Fatalf("leaf %d: %v", index, err)
		}
	}
	if l, err := r.find(5); l != nil || err != nil {
		t.Fatalf("a leaf without sums: %v %v", l, err)
	}
	return good, sumsName(1)
}

func allSums(fsys blockfile.FS) error {
	r, err := openSums(fsys, 1)
	if err != nil {
		return err
	}
	for n := range r.count() {
		if _, err := r.leaf(n); err != nil {
			return errors.Join(err, r.close())
		}
	}
	return r.close()
}

// TestSumsDamage changes each byte in turn, and cuts the file: it is noticed,
// with file and offset.
func TestSumsDamage(t *testing.T) {
	fsys, dir := layerFS(t)
	good, name := sumsFile(t, fsys)
	file := filepath.Join(dir, name)
	for i := range good {
		if i >= sumsHeaderUsed && i < sumsHeaderSize {
			continue // not in use
		}
		bad := slices.Clone(good)
		bad[i] ^= 0x10
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := allSums(fsys); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "offset") {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	for n := 0; n < len(good); n += 1 + n/100 {
		if err := os.WriteFile(file, good[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := allSums(fsys); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
}

func FuzzSums(f *testing.F) {
	fsys, dir := layerFS(f)
	good, name := sumsFile(f, fsys)
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		le := binary.LittleEndian
		if len(b) >= sumsHeaderSize { // reach past the checksums
			if off := le.Uint64(b[32:]); off <= uint64(len(b)) {
				le.PutUint32(b[20:], crcOf(b[off:]))
			}
			le.PutUint64(b[48:], uint64(len(b)))
			le.PutUint32(b[60:], crcOf(b[:60]))
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := allSums(fsys); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("error without a class: %v", err)
		}
	})
}
