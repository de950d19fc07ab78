package blockdev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/blockdev/blockdevtest"
)

// A write that finds the dirty mark of a segment set relies on the segment being
// on the list that the next flush syncs.
func TestDirtyMark(t *testing.T) {
	_, h, p := hookedPool(t)
	v := makeLUN(t, p, "a", 16)
	fillBlocks(t, v, 1, 0, 1)
	must(t, v.Flush(context.Background()))
	hd := v.lun.currentHead()
	s, err := p.segments.get(segmentKey{hd.layer, 0}, false)
	must(t, err)
	hd.mu.Lock()
	go hd.markDirty(s) // writer A, held up between the mark and the list
	time.Sleep(50 * time.Millisecond)
	_, err = s.WriteAt([]byte("of writer B"), 0)
	must(t, err)
	acked := make(chan struct{})
	go func() { hd.markDirty(s); close(acked) }() // writer B
	select {
	case <-acked: // relies on A's mark
	case <-time.After(50 * time.Millisecond): // waits its turn
	}
	var synced atomic.Bool
	h.set(func(call, name string) {
		if call == "sync" && strings.HasSuffix(name, ".seg") {
			synced.Store(true)
		}
	})
	select {
	case <-acked:
		hd.mu.Unlock()
	default:
		hd.mu.Unlock()
		<-acked
	}
	must(t, hd.syncData(p.segments)) // the flush after B
	if !synced.Load() {
		t.Error("a flush did not sync the segment that an acknowledged write went to")
	}
}

// A write that needs more records than the journal has room for returns.
func TestJournalLivelock(t *testing.T) {
	_, _, p := hookedPool(t)
	v := makeLUN(t, p, "a", 256)
	for b := int64(0); b < 256; b += 2 {
		fillBlocks(t, v, 1, b, 1)
	}
	takeSnapshot(t, p, "a", "s")
	done := make(chan error, 1)
	go func() {
		_, err := v.WriteAt(make([]byte, 256*BlockSize), 0)
		done <- err
	}()
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(5 * time.Second):
		t.Fatal("a write of 1 MiB has not returned after 5 s")
	}
}

// On a full disk such a write returns ErrNoSpace.
func TestJournalLivelockFullDisk(t *testing.T) {
	d, _, p := hookedPool(t)
	v := makeLUN(t, p, "a", 1024)
	fillBlocks(t, v, 1, 0, 1024)
	takeSnapshot(t, p, "a", "s")
	for b := int64(0); b < 340; b++ {
		fillBlocks(t, v, 2, b, 1)
	}
	for b := int64(512); b < 672; b += 2 {
		fillBlocks(t, v, 2, b, 1)
	}
	d.Inject(blockdevtest.Fault{Classes: blockdevtest.Create, Nth: 1, Forever: true, Err: syscall.ENOSPC,
		Name: func(n string) bool { return strings.Contains(n, "journal") }})
	done := make(chan error, 1)
	go func() {
		_, err := v.WriteAt(make([]byte, 160*BlockSize), 512*BlockSize)
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, ErrNoSpace) {
			t.Error("returned", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("a write has not returned ENOSPC after 5 s")
	}
}

// A write that passed the check of its range before a forced revert to a smaller
// size is refused after it.
func TestWriteAcrossShrinkingRevert(t *testing.T) {
	d, h, p := hookedPool(t)
	ctx := context.Background()
	v := makeLUN(t, p, "a", 8)
	fillBlocks(t, v, 1, 0, 8)
	takeSnapshot(t, p, "a", "small")
	_, err := p.ResizeLUN(ctx, "a", 32*BlockSize)
	must(t, err)
	fillBlocks(t, v, 2, 0, 1)
	done := make(chan error, 1)
	var once sync.Once
	h.set(func(call, name string) {
		if call == "sync" && strings.HasSuffix(name, ".seg") { // the revert has the gate
			once.Do(func() {
				go func() {
					_, err := v.WriteAt(bytes.Repeat([]byte{3}, BlockSize), 20*BlockSize)
					done <- err
				}()
				time.Sleep(50 * time.Millisecond)
			})
		}
	})
	_, err = p.Revert(ctx, "a", "small", RevertOptions{Force: true})
	must(t, err)
	h.set(nil)
	if err := <-done; err == nil {
		t.Error("a write past the end was acknowledged")
	}
	d.Crash(blockdevtest.Kill, 0)
	if _, err := openHooked(t, d, h, false); err != nil {
		t.Errorf("the pool does not open: %v", err)
	}
}

// A LUN that failed stays so after a restart, though a freeze that began before
// changes its record afterwards.
func TestFailureIsNotForgotten(t *testing.T) {
	d, h, p := hookedPool(t)
	ctx := context.Background()
	v := makeLUN(t, p, "a", 8)
	fillBlocks(t, v, 1, 0, 1)
	must(t, v.Flush(ctx))
	fillBlocks(t, v, 2, 0, 1)
	var once sync.Once
	h.set(func(call, name string) {
		if call == "rename" && strings.Contains(name, "00000002/journal") { // while the new head is prepared
			once.Do(func() {
				d.Inject(blockdevtest.Fault{Classes: blockdevtest.Sync, Nth: 1, Err: syscall.EIO, Name: func(n string) bool { return strings.HasSuffix(n, ".seg") }})
				if err := v.Flush(ctx); !errors.Is(err, ErrFailed) {
					t.Errorf("flush: %v", err)
				}
				d.ClearFaults()
			})
		}
	})
	_, err := p.Snapshot(ctx, SnapshotRequest{Items: []SnapshotItem{{LUN: "a", Name: "s"}}})
	t.Logf("snapshot: %v", err)
	h.set(nil)
	_ = p.Close()
	d.Crash(blockdevtest.Kill, 0)
	p, err = openHooked(t, d, h, false)
	must(t, err)
	defer p.Close()
	info, err := p.LUN("a")
	must(t, err)
	if info.Failed == "" {
		v, err := p.OpenLUN("a", "t")
		must(t, err)
		_, werr := v.WriteAt([]byte{1}, 0)
		t.Errorf("after a restart the LUN that failed a sync takes writes again: %v", werr)
	}
}

// The failure of a LUN does not bring it back if it is deleted meanwhile.
func TestFailureDoesNotReviveDeletedLUN(t *testing.T) {
	d, h, p := hookedPool(t)
	ctx := context.Background()
	v := makeLUN(t, p, "a", 8)
	fillBlocks(t, v, 1, 0, 1)
	d.Inject(blockdevtest.Fault{Classes: blockdevtest.Sync, Nth: 1, Err: syscall.EIO, Name: func(n string) bool { return strings.HasSuffix(n, ".seg") }})
	var once sync.Once
	deleted := make(chan error, 1)
	h.set(func(call, name string) {
		if call == "update" { // recordFailure has read the record
			once.Do(func() {
				h.set(nil)
				go func() { deleted <- p.DeleteLUN(ctx, "a", DeleteLUNOptions{Force: true}) }()
				time.Sleep(20 * time.Millisecond)
			})
		}
	})
	if err := v.Flush(ctx); err == nil {
		t.Error("flush: no error")
	}
	must(t, <-deleted)
	d.ClearFaults()
	must(t, p.Settle(ctx))
	_ = p.Close()
	p, err := openHooked(t, d, h, false)
	if err != nil {
		t.Fatalf("the pool does not open any more: %v", err)
	}
	if _, err := p.LUN("a"); err == nil {
		t.Error("the deleted LUN is back")
	}
	p.Close()
}

// Guests' I/O goes on while a freeze makes the old layer durable, but a flush
// waits for it: what was acknowledged before the freeze is part of it.
func TestFreezeSyncsBesideWrites(t *testing.T) {
	_, h, p := hookedPool(t)
	ctx := context.Background()
	v := makeLUN(t, p, "a", 8)
	fillBlocks(t, v, 1, 0, 8)
	syncing, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	h.set(func(call, name string) {
		if call == "sync" && strings.HasSuffix(name, ".seg") {
			once.Do(func() { close(syncing); <-release })
		}
	})
	taken := make(chan error, 1)
	go func() {
		_, err := p.Snapshot(ctx, SnapshotRequest{Items: []SnapshotItem{{LUN: "a", Name: "s"}}})
		taken <- err
	}()
	<-syncing
	wrote := make(chan error, 1)
	go func() { _, err := v.WriteAt([]byte{2}, 0); wrote <- err }()
	select {
	case err := <-wrote:
		must(t, err)
	case <-time.After(5 * time.Second):
		t.Error("a write waits for the sync of a freeze")
	}
	flushed := make(chan error, 1)
	go func() { flushed <- v.Flush(ctx) }()
	select {
	case <-flushed:
		t.Error("a flush returned while what was written before the freeze is not durable")
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	must(t, <-taken)
	must(t, <-flushed)
	must(t, p.Close())
}

// Segments are closed to keep within the number that may be open, but not while
// they are in use.
func TestFewSegmentsStayOpen(t *testing.T) {
	const shards, blocks = 12, 64
	_, _, p := hookedPool(t)
	p.segments.limit = 2
	v := makeLUN(t, p, "a", shards*blocks)
	var workers sync.WaitGroup
	for shard := range int64(shards) {
		workers.Go(func() {
			got := make([]byte, BlockSize)
			for i := range int64(blocks) {
				at := (shard*blocks + i) * BlockSize
				want := bytes.Repeat([]byte{byte(shard*7 + i)}, BlockSize)
				if _, err := v.WriteAt(want, at); err != nil {
					t.Error(err)
				}
				if _, err := v.ReadAt(got, at); err != nil || !bytes.Equal(got, want) {
					t.Errorf("block %d of shard %d: %v", i, shard, err)
				}
			}
		})
	}
	workers.Wait()
	must(t, v.Flush(context.Background()))
	p.segments.mu.RLock()
	open := len(p.segments.open)
	p.segments.mu.RUnlock()
	if open > shards {
		t.Errorf("%d segments are open", open)
	}
	must(t, p.Close())
}

// Differences and extents are as small as what was done.
func TestDifferencesAreTight(t *testing.T) {
	_, _, p := hookedPool(t)
	ctx := context.Background()
	v := makeLUN(t, p, "a", 64)
	fillBlocks(t, v, 1, 8, 16)
	takeSnapshot(t, p, "a", "s")
	fillBlocks(t, v, 2, 10, 3)
	must(t, v.Discard(ctx, 20*BlockSize, 2*BlockSize))
	fillBlocks(t, v, 3, 40, 1)
	var changes, extents []string
	must(t, p.Diff(ctx, "a", "s", "", 0, 64*BlockSize, func(n int64, c Change) bool {
		changes = append(changes, fmt.Sprint(n/BlockSize, " ", c))
		return true
	}))
	must(t, v.Extents(ctx, 0, 64*BlockSize, func(n int64, data bool) bool {
		extents = append(extents, fmt.Sprint(n/BlockSize, " ", data))
		return true
	}))
	same, written, zeroed := fmt.Sprint(Same), fmt.Sprint(Written), fmt.Sprint(Zeroed)
	wantChanges := []string{"10 " + same, "3 " + written, "7 " + same, "2 " + zeroed, "18 " + same, "1 " + written, "23 " + same}
	if !slices.Equal(changes, wantChanges) {
		t.Errorf("differences %v, want %v", changes, wantChanges)
	}
	wantExtents := []string{"8 false", "12 true", "2 false", "2 true", "16 false", "1 true", "23 false"}
	if !slices.Equal(extents, wantExtents) {
		t.Errorf("extents %v, want %v", extents, wantExtents)
	}
	must(t, p.Close())
}

// A discard that is not of whole blocks is in a snapshot as a whole or not at
// all.
func TestFreezeBesideUnalignedDiscard(t *testing.T) {
	_, _, p := hookedPool(t)
	ctx := context.Background()
	v := makeLUN(t, p, "a", 4)
	const off, n = 512, 3 * BlockSize
	for i := range 50 {
		fillBlocks(t, v, 1, 0, 4)
		name := fmt.Sprint("s", i)
		var both sync.WaitGroup
		both.Go(func() {
			if err := v.Discard(ctx, off, n); err != nil {
				t.Error(err)
			}
		})
		both.Go(func() {
			_, err := p.Snapshot(ctx, SnapshotRequest{Items: []SnapshotItem{{LUN: "a", Name: name}}})
			if err != nil {
				t.Error(err)
			}
		})
		both.Wait()
		s, err := p.OpenSnapshot("a", name, "t")
		must(t, err)
		got := make([]byte, n)
		_, err = s.ReadAt(got, off)
		must(t, err)
		must(t, s.Close())
		if zeros := bytes.Count(got, []byte{0}); zeros != 0 && zeros != n {
			t.Fatalf("snapshot %d has %d of %d bytes discarded", i, zeros, n)
		}
		must(t, p.DeleteSnapshot(ctx, "a", name, false))
		must(t, p.Settle(ctx))
	}
	must(t, p.Close())
}

// A reader that is held up after its look at the map must not find what was
// written to the block's place later and is not there yet for the next reader.
func TestReadHeldUpOverDiscard(t *testing.T) {
	_, h, p := hookedPool(t)
	v := makeLUN(t, p, "a", 64)
	fillBlocks(t, v, 'a', 0, 1)
	read := func() byte {
		b := make([]byte, BlockSize)
		_, err := v.ReadAt(b, 0)
		must(t, err)
		return b[0]
	}
	// hold stops the next call on a file and returns what tells of it and what
	// lets it go on.
	hold := func(call, part string) (held, release chan struct{}) {
		held, release = make(chan struct{}), make(chan struct{})
		var once sync.Once
		h.set(func(c, name string) {
			if c == call && strings.Contains(name, part) {
				once.Do(func() { close(held); <-release })
			}
		})
		return held, release
	}

	held, release := hold("read", ".seg")
	first := make(chan byte, 1)
	go func() { first <- read() }()
	<-held
	must(t, v.Discard(context.Background(), 0, BlockSize))

	journaling, write := hold("write", "journal")
	written := make(chan struct{})
	go func() { defer close(written); fillBlocks(t, v, 'b', 0, 1) }()
	select {
	case <-journaling: // the data is in place, the map says zeros
	case <-time.After(50 * time.Millisecond): // waits for the reader
	}
	close(release)
	one := <-first
	<-journaling
	two := read()
	close(write)
	<-written
	if one == 'b' && two != 'b' {
		t.Errorf("a reader found the write, the next one %q", two)
	}
	if got := read(); got != 'b' {
		t.Errorf("at last: %q", got)
	}
	must(t, p.Close())
}

// Writes all over a large LUN that nobody flushes must not keep all of its
// segments open.
func TestDirtySegmentsAreFew(t *testing.T) {
	const shards, shardBlocks, limit = 400, 16, 32
	for _, manual := range []bool{true, false} {
		d := blockdevtest.NewDisk(blockdevtest.DiskOptions{})
		p, err := Open("pool", Options{FS: d.Session(), BootID: d.BootID(), ShardBytes: shardBlocks * BlockSize, ReserveBytes: -1, ManualMaintenance: manual})
		must(t, err)
		p.segments.limit = limit
		v := makeLUN(t, p, "a", shards*shardBlocks)
		for i := range shards {
			fillBlocks(t, v, byte(i%255)+1, int64(i)*shardBlocks, 1)
			p.segments.mu.RLock()
			open := len(p.segments.open)
			p.segments.mu.RUnlock()
			if open > limit {
				t.Fatalf("manual %v: %d segments are open after %d writes", manual, open, i+1)
			}
		}
		b := make([]byte, BlockSize)
		for i := range shards {
			_, err := v.ReadAt(b, int64(i)*shardBlocks*BlockSize)
			must(t, err)
			if want := byte(i%255) + 1; b[0] != want {
				t.Fatalf("manual %v: block %d holds %d", manual, i, b[0])
			}
		}
		must(t, v.Close())
		must(t, p.Close())
	}
}

// Giving space back holds up neither a write that wants room in the journal nor
// a freeze for longer than one hole takes.
func TestGivingBackHoldsNothingUp(t *testing.T) {
	const blocks = 64
	_, h, p := hookedPool(t)
	ctx := context.Background()
	v := makeLUN(t, p, "a", 2*blocks)
	for i := range int64(blocks) {
		fillBlocks(t, v, 1, 2*i, 1)
		must(t, v.Discard(ctx, 2*i*BlockSize, BlockSize))
	}
	var punches atomic.Int32
	held, release := make(chan struct{}), make(chan struct{})
	h.set(func(call, name string) {
		if call == "punch" && punches.Add(1) == 1 {
			close(held)
			<-release
		}
	})
	settled := make(chan error, 1)
	go func() { settled <- p.Settle(ctx) }()
	<-held
	v.lun.currentHead().journal.room.Store(0)
	fillBlocks(t, v, 2, 2*blocks-1, 1) // needs a journal file
	frozen := make(chan error, 1)
	go func() {
		_, err := p.Snapshot(ctx, SnapshotRequest{Items: []SnapshotItem{{LUN: "a", Name: "s"}}})
		frozen <- err
	}()
	for v.lun.gate.TryRLock() { // until the freeze waits for the gate
		v.lun.gate.RUnlock()
		time.Sleep(time.Millisecond)
	}
	close(release)
	must(t, <-frozen)
	if n := punches.Load(); n > 2 {
		t.Errorf("a freeze waited for %d holes", n)
	}
	must(t, <-settled)
	must(t, p.Close())
}
