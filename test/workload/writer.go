package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
)

const (
	chunkSectors = 64 // 32 KiB
	blockSectors = 8  // 4 KiB
	maxSectors   = 24 // of one request
)

// request is one change of a device.
type request struct {
	device, sector, count int
	version               uint64 // zeroVersion for a discard or write zeroes
}

// writer issues one request after the other.
type writer struct {
	index, of int
	rng       *rand.Rand
	versions  *atomic.Uint64
	devices   int
	chunks    int // per device

	mu    sync.Mutex
	done  []request // in order; all acknowledged, but the last if inFlight
	doing bool      // the last of done is not acknowledged
}

// owner is the index of the writer that a sector belongs to.
func owner(sector, writers int) int {
	chunk := sector / chunkSectors
	if chunk%4 == 0 {
		return sector % writers
	}
	return (chunk/4*3 + chunk%4 - 1) % writers
}

// run issues requests until the context ends, or until limit of them are done
// if that is not 0, or until a device fails: then the request stays in flight.
func (w *writer) run(ctx context.Context, devices []Device, limit int) error {
	buf := make([]byte, chunkSectors*SectorSize)
	for n := 0; ctx.Err() == nil && (limit == 0 || n < limit); n++ {
		if err := w.step(ctx, devices, buf); err != nil {
			return err
		}
	}
	return nil
}

// step issues one request.
func (w *writer) step(ctx context.Context, devices []Device, buf []byte) error {
	// A request that was submitted is waited for: its outcome must be known.
	ctx = context.WithoutCancel(ctx)
	kind := w.rng.IntN(100)
	if kind < 5 {
		return devices[w.rng.IntN(len(devices))].Flush(ctx)
	}
	r := w.pick()
	if kind < 80 {
		r.version = w.versions.Add(1)
	}
	w.mu.Lock()
	w.done, w.doing = append(w.done, r), true
	w.mu.Unlock()

	if err := r.issue(ctx, devices[r.device], buf, kind%2 == 0); err != nil {
		return fmt.Errorf("writer %d: device %d, %d sectors at %d: %w", w.index, r.device, r.count, r.sector, err)
	}
	w.mu.Lock()
	w.doing = false
	w.mu.Unlock()
	return nil
}

// issue carries the request out.
func (r request) issue(ctx context.Context, dev Device, buf []byte, discard bool) error {
	off, n := int64(r.sector)*SectorSize, int64(r.count)*SectorSize
	switch {
	case r.version != zeroVersion:
		for i := range r.count {
			encode(buf[i*SectorSize:][:SectorSize], r.device, r.sector+i, r.version)
		}
		_, err := dev.WriteAt(buf[:n], off)
		return err
	case discard:
		return dev.Discard(ctx, off, n)
	default:
		return dev.WriteZeroes(ctx, off, n)
	}
}

// pick chooses sectors that belong to the writer.
func (w *writer) pick() request {
	for {
		r := request{device: w.rng.IntN(w.devices)}
		chunk := w.rng.IntN(w.chunks)
		first := chunk * chunkSectors
		if chunk%4 == 0 {
			mine := chunkSectors / w.of
			r.sector, r.count = first+w.index+w.of*w.rng.IntN(mine), 1
			return r
		}
		if owner(first, w.of) != w.index {
			continue
		}
		from := w.rng.IntN(chunkSectors)
		count := 1 + w.rng.IntN(min(maxSectors, chunkSectors-from))
		if w.rng.IntN(4) > 0 { // mostly whole blocks, as filesystems write
			from -= from % blockSectors
			count = min((count+blockSectors-1)/blockSectors*blockSectors, chunkSectors-from)
		}
		r.sector, r.count = first+from, count
		return r
	}
}

// progress returns how many requests are acknowledged and how many submitted.
func (w *writer) progress() (acked, submitted int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	submitted = len(w.done)
	acked = submitted
	if w.doing {
		acked--
	}
	return acked, submitted
}
