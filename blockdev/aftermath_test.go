package blockdev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/blockdev/blockdevtest"
)

// After a commit that failed and is on disk all the same, the pool opens.
func TestAmbiguousCommit(t *testing.T) {
	for _, what := range []string{"create", "snapshot"} {
		t.Run(what, func(t *testing.T) {
			d, h, p := hookedPool(t)
			ctx := context.Background()
			v := makeLUN(t, p, "a", 8)
			fillBlocks(t, v, 1, 0, 1)
			must(t, v.Flush(ctx))
			h.mu.Lock()
			h.update = func(err error) error { return errors.Join(err, syscall.EIO) } // the sync of bbolt's meta page failed
			h.mu.Unlock()
			var err error
			if what == "create" {
				_, err = p.CreateLUN(ctx, "b", BlockSize)
			} else {
				_, err = p.Snapshot(ctx, SnapshotRequest{Items: []SnapshotItem{{LUN: "a", Name: "s"}}})
			}
			if err == nil {
				t.Fatal("no error")
			}
			h.mu.Lock()
			h.update = nil
			h.mu.Unlock()
			_ = p.Close()
			d.Crash(blockdevtest.Kill, 0)
			p, err = openHooked(t, d, h, false)
			if err != nil {
				t.Fatalf("the pool does not open any more: %v", err)
			}
			p.Close()
		})
	}
}

// Discarded space is given back later if that fails for want of space.
func TestTrimsSurviveENOSPC(t *testing.T) {
	for _, where := range []string{"presence", "punch", "seal"} {
		t.Run(where, func(t *testing.T) {
			d, h, p := hookedPool(t)
			ctx := context.Background()
			v := makeLUN(t, p, "a", 16)
			fillBlocks(t, v, 1, 0, 16)
			must(t, v.Flush(ctx))
			must(t, p.Settle(ctx))
			must(t, v.Discard(ctx, 0, 16*BlockSize))
			class := blockdevtest.WriteAt
			match := func(n string) bool { return strings.HasSuffix(n, "presence.new") }
			if where != "presence" {
				class, match = blockdevtest.PunchHole, func(string) bool { return true }
			}
			if where == "seal" {
				takeSnapshot(t, p, "a", "s")
			}
			d.Inject(blockdevtest.Fault{Classes: class, Nth: 1, Err: syscall.ENOSPC, Name: match})
			t.Logf("settle on a full disk: %v", p.Settle(ctx))
			d.ClearFaults()
			must(t, p.Settle(ctx))
			if n := segBytes(t, d); n != 0 {
				t.Errorf("%d bytes stay allocated once there is room again", n)
			}
			must(t, p.Close())
			p, err := openHooked(t, d, h, false)
			must(t, err)
			must(t, p.Settle(ctx))
			if n := segBytes(t, d); n != 0 {
				t.Errorf("%d bytes stay allocated after a restart", n)
			}
			must(t, p.Close())
		})
	}
}

// The layers of a deleted LUN that clones stand on are sealed.
func TestDeleteLUNUnderClone(t *testing.T) {
	_, _, p := hookedPool(t)
	ctx := context.Background()
	v := makeLUN(t, p, "a", 8)
	fillBlocks(t, v, 1, 0, 8)
	takeSnapshot(t, p, "a", "s")
	_, err := p.Clone(ctx, "a", "s", "b")
	must(t, err)
	must(t, p.DeleteLUN(ctx, "a", DeleteLUNOptions{WithSnapshots: true, Force: true}))
	b, err := p.OpenLUN("b", "t")
	must(t, err)
	for i := range int64(8) {
		fillBlocks(t, b, 9, i, 1)
		takeSnapshot(t, p, "b", fmt.Sprint("s", i))
	}
	must(t, p.Settle(ctx))
	if _, err := p.Snapshots("b"); err != nil {
		t.Errorf("list: %v", err)
	}
	for i := range 8 {
		s, err := p.OpenSnapshot("b", fmt.Sprint("s", i), "t")
		if err != nil {
			t.Errorf("snapshot %d of the clone: %v", i, err)
			continue
		}
		s.Close()
	}
	for id, r := range p.cat.layers {
		if !r.Sealed && p.lunOfHead(id) == nil {
			t.Errorf("layer %08x is not sealed and no LUN's head, and nothing is pending (%d)", id, p.pending())
		}
	}
}

// Guests' I/O does not wait for the map of a snapshot that is being read.
func TestFreezeDoesNotWaitForView(t *testing.T) {
	h, p := reopened(t, 3)
	ctx := context.Background()
	v, err := p.OpenLUN("a", "t")
	must(t, err)
	blocked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	h.set(func(call, name string) {
		if call == "read" && strings.HasSuffix(name, "presence") {
			once.Do(func() { close(blocked); <-release })
		}
	})
	var wg sync.WaitGroup
	wg.Go(func() { p.Snapshots("a") })
	<-blocked
	wg.Go(func() {
		p.Snapshot(ctx, SnapshotRequest{Items: []SnapshotItem{{LUN: "a", Name: "new"}}})
	})
	time.Sleep(300 * time.Millisecond)
	done := make(chan error, 1)
	go func() { _, err := v.WriteAt([]byte{1}, 0); done <- err }()
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(2 * time.Second):
		t.Error("a guest's write waits while a freeze waits for the reading of a snapshot's map (list)")
	}
	close(release)
	wg.Wait()
	p.Close()
}

// A read that is under way on a snapshot sees nothing of what is written to the
// LUN after the snapshot was deleted and merged.
func TestMergeWaitsForReaders(t *testing.T) {
	d, h, p := hookedPool(t)
	ctx := context.Background()
	v := makeLUN(t, p, "a", 8)
	fillBlocks(t, v, 'X', 0, 8)
	takeSnapshot(t, p, "a", "s")
	must(t, p.Settle(ctx))
	s, err := p.OpenSnapshot("a", "s", "reader")
	must(t, err)
	blocked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	h.set(func(call, name string) {
		if call == "read" && strings.HasPrefix(name, "segments/00000001/") {
			once.Do(func() { close(blocked); <-release })
		}
	})
	type result struct {
		b   byte
		err error
	}
	got := make(chan result, 1)
	go func() {
		b := make([]byte, BlockSize)
		_, err := s.ReadAt(b, 0)
		got <- result{b[0], err}
	}()
	<-blocked
	must(t, p.DeleteSnapshot(ctx, "a", "s", true))
	settle, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	settled := make(chan error, 1)
	go func() { settled <- p.Settle(settle) }()
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if _, err := d.ReadDir("layers/00000001"); errors.Is(err, fs.ErrNotExist) {
			break // merged
		}
	}
	fillBlocks(t, v, 'Y', 0, 1)
	close(release)
	r := <-got
	if r.err == nil && r.b != 'X' {
		t.Errorf("a read of the snapshot returned %q, which was written to the LUN later", r.b)
	}
	<-settled
	p.Close()
}

// A list of snapshots beside a delete is not taken for damage.
func TestListBesideDelete(t *testing.T) {
	h, p := reopened(t, 4)
	ctx := context.Background()
	_, s1, err := p.cat.find("a", "s1")
	must(t, err)
	var once sync.Once
	settled := make(chan error, 1)
	h.set(func(call, name string) {
		if call == "open" && strings.HasSuffix(name, "00000001/presence") {
			once.Do(func() {
				h.set(nil)
				must(t, p.DeleteSnapshot(ctx, "a", "s1", false))
				go func() { settled <- p.Settle(ctx) }()
				for p.cat.layer(s1.Layer) != nil {
					time.Sleep(time.Millisecond)
				}
			})
		}
	})
	if _, err := p.Snapshots("a"); err != nil {
		t.Errorf("list beside a delete: %v", err)
	}
	must(t, <-settled)
	p.Close()
}

// A write that had found the journal full changes no file after Close.
func TestNothingAfterClose(t *testing.T) {
	d, _, p := hookedPool(t)
	v := makeLUN(t, p, "a", 8)
	fillBlocks(t, v, 1, 0, 1)
	l, hd := v.lun, v.lun.currentHead()
	hd.journal.room.Store(0) // as a write finds it
	must(t, p.Close())
	before := d.Calls()
	err := l.makeRoom(hd, false) // what that write does next
	if n := d.Calls() - before; n > 0 {
		t.Errorf("%d calls changed the disk after Close, result %v", n, err)
	}
}

// Evidence that is no JSON is refused, and nothing else is.
func TestBadEvidence(t *testing.T) {
	_, _, p := hookedPool(t)
	ctx := context.Background()
	makeLUN(t, p, "a", 8)
	_, err := p.Snapshot(ctx, SnapshotRequest{Items: []SnapshotItem{{LUN: "a", Name: "s"}}, Evidence: json.RawMessage("{")})
	if err == nil {
		t.Fatal("no error")
	}
	if _, err := p.CreateLUN(ctx, "b", BlockSize); err != nil {
		t.Errorf("after a snapshot with bad evidence: %v", err)
	}
}

// Check makes no pool where there is none.
func TestCheckChangesNothing(t *testing.T) {
	d := blockdevtest.NewDisk(blockdevtest.DiskOptions{})
	err := Check(d.Session())
	if d.Calls() > 0 {
		t.Errorf("Check of an empty directory changed it in %d calls: %v", d.Calls(), err)
	}
}
