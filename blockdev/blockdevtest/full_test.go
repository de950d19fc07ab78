package blockdevtest_test

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/blockdev"
	"github.com/rowan-storage/rowan/blockdev/blockdevtest"
)

// searchFull crashes on a disk of which not one byte is free.
func searchFull() *blockdevtest.Search {
	s := search()
	s.Setup = append(s.Setup, blockdevtest.Op{Kind: blockdevtest.OpFill})
	s.Crashes = []blockdevtest.Crash{{Kind: blockdevtest.Kill}, {Kind: blockdevtest.PowerCut, Seed: 1}, {Kind: blockdevtest.PowerCutLoseAll}}
	return s
}

// TestEngineFullPoolCrashed crashes operations on a full disk: those that need
// space fail, the others and the recovery work.
func TestEngineFullPoolCrashed(t *testing.T) {
	t.Parallel()
	s := searchFull()
	share(t, s, 601, s.Exhaustive)
}

// fullPool is a pool on a disk with a limit, with one LUN.
type fullPool struct {
	t    *testing.T
	disk *blockdevtest.Disk
	*blockdev.Pool
	v    *blockdev.Volume
	want []byte // what the LUN holds
}

const fullBlocks = 128

// newFullPool writes to a LUN, takes a snapshot of it, and writes again until
// there is no space; others take what is left.
func newFullPool(t *testing.T, manual bool) *fullPool {
	t.Helper()
	f := &fullPool{t: t, disk: blockdevtest.NewDisk(blockdevtest.DiskOptions{CapacityBytes: 270 * block}), want: make([]byte, fullBlocks*block)}
	f.open(manual)
	ctx := context.Background()
	_, err := f.CreateLUN(ctx, "a", fullBlocks*block)
	f.must(err)
	f.openLUN()
	f.must(f.fill(0, fullBlocks, 1))
	_, err = f.Pool.Snapshot(ctx, blockdev.SnapshotRequest{Items: []blockdev.SnapshotItem{{LUN: "a", Name: "s"}}})
	f.must(err)
	if err := f.fill(0, fullBlocks, 2); !errors.Is(err, blockdev.ErrNoSpace) {
		t.Fatalf("writing twice what the disk holds: %v", err)
	}
	f.disk.SetCapacity(f.disk.Allocated())
	return f
}

func (f *fullPool) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fullPool) open(manual bool) {
	f.t.Helper()
	p, err := openEngine(f.disk.Session(), f.disk.BootID(), manual)
	f.must(err)
	f.t.Cleanup(func() { p.Close() })
	f.Pool = p
}

func (f *fullPool) openLUN() {
	f.t.Helper()
	v, err := f.OpenLUN("a", "test")
	f.must(err)
	f.v = v
}

// fill writes a value to blocks, one by one, until one fails.
func (f *fullPool) fill(first, end int64, value byte) error {
	for i := first; i < end; i++ {
		b := bytes.Repeat([]byte{value}, block)
		if _, err := f.v.WriteAt(b, i*block); err != nil {
			return err
		}
		copy(f.want[i*block:], b)
	}
	return nil
}

// verify reads the LUN and its snapshot, if it is there.
func (f *fullPool) verify() {
	f.t.Helper()
	got := make([]byte, len(f.want))
	_, err := f.v.ReadAt(got, 0)
	f.must(err)
	if !bytes.Equal(got, f.want) {
		f.t.Fatal("the LUN has changed")
	}
	s, err := f.OpenSnapshot("a", "s", "test")
	if errors.Is(err, blockdev.ErrNotFound) {
		return
	}
	f.must(err)
	_, err = s.ReadAt(got, 0)
	f.must(errors.Join(err, s.Close()))
	if !bytes.Equal(got, bytes.Repeat([]byte{1}, len(got))) {
		f.t.Fatal("the snapshot has changed")
	}
}

func (f *fullPool) space() blockdev.SpaceState {
	f.t.Helper()
	info, err := f.Info()
	f.must(err)
	return info.Space
}

// works checks what must work on a full pool, and what must not.
func (f *fullPool) works() {
	f.t.Helper()
	ctx := context.Background()
	f.must(f.v.Flush(ctx))
	f.verify()
	f.must(f.fill(0, 1, 3)) // in place
	f.must(f.v.Flush(ctx))
	f.verify()
	if s := f.space(); s != blockdev.SpaceFull {
		f.t.Errorf("the pool's space is %q", s)
	}
	if err := f.fill(fullBlocks-1, fullBlocks, 4); !errors.Is(err, blockdev.ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) {
		f.t.Errorf("write to a full pool: %v", err)
	}
	_, err := f.Pool.Snapshot(ctx, blockdev.SnapshotRequest{Items: []blockdev.SnapshotItem{{LUN: "a"}}})
	if !errors.Is(err, blockdev.ErrNoSpace) {
		f.t.Errorf("snapshot on a full pool: %v", err)
	}
	l, err := f.LUN("a")
	f.must(err)
	if l.Failed != "" {
		f.t.Errorf("the LUN failed: %s", l.Failed)
	}
}

// TestEngineFullPool is invariant 11: on a disk without one free byte writes
// stop, all else works, also after restarts; space comes back by deletes and
// discards, and then writes go on without a restart.
func TestEngineFullPool(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, tt := range []struct {
		name    string
		restart func(f *fullPool)
		free    func(f *fullPool) error
	}{
		{"delete the snapshot", nil, func(f *fullPool) error { return f.DeleteSnapshot(ctx, "a", "s", false) }},
		{"discard", nil, func(f *fullPool) error {
			clear(f.want[:fullBlocks/2*block])
			return f.v.Discard(ctx, 0, fullBlocks/2*block)
		}},
		{"after a clean restart", func(f *fullPool) {
			f.must(f.v.Close())
			f.must(f.Close())
		}, func(f *fullPool) error { return f.DeleteSnapshot(ctx, "a", "s", false) }},
		{"after the process died", func(f *fullPool) { f.disk.Crash(blockdevtest.Kill, 0) },
			func(f *fullPool) error { return f.DeleteSnapshot(ctx, "a", "s", false) }},
		{"after a power cut", func(f *fullPool) { f.disk.Crash(blockdevtest.PowerCutLoseAll, 0) },
			func(f *fullPool) error { return f.DeleteSnapshot(ctx, "a", "s", false) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFullPool(t, true)
			f.works()
			if tt.restart != nil {
				tt.restart(f)
				f.disk.SetCapacity(f.disk.Allocated())
				f.open(true)
				f.openLUN()
				f.disk.SetCapacity(f.disk.Allocated())
				f.works()
			}
			f.must(tt.free(f))
			f.must(f.Settle(ctx))
			f.verify()
			f.must(f.fill(fullBlocks-24, fullBlocks, 5))
			f.must(f.v.Flush(ctx))
			f.verify()
			f.must(f.v.Close())
			f.must(f.Close())
			f.must(blockdev.Check(f.disk.Session()))
		})
	}
}

// TestEngineFullPoolGoesOn has the pool find by itself that there is room.
func TestEngineFullPoolGoesOn(t *testing.T) {
	t.Parallel()
	f := newFullPool(t, false)
	f.must(f.DeleteSnapshot(context.Background(), "a", "s", false))
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		err := f.fill(fullBlocks-24, fullBlocks, 5)
		if err == nil {
			break
		}
		if !errors.Is(err, blockdev.ErrNoSpace) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	f.verify()
	f.disk.SetCapacity(0) // others remove what they had
	f.must(f.fill(0, fullBlocks, 6))
	f.verify()
	for deadline := time.Now().Add(time.Minute); f.space() != blockdev.SpaceOK; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("the pool's space is %q", f.space())
		}
	}
}
