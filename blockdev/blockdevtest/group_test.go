package blockdevtest_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rowan-storage/rowan/blockdev"
	"github.com/rowan-storage/rowan/blockdev/blockdevtest"
)

// history is writers that each write a growing number to one LUN after
// another: a snapshot of all at one point in time has numbers that fall by one
// at most once in a round.
type history struct {
	pool    *blockdev.Pool
	luns    []string
	writers int
	acked   []atomic.Uint64 // by writer, the last number that all LUNs have
}

// write writes as one writer until stop is set.
func (h *history) write(writer int, stop *atomic.Bool) error {
	var vols []*blockdev.Volume
	for _, l := range h.luns {
		v, err := h.pool.OpenLUN(l, "writer")
		if err != nil {
			return err
		}
		defer v.Close()
		vols = append(vols, v)
	}
	for n := uint64(1); !stop.Load(); n++ {
		for _, v := range vols {
			if _, err := v.WriteAt(binary.BigEndian.AppendUint64(nil, n), h.place(writer)); err != nil {
				return err
			}
		}
		h.acked[writer].Store(n)
	}
	return nil
}

// place puts two writers in one block.
func (h *history) place(writer int) int64 {
	return int64(writer/2)*blockdev.BlockSize + int64(writer%2)*1000
}

// check takes a snapshot of all LUNs and verifies that it is one point in time
// between the call and the return.
func (h *history) check(name string) error {
	var req blockdev.SnapshotRequest
	for _, l := range h.luns {
		req.Items = append(req.Items, blockdev.SnapshotItem{LUN: l, Name: name})
	}
	before := make([]uint64, h.writers)
	for w := range before {
		before[w] = h.acked[w].Load()
	}
	if _, err := h.pool.Snapshot(context.Background(), req); err != nil {
		return err
	}
	for w := range h.writers {
		after := h.acked[w].Load() + 1 // one more may be under way
		var seen []uint64
		for _, l := range h.luns {
			v, err := h.pool.OpenSnapshot(l, name, "checker")
			if err != nil {
				return err
			}
			b := make([]byte, 8)
			_, err = v.ReadAt(b, h.place(w))
			if err := errors.Join(err, v.Close()); err != nil {
				return err
			}
			seen = append(seen, binary.BigEndian.Uint64(b))
		}
		first, last := seen[0], seen[len(seen)-1]
		for i := 1; i < len(seen); i++ {
			if seen[i] > seen[i-1] {
				return fmt.Errorf("snapshot %s: writer %d has %v in the LUNs, which it writes in this order", name, w, seen)
			}
		}
		if last < before[w] || first > after || first-last > 1 {
			return fmt.Errorf("snapshot %s: writer %d has %v in the LUNs; %d was acknowledged before, %d cannot have begun", name, w, seen, before[w], after+1)
		}
	}
	return nil
}

// TestGroupSnapshotIsOnePointInTime takes snapshots of a group while clients
// write to all its LUNs.
func TestGroupSnapshotIsOnePointInTime(t *testing.T) {
	t.Parallel()
	disk := blockdevtest.NewDisk(blockdevtest.DiskOptions{Yield: true})
	p, err := blockdev.Open("pool", blockdev.Options{FS: disk, BootID: disk.BootID(), ShardBytes: 8 * blockdev.BlockSize, JournalBytes: blockdev.BlockSize, ReserveBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	h := &history{pool: p, luns: []string{"a", "b", "c"}, writers: 4}
	h.acked = make([]atomic.Uint64, h.writers)
	for _, l := range h.luns {
		if _, err := p.CreateLUN(context.Background(), l, 16*blockdev.BlockSize); err != nil {
			t.Fatal(err)
		}
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	errs := make([]error, h.writers)
	for w := range h.writers {
		wg.Go(func() { errs[w] = h.write(w, &stop) })
	}
	for i := range 40 {
		if err := h.check(fmt.Sprintf("s%d", i)); err != nil {
			t.Error(err)
			break
		}
	}
	stop.Store(true)
	wg.Wait()
	if err := errors.Join(append(errs, p.Close())...); err != nil {
		t.Error(err)
	}
}
