package workload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
)

// Device is what is written to. Its requests may be issued concurrently.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Flush(ctx context.Context) error
	Discard(ctx context.Context, off, n int64) error
	WriteZeroes(ctx context.Context, off, n int64) error
}

// Config says how large a workload is.
type Config struct {
	Seed    uint64
	Devices int
	Sectors int // per device, a multiple of 256
	Writers int // divides 64
}

// Workload is a number of writers and what they did so far.
type Workload struct {
	config   Config
	versions atomic.Uint64
	writers  []*writer
}

// New makes a workload over devices that read as zeros.
func New(c Config) *Workload {
	w := &Workload{config: c}
	for i := range c.Writers {
		w.writers = append(w.writers, &writer{
			index:    i,
			of:       c.Writers,
			rng:      rand.New(rand.NewPCG(c.Seed, uint64(i))),
			versions: &w.versions,
			devices:  c.Devices,
			chunks:   c.Sectors / chunkSectors,
		})
	}
	return w
}

// Run writes until the context ends, or until each writer has issued limit
// requests if that is not 0; then everything submitted is acknowledged. If a
// device fails its writers stop, the others too, and the error is returned.
func (w *Workload) Run(ctx context.Context, devices []Device, limit int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(w.writers))
	var wg sync.WaitGroup
	for i, wr := range w.writers {
		wg.Go(func() {
			if errs[i] = wr.run(ctx, devices, limit); errs[i] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Requests returns how many requests were submitted.
func (w *Workload) Requests() int {
	n := 0
	for _, wr := range w.writers {
		_, submitted := wr.progress()
		n += submitted
	}
	return n
}

// Versions is what an image holds: the version of each sector of each device.
type Versions [][]uint64

// Read reads all devices of an image.
func (w *Workload) Read(devices []io.ReaderAt) (Versions, error) {
	v := make(Versions, w.config.Devices)
	buf := make([]byte, 2048*SectorSize)
	for d, dev := range devices {
		v[d] = make([]uint64, w.config.Sectors)
		for first := 0; first < w.config.Sectors; first += len(buf) / SectorSize {
			n := min(len(buf)/SectorSize, w.config.Sectors-first)
			if _, err := dev.ReadAt(buf[:n*SectorSize], int64(first)*SectorSize); err != nil {
				return nil, fmt.Errorf("device %d: reading at sector %d: %w", d, first, err)
			}
			for i := range n {
				var err error
				if v[d][first+i], err = decode(buf[i*SectorSize:][:SectorSize], d, first+i); err != nil {
					return nil, fmt.Errorf("device %d sector %d: %w", d, first+i, err)
				}
			}
		}
	}
	return v, nil
}

// A Window is the time in which a snapshot was made: between Begin and End.
type Window struct {
	acked, submitted []int // per writer
}

// Begin is called before a snapshot is asked for.
func (w *Workload) Begin() *Window {
	win := &Window{}
	for _, wr := range w.writers {
		acked, _ := wr.progress()
		win.acked = append(win.acked, acked)
	}
	return win
}

// End is called when the snapshot is there.
func (w *Workload) End(win *Window) {
	for _, wr := range w.writers {
		_, submitted := wr.progress()
		win.submitted = append(win.submitted, submitted)
	}
}
