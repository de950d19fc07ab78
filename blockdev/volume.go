package blockdev

import (
	"context"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Volume is an open LUN or snapshot: what a protocol server serves.
//
// Offsets and lengths are in bytes and need no alignment. A request that is
// not wholly within Size is refused with ErrInvalid. All methods are safe for
// concurrent use. After Close they return ErrClosed; once the LUN or snapshot
// is gone, ErrStale.
type Volume struct {
	pool   *Pool
	client string
	lunID  uint64

	lun *lun // nil for a snapshot

	snapshot uint64 // its id
	layer    uint32 // of a snapshot
	m        *extentMap
	size     int64

	handles *handles
	state   atomic.Uint32 // open, stale or closed
}

const (
	volumeOpen = iota
	volumeStale
	volumeClosed
)

// handles are the open volumes of one LUN or snapshot.
type handles struct {
	mu   sync.Mutex
	open map[*Volume]struct{}
}

func (h *handles) add(v *Volume) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.open == nil {
		h.open = make(map[*Volume]struct{})
	}
	h.open[v] = struct{}{}
}

func (h *handles) remove(v *Volume) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.open, v)
}

func (h *handles) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.open)
}

// names lists who has volumes open, each once, a few of them.
func (h *handles) names() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var names []string
	for v := range h.open {
		if v.client != "" && !slices.Contains(names, v.client) {
			names = append(names, v.client)
		}
	}
	slices.Sort(names)
	if len(names) > 3 {
		names = append(names[:3], "…")
	}
	return strings.Join(names, ", ")
}

// expire makes the open volumes stale.
func (h *handles) expire() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for v := range h.open {
		v.state.CompareAndSwap(volumeOpen, volumeStale)
	}
}

// snapshotHandles returns the open volumes of a snapshot.
func (p *Pool) snapshotHandles(id uint64) *handles {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.snapHandles[id]
	if h == nil {
		h = new(handles)
		p.snapHandles[id] = h
	}
	return h
}

// forgetSnapshot makes the open volumes of a deleted snapshot stale.
func (p *Pool) forgetSnapshot(id uint64) {
	p.snapshotHandles(id).expire()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.snapHandles, id)
}

// OpenLUN opens a LUN for reading and writing. client names who does, for
// messages that say what is in the way.
func (p *Pool) OpenLUN(name, client string) (*Volume, error) {
	if err := p.begin(context.Background()); err != nil {
		return nil, err
	}
	defer p.opMu.Unlock()
	r, err := p.cat.findLUN(name)
	if err != nil {
		return nil, err
	}
	l := p.lunByID(r.ID)
	if l.broken {
		return nil, l.failed.Load()
	}
	v := &Volume{pool: p, client: client, lunID: r.ID, lun: l, handles: &l.handles}
	v.handles.add(v)
	return v, nil
}

// OpenSnapshot opens a snapshot for reading.
func (p *Pool) OpenSnapshot(lun, name, client string) (*Volume, error) {
	if err := p.begin(context.Background()); err != nil {
		return nil, err
	}
	defer p.opMu.Unlock()
	_, s, err := p.cat.find(lun, name)
	if err != nil {
		return nil, err
	}
	m, err := p.acquireView(s.Layer)
	if err != nil {
		return nil, err
	}
	v := &Volume{pool: p, client: client, lunID: s.LUN, snapshot: s.ID, layer: s.Layer, m: m, size: s.SizeBytes, handles: p.snapshotHandles(s.ID)}
	v.handles.add(v)
	return v, nil
}

// Close ends the use of the volume. Writes that were acknowledged stay as
// durable as they were; it does not flush.
func (v *Volume) Close() error {
	if v.state.Swap(volumeClosed) == volumeClosed {
		return &Error{Object: "volume", Class: ErrClosed}
	}
	v.handles.remove(v)
	if v.lun == nil {
		v.pool.releaseView(v.layer)
	}
	return nil
}

// Size returns the size in bytes. That of a LUN may grow, and shrink by a
// forced revert.
func (v *Volume) Size() int64 {
	if v.lun != nil {
		return v.lun.size.Load()
	}
	return v.size
}

// ReadOnly tells whether the volume is a snapshot.
func (v *Volume) ReadOnly() bool { return v.lun == nil }

// currentMap returns the map to read by.
func (v *Volume) currentMap() *extentMap {
	if v.lun != nil {
		return v.lun.m.Load()
	}
	return v.m
}

// usable returns why the volume cannot be used any more, nil if it can. It is
// asked while the I/O counts as under way, so that what it reads stays until
// the I/O has ended.
func (v *Volume) usable() error {
	switch v.state.Load() {
	case volumeStale:
		return &Error{Object: "volume", Class: ErrStale, Detail: "it was deleted"}
	case volumeClosed:
		return &Error{Object: "volume", Class: ErrClosed}
	}
	if v.pool.isClosed() {
		return &Error{Object: "pool " + v.pool.dir, Class: ErrClosed}
	}
	return nil
}

// ReadAt implements io.ReaderAt, except that a read past the end is refused.
// Blocks of a snapshot that have a sum are verified: one that is damaged is
// refused with ErrCorrupt.
func (v *Volume) ReadAt(b []byte, off int64) (int, error) {
	if size := v.Size(); !inRange(off, int64(len(b)), size) {
		if off == size {
			return 0, io.EOF
		}
		return 0, rangeError(off, int64(len(b)), size)
	}
	phase := v.pool.grace.enter()
	defer v.pool.grace.exit(phase)
	if err := v.usable(); err != nil {
		return 0, err
	}
	if v.lun == nil {
		if err := v.readSnapshot(b, off, false); err != nil {
			return 0, err
		}
		return len(b), nil
	}
	if err := v.pool.readMap(v.currentMap(), b, off, false); err != nil {
		return 0, err
	}
	return len(b), nil
}

// TryReadAt fills b if all of it is in the page cache, without waiting for a
// disk. After any error, ReadAt has to be asked.
func (v *Volume) TryReadAt(b []byte, off int64) error {
	if size := v.Size(); !inRange(off, int64(len(b)), size) {
		return rangeError(off, int64(len(b)), size)
	}
	phase := v.pool.grace.enter()
	defer v.pool.grace.exit(phase)
	if err := v.usable(); err != nil {
		return err
	}
	if v.lun == nil {
		return v.readSnapshot(b, off, true)
	}
	return v.pool.readMap(v.currentMap(), b, off, true)
}

// writable returns why n bytes at off cannot be written, nil if they can.
func (v *Volume) writable(off, n int64) error {
	if v.lun == nil {
		return &Error{Object: "snapshot", Class: ErrReadOnly}
	}
	if err := v.usable(); err != nil {
		return err
	}
	if size := v.Size(); !inRange(off, n, size) {
		return rangeError(off, n, size)
	}
	return nil
}

// WriteAt implements io.WriterAt. When it returns the data survives the death
// of the process.
func (v *Volume) WriteAt(b []byte, off int64) (int, error) {
	if err := v.writable(off, int64(len(b))); err != nil {
		return 0, err
	}
	return v.lun.writeAt(b, off)
}

// Flush makes durable every write, discard and write of zeros that was
// acknowledged before the call. An error is final for the LUN.
func (v *Volume) Flush(ctx context.Context) error {
	if v.lun == nil {
		return v.usable()
	}
	if err := v.writable(0, 0); err != nil {
		return err
	}
	return v.lun.flush(ctx)
}

// Discard makes a range read as zeros and gives its space back, except for
// blocks that it covers in part, which are written.
func (v *Volume) Discard(ctx context.Context, off, n int64) error {
	if err := v.writable(off, n); err != nil {
		return err
	}
	return v.lun.zero(ctx, off, n)
}

// WriteZeroes makes a range read as zeros, in the way of Discard.
func (v *Volume) WriteZeroes(ctx context.Context, off, n int64) error { return v.Discard(ctx, off, n) }

// Extents tells, in order, which parts of a range hold data and which read as
// zeros without taking space, until yield returns false.
func (v *Volume) Extents(ctx context.Context, off, n int64, yield func(length int64, data bool) bool) error {
	return v.compare(ctx, newExtentMap(), off, n, func(length int64, c Change) bool {
		return yield(length, c == Written)
	})
}

// Changes tells, in order, which parts of a range differ from the LUN's
// snapshot since, until yield returns false.
func (v *Volume) Changes(ctx context.Context, since string, off, n int64, yield func(length int64, changed bool) bool) error {
	r := v.pool.cat.lun(v.lunID)
	if r == nil || since == "" {
		return &Error{Object: "snapshot " + since, Class: ErrNotFound}
	}
	from, release, _, err := v.pool.stateMap(r, since, nil)
	if err != nil {
		return err
	}
	defer release()
	return v.compare(ctx, from, off, n, func(length int64, c Change) bool {
		return yield(length, c != Same)
	})
}

// compare merges adjoining results that yield cannot tell apart itself.
func (v *Volume) compare(ctx context.Context, from *extentMap, off, n int64, yield func(length int64, c Change) bool) error {
	if err := v.usable(); err != nil {
		return err
	}
	if size := v.Size(); !inRange(off, n, size) {
		return rangeError(off, n, size)
	}
	return eachChange(ctx, from, v.currentMap(), off, n, yield)
}
