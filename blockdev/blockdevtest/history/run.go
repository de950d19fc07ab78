package history

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
)

const blockSectors = 8 // 4 KiB

// Device is what clients use.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Flush(ctx context.Context) error
	Discard(ctx context.Context, off, n int64) error
	WriteZeroes(ctx context.Context, off, n int64) error
}

// TryReader is a Device that can answer from its cache alone.
type TryReader interface {
	// TryReadAt fills p, or fails if that would take time.
	TryReadAt(p []byte, off int64) error
}

// Images are the snapshots of a group.
type Images struct {
	Readers []io.ReaderAt
	// Release gives them up.
	Release func() error
}

// Config says who does what to the devices.
type Config struct {
	Seed     uint64
	Devices  []Device
	Sectors  int // of each device, a multiple of 8
	Clients  int
	Requests int // of each client
	Freezers int
	// Freeze takes a snapshot of some devices in one point of time.
	Freeze func(ctx context.Context, name string, devices []int) (Images, error)
}

// Run has clients use the devices at once, each with one request in flight,
// while freezers take snapshots of groups of two and more of them, and writes
// the history. At the end it reads everything once more.
func Run(ctx context.Context, c Config) (*Log, error) {
	l := NewLog(len(c.Devices), c.Sectors)
	errs := make([]error, c.Clients+c.Freezers)
	var clients, freezers sync.WaitGroup
	var done atomic.Bool
	for i := range errs {
		p := &player{Client: l.Client(), c: c, rng: rand.New(rand.NewPCG(c.Seed, uint64(i)))}
		if i < c.Clients {
			clients.Go(func() { errs[i] = p.play(ctx) })
		} else {
			freezers.Go(func() { errs[i] = p.freezeAll(ctx, i, &done) })
		}
	}
	clients.Wait()
	done.Store(true)
	freezers.Wait()
	for d, dev := range c.Devices {
		errs = append(errs, l.ReadAll(d, dev))
	}
	return l, errors.Join(errs...)
}

// ReadAll adds a read of all of a device, at rest.
func (l *Log) ReadAll(device int, from io.ReaderAt) error {
	return l.Client().Read(device, 0, l.sectors, func(p []byte, off int64) error {
		_, err := from.ReadAt(p, off)
		return err
	})
}

// player is one client or freezer.
type player struct {
	*Client
	c   Config
	rng *rand.Rand
}

func (p *player) play(ctx context.Context) error {
	for range p.c.Requests {
		if err := p.step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// pick chooses a block, a range of blocks or a part of one.
func (p *player) pick() (sector, count int) {
	first := p.rng.IntN(p.c.Sectors/blockSectors) * blockSectors
	switch p.rng.IntN(10) {
	case 0, 1, 2: // a few sectors, perhaps over the end of a block
		first += p.rng.IntN(blockSectors)
		count = 1 + p.rng.IntN(blockSectors)
	case 3, 4:
		count = blockSectors * (1 + p.rng.IntN(4))
	default:
		count = blockSectors
	}
	return first, min(count, p.c.Sectors-first)
}

func (p *player) step(ctx context.Context) error {
	d := p.rng.IntN(len(p.c.Devices))
	dev := p.c.Devices[d]
	sector, count := p.pick()
	switch kind := p.rng.IntN(100); {
	case kind < 45:
		return p.Read(d, sector, count, func(b []byte, off int64) error {
			if try, ok := dev.(TryReader); ok && kind%3 == 0 && try.TryReadAt(b, off) == nil {
				return nil
			}
			_, err := dev.ReadAt(b, off)
			return err
		})
	case kind < 88:
		return p.Write(d, sector, count, func(b []byte, off int64) error {
			_, err := dev.WriteAt(b, off)
			return err
		})
	case kind < 97:
		return p.Zero(d, sector, count, func(off, n int64) error {
			if kind%2 == 0 {
				return dev.Discard(ctx, off, n)
			}
			return dev.WriteZeroes(ctx, off, n)
		})
	default:
		return dev.Flush(ctx)
	}
}

// freezeAll takes snapshots until the clients are done. Each is read when it is
// there, and once more before it is given up.
func (p *player) freezeAll(ctx context.Context, index int, done *atomic.Bool) error {
	var kept []kept
	for n := 0; n == 0 || !done.Load(); n++ {
		devices := p.rng.Perm(len(p.c.Devices))[:min(len(p.c.Devices), 2+p.rng.IntN(2))]
		name := fmt.Sprintf("f%d-%d", index, n)
		var images Images
		err := p.Freeze(name, devices, func() (_ []io.ReaderAt, err error) {
			images, err = p.c.Freeze(ctx, name, devices)
			return images.Readers, err
		})
		if err != nil {
			return err
		}
		kept = append(kept, p.keep(images))
		if i := p.rng.IntN(len(kept)); len(kept) > 3 {
			if err := kept[i].giveUp(p.log); err != nil {
				return err
			}
			kept = append(kept[:i], kept[i+1:]...)
		}
	}
	for _, k := range kept {
		if err := k.giveUp(p.log); err != nil {
			return err
		}
	}
	return nil
}

// kept is a snapshot and what was found in it.
type kept struct {
	freeze
	images Images
}

func (p *player) keep(images Images) kept { return kept{p.freezes[len(p.freezes)-1], images} }

// giveUp looks whether the snapshot is what it was, and releases it.
func (k kept) giveUp(l *Log) error {
	b := make([]byte, l.sectors*SectorSize)
	for i, d := range k.devices {
		if _, err := k.images.Readers[i].ReadAt(b, 0); err != nil {
			return err
		}
		found, err := l.decode(b, d, 0)
		if err != nil {
			return err
		}
		for s := range found {
			if found[s] != k.found[i][s] {
				return fmt.Errorf("history: snapshot %s of device %d changed: sector %d holds %v instead of %v", k.name, d, s, found[s], k.found[i][s])
			}
		}
	}
	return k.images.Release()
}
