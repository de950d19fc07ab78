package blockdev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/blockdev/blockdevtest"
)

// crowd makes a layer that owns two origins, and may own one: the second of two
// snapshots, of which the first was deleted. Nothing is merged yet. Sums are
// made.
func crowd(t *testing.T) *rotation {
	t.Helper()
	r := newRotation(t, -1)
	v, err := r.pool.OpenLUN("a", "test")
	must(t, err)
	fill := func(first, n int64) {
		for b := first; b < first+n; b++ {
			r.stamp++
			r.content["a"][b] = r.stamp
			_, err := v.WriteAt(stamped(r.stamp), b*BlockSize)
			must(t, err)
		}
	}
	fill(0, 4)
	fill(20, 4)
	r.snapshot("a", "old")
	fill(40, 20)
	fill(2, 2)
	must(t, v.Discard(context.Background(), 23*BlockSize, BlockSize))
	r.content["a"][23] = 0
	r.snapshot("a", "new")
	must(t, v.Close())
	must(t, r.pool.Settle(context.Background()))
	r.remove("a", "old")
	must(t, r.pool.Settle(context.Background()))
	r.limit, r.pool.compaction.limit = 1, 1
	if n := len(r.origins("new")); n != 2 {
		t.Fatalf("the layer owns %d origins", n)
	}
	return r
}

// origins returns those of the layer of a snapshot of LUN a.
func (r *rotation) origins(name string) []uint32 {
	r.t.Helper()
	_, s, err := r.pool.cat.find("a", name)
	must(r.t, err)
	return r.pool.cat.layer(s.Layer).Origins
}

// TestCompactionInBatches: what does not fit one batch is moved in several, and
// what one has moved stays so.
func TestCompactionInBatches(t *testing.T) {
	t.Parallel()
	d, _, p := hookedPool(t)
	p.compaction.limit = -1
	const leaves = 4
	v := makeLUN(t, p, "a", (leaves+1)*leafBlocks)
	ctx := context.Background()
	fillBlocks(t, v, 1, leaves*leafBlocks, 1)
	must(t, v.Discard(ctx, leaves*leafBlocks*BlockSize, BlockSize)) // moves last, with no data
	for i := range byte(2) {
		for leaf := range int64(leaves) {
			fillBlocks(t, v, 1+i, leaf*leafBlocks+int64(i)*3, 5)
		}
		takeSnapshot(t, p, "a", fmt.Sprint("s", i))
	}
	must(t, p.Settle(ctx))
	must(t, p.DeleteSnapshot(ctx, "a", "s0", false))
	must(t, p.Settle(ctx))
	p.compaction.limit, p.compaction.batch = 1, 1
	_, s, err := p.cat.find("a", "s1")
	must(t, err)
	for left := int64(leaves); left >= 0; left-- {
		var data []uint64
		uses, err := countOrigins(mapOf(t, p, s.Layer), p.cat.layer(s.Layer).Origins)
		must(t, err)
		for _, u := range uses {
			data = append(data, u.data)
		}
		slices.Sort(data)
		if len(data) != 2 || data[0] != 3*uint64(left) {
			t.Fatalf("with %d leaves left the origins have %d blocks", left, data)
		}
		must(t, p.compact(ctx, new(pace)))
		must(t, p.maintain(ctx, true))
	}
	if n := len(p.cat.layer(s.Layer).Origins); n != 1 {
		t.Errorf("the layer owns %d origins", n)
	}
	must(t, p.CheckMaps(ctx))
	must(t, p.Close())
	must(t, errors.Join(Check(d.Session()), CheckSpace(d.Session())))
}

// mapOf reads what a sealed layer itself maps.
func mapOf(t *testing.T, p *Pool, layer uint32) *extentMap {
	t.Helper()
	m := newExtentMap()
	must(t, p.overlayLayer(m, layer))
	return m
}

// TestCompactionMovesSums: the sums of blocks go where the blocks go, and are
// not made anew.
func TestCompactionMovesSums(t *testing.T) {
	t.Parallel()
	r := crowd(t)
	must(t, r.pool.Compact(context.Background()))
	r.wantSums()
	r.settle()
	r.check()
}

// wantSums checks that all data blocks of the snapshot have their sums where
// they are.
func (r *rotation) wantSums() {
	r.t.Helper()
	_, s, err := r.pool.cat.find("a", "new")
	must(r.t, err)
	own := mapOf(r.t, r.pool, s.Layer)
	sr, err := openSums(r.pool.fs, s.Layer)
	must(r.t, err)
	defer sr.close()
	l, err := sr.find(0)
	must(r.t, err)
	for b := range uint64(rotationBlocks) {
		if at := placeAt(r.t, own, b); at.isData() && l.places[b] != at {
			r.t.Errorf("block %d is at %#x, its sum is for %#x", b, at, l.places[b])
		}
	}
	if sr.header.sums != own.dataBlocks() {
		r.t.Errorf("%d sums of %d blocks", sr.header.sums, own.dataBlocks())
	}
}

// TestCompactionMovesSumsAcrossACrash: at whatever call the daemon dies, the
// sums are for the presence map that is then there.
func TestCompactionMovesSumsAcrossACrash(t *testing.T) {
	t.Parallel()
	for _, kind := range []blockdevtest.Kind{blockdevtest.Kill, blockdevtest.PowerCutLoseAll, blockdevtest.PowerCutKeepAll, blockdevtest.PowerCut} {
		for call, crashed := int64(1), true; crashed; call++ {
			r := crowd(t)
			r.disk.StopAt(r.disk.Calls() + call)
			err := r.pool.Compact(context.Background())
			_, crashed = r.disk.Stopped()
			if !crashed {
				must(t, err)
			}
			r.disk.Crash(kind, uint64(call))
			r.pool.Close() // fails: its disk is gone
			r.open()
			r.wantSums()
			r.settle()
			r.wantSums()
			r.check()
		}
	}
}

// TestCompactionLeavesDamage: a block that is damaged is not copied, and stays
// known as damaged.
func TestCompactionLeavesDamage(t *testing.T) {
	t.Parallel()
	r := crowd(t)
	_, s, err := r.pool.cat.find("a", "new")
	must(t, err)
	m, err := r.pool.viewMap(s.Layer)
	must(t, err)
	const block = 21
	name, off := r.pool.segmentOffset(placeAt(t, m, block), block)
	f, err := r.disk.Open(name, os.O_RDWR)
	must(t, err)
	_, err = f.WriteAt([]byte{0xff}, off+77)
	must(t, errors.Join(err, f.Sync(), f.Close()))
	for range 2 {
		must(t, r.pool.Settle(context.Background()))
		if n := len(r.origins("new")); n != 2 {
			t.Fatalf("the layer owns %d origins", n)
		}
		v, err := r.pool.OpenSnapshot("a", "new", "test")
		must(t, err)
		b := make([]byte, BlockSize)
		if _, err := v.ReadAt(b, block*BlockSize); !errors.Is(err, ErrCorrupt) {
			t.Errorf("the damaged block reads with %v", err)
		}
		_, err = v.ReadAt(b, (block-1)*BlockSize)
		must(t, errors.Join(err, v.Close()))
		must(t, r.pool.Close())
		must(t, CheckSpace(r.disk.Session()))
		r.open()
	}
	// Once nobody needs the block, the others can be merged.
	v, err := r.pool.OpenLUN("a", "test")
	must(t, err)
	r.stamp++
	r.content["a"][block] = r.stamp
	_, err = v.WriteAt(stamped(r.stamp), block*BlockSize)
	must(t, errors.Join(err, v.Close()))
	r.remove("a", "new")
	must(t, r.pool.Settle(context.Background()))
	r.check()
	r.settle()
	r.check()
}

// TestCompactionWithoutRoom: where there is no room to copy, nothing is begun,
// and deletes go on.
func TestCompactionWithoutRoom(t *testing.T) {
	t.Parallel()
	r := crowd(t)
	r.disk.SetCapacity(r.disk.Allocated())
	before := r.disk.Allocated()
	must(t, r.pool.Settle(context.Background()))
	if n := len(r.origins("new")); n != 2 || r.pool.compaction.resting() <= 0 {
		t.Errorf("the layer owns %d origins, compaction rests for %v", n, r.pool.compaction.resting())
	}
	r.verify()
	r.remove("a", "new")
	must(t, r.pool.Settle(context.Background()))
	if now := r.disk.Allocated(); now >= before {
		t.Errorf("%d bytes were allocated, now %d", before, now)
	}
	r.disk.SetCapacity(0)
	r.pool.compaction.rest(0)
	r.settle()
	r.check()
}

// TestCompactionBesideAScan: the scan for unused blocks that compaction asked for
// leaves its copies alone until they are mapped.
func TestCompactionBesideAScan(t *testing.T) {
	t.Parallel()
	d, h, p := hookedPool(t)
	p.compaction.limit = -1
	ctx := context.Background()
	v := makeLUN(t, p, "a", 8)
	for i := range byte(2) {
		fillBlocks(t, v, 1+i, 2*int64(i), 4)
		takeSnapshot(t, p, "a", fmt.Sprint("s", i))
	}
	must(t, p.Settle(ctx))
	must(t, p.DeleteSnapshot(ctx, "a", "s0", false))
	must(t, p.Settle(ctx))
	p.compaction.limit = 1
	scans := 0
	h.set(func(call, name string) {
		if call == "sync" && strings.HasSuffix(name, ".seg") && scans == 0 { // all is copied
			scans++
			must(t, p.maintain(ctx, true))
		}
	})
	must(t, p.compact(ctx, new(pace)))
	h.set(nil)
	must(t, p.Settle(ctx))
	b := make([]byte, 6*BlockSize)
	_, err := v.ReadAt(b, 0)
	must(t, err)
	for i, want := range []byte{1, 1, 2, 2, 2, 2} {
		if b[i*BlockSize] != want {
			t.Errorf("block %d has %d, want %d", i, b[i*BlockSize], want)
		}
	}
	if scans == 0 {
		t.Error("nothing was copied")
	}
	must(t, p.Close())
	must(t, errors.Join(Check(d.Session()), CheckSpace(d.Session())))
}

// TestCompactionBesideAClone: a clone that was begun from the old places, and
// appears when the maps in memory have followed, follows as well.
func TestCompactionBesideAClone(t *testing.T) {
	t.Parallel()
	_, h, p := hookedPool(t)
	p.compaction.limit = -1
	ctx := context.Background()
	v := makeLUN(t, p, "a", 8)
	for i := range byte(2) {
		fillBlocks(t, v, 1+i, 2*int64(i), 4)
		takeSnapshot(t, p, "a", fmt.Sprint("s", i))
	}
	must(t, p.Settle(ctx))
	must(t, p.DeleteSnapshot(ctx, "a", "s0", false))
	must(t, p.Settle(ctx))
	p.compaction.limit = 1
	var began, held atomic.Bool
	inClone, cloned := make(chan struct{}), make(chan error, 1)
	h.set(func(call, name string) {
		switch {
		case call == "sync" && strings.HasSuffix(name, ".seg") && !began.Swap(true): // all is copied
			go func() {
				_, err := p.Clone(ctx, "a", "s1", "c")
				cloned <- err
			}()
			<-inClone
		case call == "open" && strings.Contains(name, "/journal-") && !held.Swap(true): // the clone's
			close(inClone)
			time.Sleep(100 * time.Millisecond) // until the maps have followed
		}
	})
	must(t, p.compact(ctx, new(pace)))
	must(t, <-cloned)
	h.set(nil)
	must(t, p.Settle(ctx))
	must(t, p.CheckMaps(ctx))
	c, err := p.OpenLUN("c", "t")
	must(t, err)
	b := make([]byte, 6*BlockSize)
	_, err = c.ReadAt(b, 0)
	must(t, err)
	if b[0] != 1 || b[2*BlockSize] != 2 {
		t.Error("the clone has something else")
	}
	must(t, p.Close())
}

// reopenOn goes on with a copy of a disk, as after a crash of a kind.
func (r *rotation) reopenOn(disk *blockdevtest.Disk, kind blockdevtest.Kind, limit int) {
	r.t.Helper()
	old := r.pool
	r.disk, r.limit = disk.Clone(), limit
	r.disk.Crash(kind, 1)
	old.Close() // whatever comes of it, its disk is not looked at any more
	r.open()
}

// TestPunchByADurableMap: a daemon that is killed between the rename of a presence
// map and the sync of its name leaves a map that a power cut takes back. Nothing
// is punched by it until it is durable.
func TestPunchByADurableMap(t *testing.T) {
	t.Parallel()
	r := crowd(t)
	_, s, err := r.pool.cat.find("a", "new")
	must(t, err)
	must(t, r.disk.Remove(sumsName(s.Layer))) // else opening the pool syncs the name
	must(t, r.disk.SyncDir(layerDir(s.Layer)))
	start := r.disk.Clone()
	killed := 0
	for call, more := int64(1), true; more; call++ {
		r.reopenOn(start, blockdevtest.Kill, 1)
		r.disk.StopAt(r.disk.Calls() + call)
		_ = r.pool.Compact(context.Background())
		at, stopped := r.disk.Stopped()
		if more = stopped; !strings.Contains(at, "syncdir "+layerDir(s.Layer)) {
			continue
		}
		killed++
		halfway := r.disk.Clone()
		for again, more := int64(1), true; more; again++ {
			r.reopenOn(halfway, blockdevtest.Kill, 1)
			r.disk.StopAt(r.disk.Calls() + again)
			_ = r.pool.Compact(context.Background())
			_, more = r.disk.Stopped()
			r.reopenOn(r.disk, blockdevtest.PowerCutLoseAll, 1)
			r.verify()
		}
	}
	if killed == 0 {
		t.Error("the presence map was never replaced")
	}
}

// TestCompactionAfterAMergeWasCutOff: a merge into a head that was cut off leaves
// the layer's places in the head's map, also when the layer is compacted next.
func TestCompactionAfterAMergeWasCutOff(t *testing.T) {
	t.Parallel()
	r := crowd(t)
	r.remove("a", "new")
	start := r.disk.Clone()
	merged := 0
	for call, more := int64(1), true; more; call++ {
		r.reopenOn(start, blockdevtest.Kill, -1)
		r.disk.StopAt(r.disk.Calls() + call)
		_ = r.pool.maintain(context.Background(), true)
		_, more = r.disk.Stopped()
		r.reopenOn(r.disk, blockdevtest.Kill, 1)
		merged += len(r.pool.crowdedLayers())
		must(t, r.pool.compact(context.Background(), new(pace)))
		r.reopenOn(r.disk, blockdevtest.Kill, 1)
		must(t, Check(r.disk.Clone().Session()))
		r.verify()
		r.settle()
		r.check()
	}
	if merged == 0 {
		t.Error("nothing was compacted after a merge that was cut off")
	}
}

// TestCompactionWhileItsLayerGoes: a layer that is deleted while its blocks are
// copied leaves nothing behind.
func TestCompactionWhileItsLayerGoes(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"read", "write", "sync", "rename"} {
		for nth := range 4 {
			d, h, p := hookedPool(t)
			p.compaction.limit = -1
			v := makeLUN(t, p, "a", 8)
			for i := range byte(3) {
				fillBlocks(t, v, 1+i, int64(i), 3)
				takeSnapshot(t, p, "a", fmt.Sprint("s", i))
			}
			must(t, p.DeleteSnapshot(context.Background(), "a", "s0", false))
			must(t, p.Settle(context.Background()))
			p.compaction.limit = 1
			segments, done := 0, make(chan struct{})
			h.set(func(c, name string) {
				if c != call || c != "rename" && !strings.HasSuffix(name, ".seg") {
					return
				}
				if segments++; segments != nth+1 {
					return
				}
				go func() {
					defer close(done)
					if err := p.DeleteSnapshot(context.Background(), "a", "s1", false); err != nil {
						t.Error(err)
					}
					if err := p.maintain(context.Background(), true); err != nil {
						t.Error(err)
					}
				}()
				time.Sleep(2 * time.Millisecond)
			})
			must(t, p.compact(context.Background(), new(pace)))
			h.set(nil)
			if segments > nth {
				<-done
			}
			must(t, p.Settle(context.Background()))
			b := make([]byte, 5*BlockSize)
			_, err := v.ReadAt(b, 0)
			must(t, err)
			for i, want := range []byte{1, 2, 3, 3, 3} {
				if b[i*BlockSize] != want {
					t.Errorf("%s %d: block %d has %d, want %d", call, nth, i, b[i*BlockSize], want)
				}
			}
			must(t, p.CheckMaps(context.Background()))
			must(t, p.Close())
			must(t, errors.Join(Check(d.Session()), CheckSpace(d.Session())))
		}
	}
}

// TestCompactionBeside: while segments are merged LUNs are written, snapshots
// read, taken and deleted, clones made, all by clocks of their own.
func TestCompactionBeside(t *testing.T) {
	t.Parallel()
	disk := blockdevtest.NewDisk(blockdevtest.DiskOptions{Yield: true})
	p, err := Open("pool", Options{FS: disk.Session(), BootID: disk.BootID(), ShardBytes: 16 * BlockSize, JournalBytes: BlockSize,
		ReserveBytes: -1, MaxOrigins: 1})
	must(t, err)
	const blocks = 64
	v := makeLUN(t, p, "a", blocks)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	var written [blocks]atomic.Uint32 // stamp of the last write that was acknowledged
	for w := range 2 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			for stamp := uint32(w); ctx.Err() == nil; stamp += 2 {
				b := rng.Int64N(blocks/2)*2 + int64(w)
				_, err := v.WriteAt(stamped(stamp+2), b*BlockSize)
				if err != nil {
					t.Error(err)
					return
				}
				written[b].Store(stamp + 2)
			}
		})
	}
	for i := 0; ctx.Err() == nil && !t.Failed(); i++ {
		takeSnapshot(t, p, "a", fmt.Sprint("s", i))
		s, err := p.OpenSnapshot("a", fmt.Sprint("s", i), "t")
		must(t, err)
		first, again := make([]byte, blocks*BlockSize), make([]byte, blocks*BlockSize)
		_, err = s.ReadAt(first, 0)
		must(t, err)
		if i%5 == 4 {
			clone := fmt.Sprint("c", i)
			_, err := p.Clone(ctx, "a", fmt.Sprint("s", i), clone)
			if err == nil {
				err = p.DeleteLUN(context.Background(), clone, DeleteLUNOptions{})
			}
			if ctx.Err() == nil {
				must(t, err)
			}
		}
		if i >= 2 {
			must(t, p.DeleteSnapshot(context.Background(), "a", fmt.Sprint("s", i-2), false))
		}
		must(t, p.CheckMaps(context.Background()))
		_, err = s.ReadAt(again, 0)
		must(t, err)
		must(t, s.Close())
		if !bytes.Equal(first, again) {
			t.Fatalf("snapshot s%d has changed", i)
		}
	}
	cancel()
	wg.Wait()
	must(t, p.Settle(context.Background()))
	for b := range written {
		got := make([]byte, BlockSize)
		_, err := v.ReadAt(got, int64(b)*BlockSize)
		must(t, err)
		if !bytes.Equal(got, stamped(written[b].Load())) {
			t.Errorf("block %d is not what was written last", b)
		}
	}
	for id, l := range p.cat.layers {
		if n := len(l.Origins); n > 2 || n > 1 && l.Sealed {
			t.Errorf("layer %d owns %d origins", id, n)
		}
	}
	must(t, p.Close())
	must(t, errors.Join(Check(disk.Session()), CheckSpace(disk.Session())))
}

// TestMergeGroup: half the limit is left, and no block is copied to an origin
// that is not twice as large as its own.
func TestMergeGroup(t *testing.T) {
	for _, tt := range []struct {
		limit int
		sizes []uint64
		want  int
	}{
		{1, []uint64{5, 1}, 2},
		{2, []uint64{5, 1, 9}, 3},
		{8, []uint64{1, 1, 1, 1, 1, 1, 1, 1, 1000}, 8},
		{8, []uint64{10, 20, 30, 40, 50, 60, 1000, 2000, 4000}, 6},
		{8, []uint64{0, 0, 0, 0, 0, 0, 7, 8, 9}, 6},
	} {
		var uses []originUse
		for i, n := range tt.sizes {
			uses = append(uses, originUse{origin: uint32(i + 1), data: n})
		}
		if got := mergeGroup(uses, tt.limit); len(got) != tt.want {
			t.Errorf("limit %d of %v: %d are merged, want %d", tt.limit, tt.sizes, len(got), tt.want)
		}
	}
}
