package blockdev_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/blockdev"
	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

func createLUN(t *testing.T, p *blockdev.Pool, name string, size int64) *blockdev.Volume {
	t.Helper()
	if _, err := p.CreateLUN(context.Background(), name, size); err != nil {
		t.Fatal(err)
	}
	return openLUN(t, p, name)
}

func snapshot(t *testing.T, p *blockdev.Pool, name string, luns ...string) {
	t.Helper()
	var items []blockdev.SnapshotItem
	for _, l := range luns {
		items = append(items, blockdev.SnapshotItem{LUN: l, Name: name})
	}
	if _, err := p.Snapshot(context.Background(), blockdev.SnapshotRequest{Items: items}); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, v *blockdev.Volume, b []byte, off int64) {
	t.Helper()
	if _, err := v.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// hash returns the hash of a snapshot's content.
func hash(t *testing.T, p *blockdev.Pool, lun, name string) [32]byte {
	t.Helper()
	v, err := p.OpenSnapshot(lun, name, "hash")
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(v, 0, v.Size())); err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

func allocated(t *testing.T, dir string) int64 {
	t.Helper()
	var total int64
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && strings.HasSuffix(path, ".seg") {
			total += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return total
}

// TestSnapshotNeverChanges is invariant 4: the content of snapshots stays the
// same through a hundred thousand random writes and discards, more snapshots,
// deletes, clones, reverts and restarts.
func TestSnapshotNeverChanges(t *testing.T) {
	const size, steps, seed = 8 << 20, 100_000, 11
	ctx, dir := context.Background(), t.TempDir()
	rng := rand.New(rand.NewPCG(seed, 0))
	p := openPool(t, dir)
	v := createLUN(t, p, "a", size)
	want := make(map[string][32]byte)
	buf := make([]byte, 16<<10)
	for i := range steps {
		off := rng.Int64N(size - int64(len(buf)))
		n := 1 + rng.IntN(len(buf))
		if rng.IntN(2) == 0 {
			off, n = off/4096*4096, 4096
		}
		if rng.IntN(8) == 0 {
			if err := v.Discard(ctx, off, int64(n)); err != nil {
				t.Fatal(err)
			}
		} else {
			buf[rng.IntN(n)] = byte(i)
			write(t, v, buf[:n], off)
		}
		switch {
		case i%2500 == 1:
			name := fmt.Sprint("s", i)
			snapshot(t, p, name, "a")
			want[name] = hash(t, p, "a", name)
		case i%3500 == 2 && len(want) > 3:
			for name := range want {
				if err := p.DeleteSnapshot(ctx, "a", name, false); err != nil {
					t.Fatal(err)
				}
				delete(want, name)
				break
			}
		case i%20_000 == 3:
			saved, err := p.Revert(ctx, "a", fmt.Sprint("s", i-2), blockdev.RevertOptions{Force: true})
			if err != nil && !errors.Is(err, blockdev.ErrNotFound) {
				t.Fatal(err)
			}
			if err == nil {
				want[saved.Name] = hash(t, p, "a", saved.Name)
			}
		case i%30_000 == 4:
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			p = openPool(t, dir)
			v = openLUN(t, p, "a")
		}
	}
	if err := p.Settle(ctx); err != nil {
		t.Fatal(err)
	}
	for name, h := range want {
		if hash(t, p, "a", name) != h {
			t.Errorf("snapshot %s has changed (seed %d)", name, seed)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := blockdev.Check(blockfile.OS(dir)); err != nil {
		t.Error(err)
	}
}

// TestGroupFreezeIsOnePoint is invariant 5: a writer that writes n to one LUN
// and, when that is acknowledged, n to another never finds, in a snapshot of
// both, the second ahead of the first.
func TestGroupFreezeIsOnePoint(t *testing.T) {
	p := openPool(t, t.TempDir())
	a, b := createLUN(t, p, "a", 1<<20), createLUN(t, p, "b", 1<<20)
	var stop atomic.Bool
	var wg sync.WaitGroup
	for w := range int64(4) {
		wg.Go(func() {
			for n := uint64(1); !stop.Load(); n++ {
				var buf [8]byte
				binary.LittleEndian.PutUint64(buf[:], n)
				for _, v := range []*blockdev.Volume{a, b} {
					if _, err := v.WriteAt(buf[:], w*4096+int64(n%3)*65536); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	for i := range 30 {
		name := fmt.Sprint("s", i)
		snapshot(t, p, name, "b", "a")
		last := func(lun string, w int64) (n uint64) {
			v, err := p.OpenSnapshot(lun, name, "test")
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			for k := range int64(3) {
				var buf [8]byte
				if _, err := v.ReadAt(buf[:], w*4096+k*65536); err != nil {
					t.Fatal(err)
				}
				n = max(n, binary.LittleEndian.Uint64(buf[:]))
			}
			return n
		}
		for w := range int64(4) {
			if na, nb := last("a", w), last("b", w); nb > na || na > nb+1 {
				t.Errorf("snapshot %d, writer %d: a has %d, b has %d", i, w, na, nb)
			}
		}
	}
	stop.Store(true)
	wg.Wait()
}

// TestPartialWritesKeepEachOther is the last part of invariant 6.
func TestPartialWritesKeepEachOther(t *testing.T) {
	p := openPool(t, t.TempDir())
	v := createLUN(t, p, "a", 1<<20)
	write(t, v, bytes.Repeat([]byte{0xee}, 1<<20), 0)
	for round := range 50 {
		snapshot(t, p, fmt.Sprint("s", round), "a")
		var wg sync.WaitGroup
		for part := range int64(8) {
			wg.Go(func() {
				for block := range int64(8) {
					if _, err := v.WriteAt(bytes.Repeat([]byte{byte(round)}, 512), block*4096+part*512); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		wantBytes(t, v, 0, bytes.Repeat([]byte{byte(round)}, 8*4096))
	}
}

// countingFS counts the bytes read from and written to segments.
type countingFS struct {
	blockfile.FS
	read, written *atomic.Int64
}

func (c countingFS) Open(name string, flag int) (blockfile.File, error) {
	f, err := c.FS.Open(name, flag)
	if err != nil || !strings.HasSuffix(name, ".seg") {
		return f, err
	}
	return countingFile{f, c}, nil
}

type countingFile struct {
	blockfile.File
	c countingFS
}

func (f countingFile) ReadAt(b []byte, off int64) (int, error) {
	f.c.read.Add(int64(len(b)))
	return f.File.ReadAt(b, off)
}

func (f countingFile) WriteAt(b []byte, off int64) (int, error) {
	f.c.written.Add(int64(len(b)))
	return f.File.WriteAt(b, off)
}

// TestFirstWriteCopiesNothing is invariant 6.
func TestFirstWriteCopiesNothing(t *testing.T) {
	c := countingFS{blockfile.OS(t.TempDir()), new(atomic.Int64), new(atomic.Int64)}
	p, err := blockdev.Open("counted", blockdev.Options{FS: c})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	v := createLUN(t, p, "a", 1<<20)
	write(t, v, bytes.Repeat([]byte{1}, 1<<20), 0)
	snapshot(t, p, "s", "a")
	for _, tt := range []struct{ off, n, read, written int64 }{
		{0, 4096, 0, 4096},
		{65536, 65536, 0, 65536},
		{200704 + 512, 1024, 4096, 4096},  // part of one block
		{300000, 20000, 2 * 4096, 24576},  // parts of two, whole between
		{200704, 4096, 0, 4096},           // in place now
		{200704 + 100, 10, 0, 10},         // in place, in part
		{409600 + 100, 8192, 8192, 12288}, // a boundary in the middle
	} {
		c.read.Store(0)
		c.written.Store(0)
		write(t, v, make([]byte, tt.n), tt.off)
		if c.read.Load() != tt.read || c.written.Load() != tt.written {
			t.Errorf("write of %d at %d read %d and wrote %d bytes, want %d and %d", tt.n, tt.off, c.read.Load(), c.written.Load(), tt.read, tt.written)
		}
	}
}

// TestSpaceComesBack shows invariants 7 and 9 from outside: what discards and
// deleted snapshots and LUNs held is given back.
func TestSpaceComesBack(t *testing.T) {
	const mib = 1 << 20
	ctx, dir := context.Background(), t.TempDir()
	p := openPool(t, dir)
	v := createLUN(t, p, "a", 64*mib)
	data := bytes.Repeat([]byte{7}, 16*mib)
	write(t, v, data, 0)
	used := func(want int64) {
		t.Helper()
		if err := p.Settle(ctx); err != nil {
			t.Fatal(err)
		}
		if got := allocated(t, dir); got < want || got > want+mib {
			t.Errorf("%d bytes are allocated, want %d", got, want)
		}
	}
	used(16 * mib)
	snapshot(t, p, "one", "a")
	write(t, v, data[:8*mib], 0)
	snapshot(t, p, "two", "a")
	write(t, v, data[:4*mib], 0)
	used(28 * mib)
	if s, err := p.SnapshotInfo("a", "one"); err != nil || s.UniqueBytes != 8*mib || s.MappedBytes != 16*mib {
		t.Errorf("snapshot one: %+v, %v", s, err)
	}
	if s, err := p.SnapshotInfo("a", "two"); err != nil || s.UniqueBytes != 4*mib {
		t.Errorf("snapshot two: %+v, %v", s, err)
	}
	del := func(name string) {
		t.Helper()
		if err := p.DeleteSnapshot(ctx, "a", name, false); err != nil {
			t.Fatal(err)
		}
	}
	del("one") // into a sealed child
	used(20 * mib)
	wantBytes(t, v, 0, data)
	del("two") // into the head
	used(16 * mib)
	wantBytes(t, v, 0, data)
	if err := v.Discard(ctx, mib, 8*mib); err != nil {
		t.Fatal(err)
	}
	used(8 * mib)
	write(t, v, data[:8*mib], mib)
	used(16 * mib)
	snapshot(t, p, "three", "a")
	if _, err := p.Clone(ctx, "a", "three", "b"); err != nil {
		t.Fatal(err)
	}
	if err := p.DeleteLUN(ctx, "a", blockdev.DeleteLUNOptions{WithSnapshots: true, Force: true}); err != nil {
		t.Fatal(err)
	}
	used(16 * mib)
	wantBytes(t, openLUN(t, p, "b"), 0, data)
	if _, err := v.ReadAt(make([]byte, 1), 0); !errors.Is(err, blockdev.ErrStale) {
		t.Errorf("read of a deleted LUN: %v", err)
	}
	if err := p.DeleteLUN(ctx, "b", blockdev.DeleteLUNOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	used(0)
	if names, err := os.ReadDir(filepath.Join(dir, "layers")); err != nil || len(names) != 0 {
		t.Errorf("layers left: %v, %v", names, err)
	}
}

// TestRefusals shows the classes of errors and that they carry an errno.
func TestRefusals(t *testing.T) {
	ctx := context.Background()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p, err := blockdev.Open(t.TempDir(), blockdev.Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	v := createLUN(t, p, "a", 1<<20)
	snapshot(t, p, "s", "a")
	s, err := p.OpenSnapshot("a", "s", "reader")
	if err != nil {
		t.Fatal(err)
	}
	until := now.Add(time.Hour)
	first := func(_ any, err error) error { return err }
	for _, tt := range []struct {
		what  string
		err   error
		class error
		errno syscall.Errno
	}{
		{"LUN of a bad name", first(p.CreateLUN(ctx, "a/b", 1<<20)), blockdev.ErrInvalid, syscall.EINVAL},
		{"LUN of an odd size", first(p.CreateLUN(ctx, "b", 1000)), blockdev.ErrInvalid, syscall.EINVAL},
		{"LUN that exists", first(p.CreateLUN(ctx, "a", 1<<20)), blockdev.ErrExists, syscall.EEXIST},
		{"no such LUN", first(p.OpenLUN("x", "")), blockdev.ErrNotFound, syscall.ENOENT},
		{"shrink", first(p.ResizeLUN(ctx, "a", 4096)), blockdev.ErrInvalid, syscall.EINVAL},
		{"snapshot that exists", first(p.Snapshot(ctx, blockdev.SnapshotRequest{Items: []blockdev.SnapshotItem{{LUN: "a", Name: "s"}}})), blockdev.ErrExists, syscall.EEXIST},
		{"group with a LUN twice", first(p.Snapshot(ctx, blockdev.SnapshotRequest{Items: []blockdev.SnapshotItem{{LUN: "a"}, {LUN: "a"}}})), blockdev.ErrInvalid, syscall.EINVAL},
		{"delete under a reader", p.DeleteSnapshot(ctx, "a", "s", false), blockdev.ErrInUse, syscall.EBUSY},
		{"delete of a LUN with clients", p.DeleteLUN(ctx, "a", blockdev.DeleteLUNOptions{WithSnapshots: true}), blockdev.ErrInUse, syscall.EBUSY},
		{"write to a snapshot", first(s.WriteAt([]byte{1}, 0)), blockdev.ErrReadOnly, syscall.EROFS},
		{"read past the end", first(v.ReadAt(make([]byte, 2), 1<<20-1)), blockdev.ErrInvalid, syscall.EINVAL},
		{"offset that overflows", first(v.WriteAt(make([]byte, 2), 1<<63-2)), blockdev.ErrInvalid, syscall.EINVAL},
		{"negative discard", v.Discard(ctx, 0, -1), blockdev.ErrInvalid, syscall.EINVAL},
		{"lock in the past", first(p.LockSnapshot(ctx, "a", "s", &time.Time{})), blockdev.ErrInvalid, syscall.EINVAL},
		{"lock", first(p.LockSnapshot(ctx, "a", "s", &until)), nil, 0},
		{"delete of a locked snapshot", p.DeleteSnapshot(ctx, "a", "s", true), blockdev.ErrLocked, syscall.EPERM},
	} {
		if !errors.Is(tt.err, tt.class) {
			t.Errorf("%s: %v, want %v", tt.what, tt.err, tt.class)
		}
		var errno syscall.Errno
		if tt.class != nil && (!errors.As(tt.err, &errno) || errno != tt.errno) {
			t.Errorf("%s: errno %v, want %v", tt.what, errno, tt.errno)
		}
	}
	now = now.Add(-24 * time.Hour) // a clock set back does not unlock
	if err := p.DeleteSnapshot(ctx, "a", "s", true); !errors.Is(err, blockdev.ErrLocked) {
		t.Errorf("delete with the clock set back: %v", err)
	}
	now = until
	if err := p.DeleteSnapshot(ctx, "a", "s", true); err != nil {
		t.Errorf("delete after the lock ended: %v", err)
	}
	if _, err := s.ReadAt(make([]byte, 1), 0); !errors.Is(err, blockdev.ErrStale) {
		t.Errorf("read of a deleted snapshot: %v", err)
	}
}

// TestForeignDirectory: a directory with something else in it is left alone.
func TestForeignDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "holiday.jpg"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := blockdev.Open(dir, blockdev.Options{}); !errors.Is(err, blockdev.ErrInvalid) {
		t.Errorf("open: %v", err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

// TestLostCatalogue: layers without a catalogue are damage, not leftovers.
func TestLostCatalogue(t *testing.T) {
	dir := t.TempDir()
	p := openPool(t, dir)
	write(t, createLUN(t, p, "a", 1<<20), []byte("precious"), 0)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	before := allocated(t, dir)
	if err := os.Remove(filepath.Join(dir, "catalogue")); err != nil {
		t.Fatal(err)
	}
	if _, err := blockdev.Open(dir, blockdev.Options{}); !errors.Is(err, blockdev.ErrCorrupt) {
		t.Errorf("open: %v", err)
	}
	if after := allocated(t, dir); after != before {
		t.Errorf("%d bytes are left of %d", after, before)
	}
}
