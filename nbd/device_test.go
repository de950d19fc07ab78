package nbd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// testPage is the unit in which a memDevice knows what it holds.
const testPage = 4096

// memDevice is a Device in memory that also offers everything that is
// optional. Hooks let a test fail or hold up what it is asked for.
type memDevice struct {
	mu      sync.RWMutex
	data    []byte
	mapped  []bool            // by page: holds data
	changed map[string][]bool // by snapshot, by page

	onRead, onWrite, onFlush func(off int64, n int) error // called outside mu; may be nil

	tries, reads, writes, flushes, discards, zeroes atomic.Int64
	// unflushed is true while a write was not flushed.
	unflushed atomic.Bool
}

func newMemDevice(size int) *memDevice {
	pages := (size + testPage - 1) / testPage
	return &memDevice{data: make([]byte, size), mapped: make([]bool, pages), changed: map[string][]bool{}}
}

// fill fills the device with bytes that depend on their place.
func (d *memDevice) fill(off, n int) {
	for i := off; i < off+n; i++ {
		d.data[i] = byte(i*7 + i>>9 + i>>17)
	}
	for p := off / testPage; p <= (off+n-1)/testPage; p++ {
		d.mapped[p] = true
	}
}

// snapshot starts recording changes under a name.
func (d *memDevice) snapshot(name string) { d.changed[name] = make([]bool, len(d.mapped)) }

func (d *memDevice) Size() int64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return int64(len(d.data))
}

// bytes copies a range.
func (d *memDevice) bytes(off, n int) []byte {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.Clone(d.data[off : off+n])
}

func (d *memDevice) grow(size int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.data = append(d.data, make([]byte, size-len(d.data))...)
	d.mapped = append(d.mapped, make([]bool, (size+testPage-1)/testPage-len(d.mapped))...)
}

func hook(h func(int64, int) error, off int64, n int) error {
	if h == nil {
		return nil
	}
	return h(off, n)
}

func (d *memDevice) ReadAt(p []byte, off int64) (int, error) {
	d.reads.Add(1)
	if err := hook(d.onRead, off, len(p)); err != nil {
		return 0, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	n := copy(p, d.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (d *memDevice) TryReadAt(p []byte, off int64) error {
	d.tries.Add(1)
	if d.onRead != nil {
		return syscall.EAGAIN
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	copy(p, d.data[off:])
	return nil
}

// change marks pages as changed. d.mu is held.
func (d *memDevice) change(off, n int64, mapped bool) {
	for p := off / testPage; p <= (off+n-1)/testPage; p++ {
		d.mapped[p] = mapped
		for _, c := range d.changed {
			c[p] = true
		}
	}
}

func (d *memDevice) WriteAt(p []byte, off int64) (int, error) {
	d.writes.Add(1)
	if err := hook(d.onWrite, off, len(p)); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unflushed.Store(true)
	d.change(off, int64(len(p)), true)
	return copy(d.data[off:], p), nil
}

func (d *memDevice) Flush(ctx context.Context) error {
	d.flushes.Add(1)
	if err := hook(d.onFlush, 0, 0); err != nil {
		return err
	}
	d.unflushed.Store(false)
	return ctx.Err()
}

func (d *memDevice) Discard(_ context.Context, off, n int64) error {
	d.discards.Add(1)
	return d.zero(off, n)
}

func (d *memDevice) WriteZeroes(_ context.Context, off, n int64) error {
	d.zeroes.Add(1)
	return d.zero(off, n)
}

func (d *memDevice) zero(off, n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unflushed.Store(true)
	clear(d.data[off : off+n])
	first := (off + testPage - 1) / testPage * testPage
	if end := (off + n) / testPage * testPage; end > first {
		d.change(first, end-first, false)
	}
	return nil
}

func (d *memDevice) Extents(_ context.Context, off, n int64, yield func(int64, bool) bool) error {
	return d.pages(off, n, d.mapped, yield)
}

func (d *memDevice) Changes(_ context.Context, since string, off, n int64, yield func(int64, bool) bool) error {
	c, ok := d.changed[since]
	if !ok {
		return syscall.ENOENT
	}
	return d.pages(off, n, c, yield)
}

// pages yields the state of each page of a range.
func (d *memDevice) pages(off, n int64, state []bool, yield func(int64, bool) bool) error {
	d.mu.RLock()
	state = slices.Clone(state)
	d.mu.RUnlock()
	for end := off + n; off < end; {
		next := min(end, (off/testPage+1)*testPage)
		if !yield(next-off, state[off/testPage]) {
			return nil
		}
		off = next
	}
	return nil
}

// plainDevice hides what a memDevice offers beyond a Device.
type plainDevice struct{ d *memDevice }

func (p plainDevice) ReadAt(b []byte, off int64) (int, error)     { return p.d.ReadAt(b, off) }
func (p plainDevice) WriteAt(b []byte, off int64) (int, error)    { return p.d.WriteAt(b, off) }
func (p plainDevice) Size() int64                                 { return p.d.Size() }
func (p plainDevice) Flush(ctx context.Context) error             { return p.d.Flush(ctx) }
func (p plainDevice) Discard(context.Context, int64, int64) error { return syscall.ENOTSUP }
func (p plainDevice) WriteZeroes(context.Context, int64, int64) error {
	return syscall.ENOTSUP
}

// memExports serves devices by name.
type memExports struct {
	mu     sync.Mutex
	byName map[string]*Export
	errs   map[string]error
	open   int      // exports not yet closed
	opened []string // names, by Open
	client string   // the last
}

func (e *memExports) List(context.Context) ([]ExportInfo, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []ExportInfo
	for _, name := range slices.Sorted(maps.Keys(e.byName)) {
		list = append(list, ExportInfo{Name: name, Description: e.byName[name].Description})
	}
	return list, e.errs["*"]
}

func (e *memExports) Open(_ context.Context, name, client string) (*Export, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.errs[name]; err != nil {
		return nil, err
	}
	found, ok := e.byName[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	e.open++
	e.opened = append(e.opened, name)
	e.client = client
	export := *found
	export.Name = name
	var once sync.Once
	export.Close = func() error {
		err := errors.New("closed twice")
		once.Do(func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.open--
			err = nil
		})
		return err
	}
	return &export, nil
}

func (e *memExports) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.open
}

func TestMemDeviceTellsWhatItHolds(t *testing.T) {
	d := newMemDevice(5*testPage + 10)
	d.snapshot("s")
	if _, err := d.WriteAt(bytes.Repeat([]byte{1}, 10), testPage+5); err != nil {
		t.Fatal(err)
	}
	var got []int64
	d.Extents(t.Context(), 100, 2*testPage, func(n int64, data bool) bool {
		if data {
			n = -n
		}
		got = append(got, n)
		return true
	})
	if want := []int64{testPage - 100, -testPage, 100}; !slices.Equal(got, want) {
		t.Errorf("extents %v, want %v", got, want)
	}
}
