package main

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/rowan-storage/rowan/blockdev"
)

const tib = 1 << 40

// lun makes a LUN and opens it.
func (b *bench) lun(p *blockdev.Pool, name string, sizeBytes int64) (*blockdev.Volume, error) {
	if _, err := p.CreateLUN(b.ctx, name, sizeBytes); err != nil {
		return nil, err
	}
	return p.OpenLUN(name, "scale")
}

// offsets returns n random offsets of blocks in sizeBytes.
func offsets(n int, sizeBytes int64) []int64 {
	rng := rand.New(rand.NewPCG(1, 2))
	out := make([]int64, n)
	for i := range out {
		out[i] = rng.Int64N(sizeBytes/blockdev.BlockSize) * blockdev.BlockSize
	}
	return out
}

// readRate reads blocks at offsets for a while and returns reads per second.
func readRate(v *blockdev.Volume, at []int64) (float64, error) {
	buf := make([]byte, blockdev.BlockSize)
	start := time.Now()
	n := 0
	for ; time.Since(start) < 3*time.Second; n++ {
		if _, err := v.ReadAt(buf, at[n%len(at)]); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// random writes blocks all over 100 TiB, then reads them and places between,
// with and without a bound of memory.
func (b *bench) random() error {
	dir, at := filepath.Join(b.dir, "random"), offsets(b.o.blocks, 100*tib)
	// Places where nothing was written are looked up and need no segment.
	gaps := offsets(2*len(at), 100*tib)[len(at):]
	buf := make([]byte, blockdev.BlockSize)
	before := heap()
	p, err := open(dir, -1)
	if err != nil {
		return err
	}
	v, err := b.lun(p, "wide", 100*tib)
	if err != nil {
		return err
	}
	took, err := timed(func() error {
		for _, off := range at {
			if _, err := v.WriteAt(buf, off); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	used := heap() - before
	what := fmt.Sprintf("100 TiB LUN, %d random blocks", len(at))
	b.row(what+": heap, no bound", "%s, %.0f bytes a block", mib(used), float64(used)/float64(len(at)))
	b.row(what+": writing them", "%.0f per second", float64(len(at))/took.Seconds())
	if err := b.rates(what+", no bound", v, at, gaps); err != nil {
		return err
	}
	if err := p.Close(); err != nil {
		return err
	}
	for _, mapMemory := range []int64{32 << 20, 16 << 20} {
		bound := mib(mapMemory)
		if took, err = timed(func() error { p, err = open(dir, mapMemory); return err }); err != nil {
			return err
		}
		b.row(what+": opening, map_memory "+bound, "%.2f s", took.Seconds())
		if v, err = p.OpenLUN("wide", "scale"); err != nil {
			return err
		}
		if err := b.rates(what+", map_memory "+bound, v, at, gaps); err != nil {
			return err
		}
		b.row(what+": heap, map_memory "+bound, "%s", mib(heap()-before))
		runtime.KeepAlive(at)
		runtime.KeepAlive(gaps)
		if err := p.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) rates(what string, v *blockdev.Volume, at, gaps []int64) error {
	for _, r := range []struct {
		name string
		at   []int64
	}{{"written blocks", at}, {"places between", gaps}} {
		rate, err := readRate(v, r.at)
		if err != nil {
			return err
		}
		b.row(what+": random reads of "+r.name, "%.0f per second", rate)
	}
	return nil
}

// sequential fills 1 TiB in order.
func (b *bench) sequential() error {
	before := heap()
	p, err := open(filepath.Join(b.dir, "sequential"), -1)
	if err != nil {
		return err
	}
	v, err := b.lun(p, "full", tib)
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for off := int64(0); off < tib; off += int64(len(buf)) {
		if _, err := v.WriteAt(buf, off); err != nil {
			return err
		}
	}
	b.row("1 TiB filled in order, 1 MiB at a time: heap", "%s", mib(heap()-before))
	return p.Close()
}

// snapshots takes snapshots of a 100 TiB LUN with writes between them.
func (b *bench) snapshots() error {
	dir, n := filepath.Join(b.dir, "snapshots"), b.o.snapshots
	p, err := open(dir, 0)
	if err != nil {
		return err
	}
	v, err := b.lun(p, "deep", 100*tib)
	if err != nil {
		return err
	}
	flat, err := b.lun(p, "flat", 100*tib)
	if err != nil {
		return err
	}
	buf, at := make([]byte, blockdev.BlockSize), offsets(4*n, 100*tib)
	var took []time.Duration
	var sealing time.Duration
	for i := range n {
		for _, off := range at[4*i : 4*i+4] {
			for _, v := range []*blockdev.Volume{v, flat} {
				if _, err := v.WriteAt(buf, off); err != nil {
					return err
				}
			}
		}
		d, err := timed(func() error {
			_, err := p.Snapshot(b.ctx, blockdev.SnapshotRequest{Items: []blockdev.SnapshotItem{{LUN: "deep", Name: fmt.Sprint("s", i)}}})
			return err
		})
		if err != nil {
			return err
		}
		took = append(took, d)
		if i%100 == 99 || i == n-1 {
			d, err := timed(func() error { return p.Settle(b.ctx) })
			if err != nil {
				return err
			}
			sealing += d
		}
	}
	what := fmt.Sprintf("%d snapshots of a 100 TiB LUN, 4 random writes between", n)
	b.row(what+": median of the first ten", "%.1f ms", median(took[:10]))
	b.row(what+": median of the last ten", "%.1f ms", median(took[n-10:]))
	b.row(what+": sealing, each", "%.1f ms", sealing.Seconds()*1000/float64(n))
	d, err := timed(func() error { _, err := p.Snapshots("deep"); return err })
	if err != nil {
		return err
	}
	b.row(what+": listing all", "%.2f s", d.Seconds())
	for range 2 {
		for _, r := range []struct {
			name string
			v    *blockdev.Volume
		}{{"that LUN", v}, {"a LUN of the same blocks without a snapshot", flat}} {
			rate, err := readRate(r.v, at)
			if err != nil {
				return err
			}
			b.row(what+": random reads of "+r.name, "%.0f per second", rate)
		}
	}
	if err := p.Close(); err != nil {
		return err
	}
	return b.openings(what, dir)
}

// median returns the middle of some times in milliseconds.
func median(took []time.Duration) (ms float64) {
	sorted := slices.Sorted(slices.Values(took))
	return sorted[len(sorted)/2].Seconds() * 1000
}

// openings opens a pool that was closed, and one whose daemon was killed.
func (b *bench) openings(what, dir string) error {
	for _, killed := range []bool{false, true} {
		how := "after a clean end"
		if killed {
			how = "after a kill"
			if err := b.kill(dir); err != nil {
				return err
			}
		}
		before := heap()
		var p *blockdev.Pool
		d, err := timed(func() (err error) { p, err = open(dir, 0); return err })
		if err != nil {
			return err
		}
		b.row(what+": opening "+how, "%.2f s, %s of heap, %d open files", d.Seconds(), mib(heap()-before), openFiles())
		if err := p.Close(); err != nil {
			return err
		}
	}
	return nil
}

// manyLUNs makes many LUNs.
func (b *bench) manyLUNs() error {
	dir, n := filepath.Join(b.dir, "luns"), b.o.luns
	p, err := open(dir, 0)
	if err != nil {
		return err
	}
	var took []time.Duration
	buf := make([]byte, blockdev.BlockSize)
	for i := range n {
		d, err := timed(func() error {
			v, err := b.lun(p, fmt.Sprint("lun", i), tib)
			if err == nil {
				_, err = v.WriteAt(buf, int64(i)*blockdev.BlockSize)
			}
			return err
		})
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	what := fmt.Sprintf("%d LUNs, a block written to each", n)
	b.row(what+": making one, median of the first ten", "%.1f ms", median(took[:10]))
	b.row(what+": making one, median of the last ten", "%.1f ms", median(took[n-10:]))
	d, err := timed(p.Close)
	if err != nil {
		return err
	}
	b.row(what+": closing", "%.2f s", d.Seconds())
	return b.openings(what, dir)
}
