package history_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/blockdev"
	"github.com/rowan-storage/rowan/blockdev/blockdevtest"
	"github.com/rowan-storage/rowan/blockdev/blockdevtest/history"
	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// linear is a pool in whose history an order is looked for.
type linear struct {
	simulated bool
	blocks    int64
	requests  int
}

// TestHistory has clients use a few LUNs while groups of them are frozen, and
// looks for an order of all that happened.
func TestHistory(t *testing.T) {
	t.Parallel()
	playHistories(t, 4*time.Second)
}

// TestSoakHistory does the same for as long as ROWAN_SOAK says.
func TestSoakHistory(t *testing.T) {
	budget, err := time.ParseDuration(os.Getenv("ROWAN_SOAK"))
	if err != nil {
		t.Skip("ROWAN_SOAK does not say how long, such as 10m")
	}
	playHistories(t, budget/4)
}

// playHistories plays one after the other for the budget on each kind of disk
// and size of LUN.
func playHistories(t *testing.T, budget time.Duration) {
	for _, c := range []struct {
		name string
		linear
	}{
		{"files, few blocks", linear{false, 4, 150}},
		{"files, more blocks", linear{false, 24, 500}},
		{"simulated disk, few blocks", linear{true, 4, 150}},
		{"simulated disk, more blocks", linear{true, 24, 500}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var all history.Result
			seed, repeat := historySeed(t)
			end := time.Now().Add(budget)
			n := 0
			for ; n == 0 || !repeat && time.Now().Before(end); n++ {
				r, err := c.play(t, seed+uint64(n))
				if err != nil {
					t.Fatalf("run it again with ROWAN_SEED=%d (the order of events may differ): %v", seed+uint64(n), err)
				}
				all.Requests += r.Requests
				all.Freezes += r.Freezes
				all.Reads += r.Reads
				all.Ambiguous += r.Ambiguous
			}
			t.Logf("%d histories from seed %d on: %d requests, %d group freezes, %d reads of registers, %d of them ambiguous",
				n, seed, all.Requests, all.Freezes, all.Reads, all.Ambiguous)
		})
	}
}

// historySeed is a new number, or the one in ROWAN_SEED, for one history.
func historySeed(t *testing.T) (seed uint64, repeat bool) {
	text := os.Getenv("ROWAN_SEED")
	if text == "" {
		return rand.Uint64(), false
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("ROWAN_SEED: %v", err)
	}
	return seed, true
}

// play makes a history, ends the daemon or its process, opens the pool again,
// reads everything and checks the history.
func (l linear) play(t *testing.T, seed uint64) (history.Result, error) {
	rng := rand.New(rand.NewPCG(seed, 0))
	var disk *blockdevtest.Disk
	var dir string
	opts := blockdev.Options{
		ShardBytes:   int64(8<<rng.IntN(3)) * blockdev.BlockSize,
		JournalBytes: int64(1+rng.IntN(4)) * blockdev.BlockSize,
		MaxOrigins:   1 + rng.IntN(2),
		ReserveBytes: -1, // the reserve of a disk without end would fill the memory
	}
	if l.simulated {
		disk = blockdevtest.NewDisk(blockdevtest.DiskOptions{Seed: seed, TryRead: blockdevtest.TryReadRandom, Yield: rng.IntN(2) == 0})
		opts.BootID = disk.BootID()
	} else {
		dir = t.TempDir()
	}
	open := func() (*blockdev.Pool, error) {
		if l.simulated {
			opts.FS = disk.Session()
		} else {
			opts.FS = blockfile.OS(dir)
		}
		return blockdev.Open("pool", opts)
	}
	p, err := open()
	if err != nil {
		return history.Result{}, err
	}
	var luns []string
	for i := range 3 {
		name := fmt.Sprintf("lun%d", i)
		luns = append(luns, name)
		if _, err := p.CreateLUN(t.Context(), name, l.blocks*blockdev.BlockSize); err != nil {
			return history.Result{}, errors.Join(err, p.Close())
		}
	}
	log, err := l.run(t.Context(), p, luns, seed)
	if l.simulated && rng.IntN(2) == 0 {
		disk.Crash(blockdevtest.Kill, seed)
		_ = p.Close() // of the dead process: it can only fail
	} else {
		err = errors.Join(err, p.Close())
	}
	if err != nil {
		return history.Result{}, err
	}
	if p, err = open(); err != nil {
		return history.Result{}, err
	}
	if err := errors.Join(readLUNs(log, p, luns), p.Close()); err != nil {
		return history.Result{}, err
	}
	return log.Check()
}

// run is the time in which clients and freezes are at work.
func (l linear) run(ctx context.Context, p *blockdev.Pool, luns []string, seed uint64) (*history.Log, error) {
	c := history.Config{
		Seed: seed, Sectors: int(l.blocks * blockdev.BlockSize / history.SectorSize),
		Clients: 6, Requests: l.requests, Freezers: 2,
	}
	for _, name := range luns {
		v, err := p.OpenLUN(name, "client")
		if err != nil {
			return nil, err
		}
		defer v.Close()
		c.Devices = append(c.Devices, v)
	}
	c.Freeze = func(ctx context.Context, name string, devices []int) (history.Images, error) {
		return freezeGroup(ctx, p, luns, name, devices)
	}
	return history.Run(ctx, c)
}

// freezeGroup takes snapshots of some LUNs. Release deletes them.
func freezeGroup(ctx context.Context, p *blockdev.Pool, luns []string, name string, devices []int) (history.Images, error) {
	var req blockdev.SnapshotRequest
	for _, d := range devices {
		req.Items = append(req.Items, blockdev.SnapshotItem{LUN: luns[d], Name: name})
	}
	if _, err := p.Snapshot(ctx, req); err != nil {
		return history.Images{}, err
	}
	images := history.Images{}
	var opened []io.Closer
	for _, d := range devices {
		v, err := p.OpenSnapshot(luns[d], name, "reader")
		if err != nil {
			return history.Images{}, err
		}
		opened = append(opened, v)
		images.Readers = append(images.Readers, v)
	}
	images.Release = func() error {
		var errs []error
		for i, d := range devices {
			errs = append(errs, opened[i].Close(), p.DeleteSnapshot(ctx, luns[d], name, false))
		}
		return errors.Join(errs...)
	}
	return images, nil
}

// readLUNs adds reads of all LUNs to a history.
func readLUNs(log *history.Log, p *blockdev.Pool, luns []string) error {
	for d, name := range luns {
		v, err := p.OpenLUN(name, "reader")
		if err != nil {
			return err
		}
		if err := errors.Join(log.ReadAll(d, v), v.Close()); err != nil {
			return err
		}
	}
	return nil
}
