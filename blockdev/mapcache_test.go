package blockdev

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/blockdev/blockdevtest"
	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// scatter maps n blocks here and there on 4 TiB, and returns them.
func scatter(t testing.TB, m *extentMap, n int) []uint64 {
	rng := rand.New(rand.NewPCG(3, 0))
	blocks := make([]uint64, n)
	for i := range blocks {
		blocks[i] = rng.Uint64N(4 << 40 / BlockSize)
		must(t, m.set(blocks[i], 1, dataPlace(7)))
	}
	return blocks
}

// TestMapsKeepToTheirMemory maps more than fits, and finds all of it again.
func TestMapsKeepToTheirMemory(t *testing.T) {
	c, _ := testCache(t, 4<<20)
	m := c.newMap()
	blocks := scatter(t, m, 400_000)
	if used := c.used.Load(); used > c.budget+c.budget/8 {
		t.Errorf("maps take %d bytes, may take %d", used, c.budget)
	}
	if c.spilled.Load() == 0 {
		t.Error("nothing was spilled")
	}
	for _, b := range blocks {
		if placeAt(t, m, b) != dataPlace(7) {
			t.Fatalf("block %d is lost", b)
		}
	}
	if used := c.used.Load(); used > c.budget+c.budget/8 {
		t.Errorf("maps take %d bytes after they were read, may take %d", used, c.budget)
	}
}

// TestSlotsOfDroppedMapsAreFree drops maps that share nodes.
func TestSlotsOfDroppedMapsAreFree(t *testing.T) {
	c, _ := testCache(t, 1<<20)
	func() {
		m := c.newMap()
		scatter(t, m, 50_000)
		other := m.clone()
		scatter(t, other, 1000)
		placeAt(t, m, 0)
	}()
	free := func() (units uint32) {
		c.spill.mu.Lock()
		defer c.spill.mu.Unlock()
		for o, slots := range c.spill.free {
			units += uint32(len(slots)) << o
		}
		return units
	}
	for deadline := time.Now().Add(20 * time.Second); c.used.Load() != 0 || free() != c.spill.end; {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are counted, %d of %d units of the spill file are free", c.used.Load(), free(), c.spill.end)
		}
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
	if c.spill.end == 0 || len(c.spill.free[spillOrders-1]) != int(c.spill.end>>(spillOrders-1)) || len(c.ring) != 0 {
		t.Errorf("%d units, free are %v, %d contents in memory", c.spill.end, c.spill.free, len(c.ring))
	}
}

// TestSpillFileIsReused: what is changed again and again takes no more space.
func TestSpillFileIsReused(t *testing.T) {
	c, _ := testCache(t, 1<<20)
	m := c.newMap()
	scatter(t, m, 50_000)
	before := c.spill.end
	for range 5 {
		scatter(t, m, 50_000)
	}
	if c.spill.end > 2*before {
		t.Errorf("the spill file grew from %d to %d units", before, c.spill.end)
	}
}

// TestMapsGrowWhereTheSpillFileCannot: a full disk takes memory, and one line of
// the log.
func TestMapsGrowWhereTheSpillFileCannot(t *testing.T) {
	for _, class := range []blockdevtest.Class{blockdevtest.WriteAt, blockdevtest.Create} {
		var log bytes.Buffer
		d := blockdevtest.NewDisk(blockdevtest.DiskOptions{})
		d.Inject(blockdevtest.Fault{Classes: class, Nth: 1, Forever: true, Err: syscall.ENOSPC})
		c := newMapCache(d, 1<<20, slog.New(slog.NewTextHandler(&log, nil)))
		m := c.newMap()
		blocks := scatter(t, m, 60_000)
		for range 3 { // what it tries later fails too
			c.rest = time.Now()
			c.shrink()
		}
		for _, b := range blocks[:1000] {
			if placeAt(t, m, b) != dataPlace(7) {
				t.Fatalf("block %d is lost", b)
			}
		}
		if n := strings.Count(log.String(), "\n"); n != 1 || c.spilled.Load() != 0 {
			t.Errorf("%v fails: %d lines in the log, %d nodes are spilled:\n%s", class, n, c.spilled.Load(), log.String())
		}
		must(t, c.close())
	}
}

// spoiledFS is a disk whose spill file can be made to read wrong.
type spoiledFS struct {
	blockfile.FS
	spoil *atomic.Pointer[func(b []byte, off int64) error]
}

type spoiledFile struct {
	blockfile.File
	spoil *atomic.Pointer[func(b []byte, off int64) error]
}

func (s spoiledFS) Open(name string, flag int) (blockfile.File, error) {
	f, err := s.FS.Open(name, flag)
	if err == nil && name == spillName {
		return spoiledFile{f, s.spoil}, nil
	}
	return f, err
}

func (f spoiledFile) TryReadAt(b []byte, off int64) error { return blockfile.ErrWouldBlock }
func (f spoiledFile) ReadAt(b []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(b, off)
	if spoil := f.spoil.Load(); spoil != nil && err == nil {
		if err := (*spoil)(b, off); err != nil {
			return 0, err
		}
	}
	return n, err
}

// TestDamagedSpillFile has parts of the spill file read wrong: an error, never
// wrong data, and all is well once they read right again.
func TestDamagedSpillFile(t *testing.T) {
	var spoil atomic.Pointer[func(b []byte, off int64) error]
	fsys := spoiledFS{blockdevtest.NewDisk(blockdevtest.DiskOptions{}), &spoil}
	c := newMapCache(fsys, 64<<10, slog.New(slog.DiscardHandler))
	m := c.newMap()
	blocks := scatter(t, m, 20_000)
	var stale []byte
	for name, fn := range map[string]func(b []byte, off int64) error{
		"flipped bit in the header": func(b []byte, off int64) error { b[17] ^= 4; return nil },
		"flipped bit in the record": func(b []byte, off int64) error { b[len(b)-1] ^= 1; return nil },
		"zeros":                     func(b []byte, off int64) error { clear(b); return nil },
		"EIO":                       func(b []byte, off int64) error { return syscall.EIO },
		"end of the file":           func(b []byte, off int64) error { return os.ErrClosed },
		"another record": func(b []byte, off int64) error {
			if stale == nil {
				stale = bytes.Clone(b)
			}
			if copy(b, stale); off == 0 {
				clear(b)
			}
			return nil
		},
	} {
		spoil.Store(&fn)
		lost := 0
		for _, b := range blocks {
			at, err := m.at(b)
			if err != nil && !errors.Is(err, errMapLost) {
				t.Fatalf("%s: %v", name, err)
			}
			if err == nil && at != dataPlace(7) {
				t.Fatalf("%s: block %d is at %d", name, b, at)
			}
			if err != nil {
				lost++
			}
			if err := m.set(b, 1, dataPlace(7)); err != nil && !errors.Is(err, errMapLost) {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if lost == 0 {
			t.Errorf("%s: nothing is missed", name)
		}
		spoil.Store(nil)
	}
	for _, b := range blocks {
		if placeAt(t, m, b) != dataPlace(7) {
			t.Fatalf("block %d is lost", b)
		}
	}
	must(t, c.close())
}

// TestLUNWhoseMapIsLost: I/O that needs what is lost fails, other I/O does not,
// a snapshot is taken, and after a restart all is as it was written.
func TestLUNWhoseMapIsLost(t *testing.T) {
	var spoil atomic.Pointer[func(b []byte, off int64) error]
	d := blockdevtest.NewDisk(blockdevtest.DiskOptions{})
	open := func() *Pool {
		p, err := Open("pool", Options{FS: spoiledFS{d.Session(), &spoil}, BootID: d.BootID(), ReserveBytes: -1, ManualMaintenance: true, MapMemoryBytes: 1})
		must(t, err)
		return p
	}
	p := open()
	v := makeLUN(t, p, "a", 8)
	other := makeLUN(t, p, "b", 8)
	fillBlocks(t, v, 'x', 2, 1)
	fillBlocks(t, other, 'z', 2, 1)
	broken := func(b []byte, off int64) error { return syscall.EIO }
	spoil.Store(&broken)
	b := make([]byte, BlockSize)
	_, err := v.ReadAt(b, 2*BlockSize)
	if !errors.Is(err, errMapLost) || !errors.Is(err, syscall.EIO) {
		t.Errorf("read: %v", err)
	}
	if _, err := v.WriteAt(b, 3*BlockSize); !errors.Is(err, errMapLost) {
		t.Errorf("write: %v", err)
	}
	takeSnapshot(t, p, "a", "s")
	if err := p.Settle(context.Background()); !errors.Is(err, errMapLost) {
		t.Errorf("sealing: %v", err)
	}
	if info, err := p.LUN("a"); err != nil || info.Failed != "" {
		t.Errorf("LUN: %+v, %v", info, err)
	}
	must(t, v.Flush(context.Background()))
	if err := p.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	spoil.Store(nil)
	p = open()
	defer p.Close()
	for _, lun := range []string{"a", "b"} {
		v, err := p.OpenLUN(lun, "t")
		must(t, err)
		_, err = v.ReadAt(b, 2*BlockSize)
		if must(t, err); b[0] != map[string]byte{"a": 'x', "b": 'z'}[lun] {
			t.Errorf("LUN %s reads %q", lun, b[0])
		}
	}
}

// TestLeftSpillFileIsRemoved: a process may die before it has removed the name.
func TestLeftSpillFileIsRemoved(t *testing.T) {
	d, h, p := hookedPool(t)
	must(t, p.Close())
	f, err := d.Open(spillName, os.O_RDWR|os.O_CREATE)
	must(t, err)
	must(t, f.Close())
	p, err = openHooked(t, d, h, false)
	must(t, err)
	defer p.Close()
	names, err := d.ReadDir(".")
	must(t, err)
	for _, n := range names {
		if n == spillName {
			t.Error("a spill file that was left is still there")
		}
	}
}

// TestMapsBesideOneAnother has maps that share nodes read, changed and cloned at
// the same time, with next to no memory.
func TestMapsBesideOneAnother(t *testing.T) {
	c, _ := testCache(t, 32<<10)
	base := c.newMap()
	blocks := scatter(t, base, 5000)
	var wg sync.WaitGroup
	for g := range uint64(4) {
		m := base.clone()
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(g, 0))
			want := make(map[uint64]place)
			for range 4000 {
				b := blocks[rng.IntN(len(blocks))]
				switch rng.IntN(8) {
				case 0:
					want[b] = dataPlace(uint32(8 + g))
					if err := m.set(b, 1, want[b]); err != nil {
						t.Error(err)
					}
				case 1:
					m = m.clone()
				default:
					at, err := m.at(b)
					if w := max(want[b], dataPlace(7)); err != nil || at != w {
						t.Errorf("block %d is at %d, want %d: %v", b, at, w, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

// TestPoolWithABrokenLUNIsNotClean: what a process that died wrote to a LUN that
// cannot be opened is not synced, so that the next opening must not take it for
// durable.
func TestPoolWithABrokenLUNIsNotClean(t *testing.T) {
	d, h, p := hookedPool(t)
	v := makeLUN(t, p, "a", 8)
	fillBlocks(t, v, 'x', 0, 1)
	d.Crash(blockdevtest.Kill, 0)
	journal := journalName(p.lunByID(v.lunID).head.layer, 1)
	must(t, d.FlipBit(journal, 3, 1))
	p, err := openHooked(t, d, h, false)
	must(t, err)
	if _, err := p.OpenLUN("a", "t"); err == nil {
		t.Fatal("a LUN with a damaged journal opens")
	}
	must(t, p.Close())
	must(t, d.FlipBit(journal, 3, 1))
	if p, err = openHooked(t, d, h, false); err != nil || !p.unclean {
		t.Fatalf("the pool passes for clean: %v", err)
	}
	must(t, p.Close())
}
