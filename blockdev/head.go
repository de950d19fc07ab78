package blockdev

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
)

// head is an open layer: the one that a LUN's writes go to, or one that was
// swapped out and is not sealed yet.
type head struct {
	layer   uint32
	journal *journal
	// syncMu is held while segments are synced: a flush must not rely on a sync
	// that another began and has not finished. It is taken before mu.
	syncMu sync.Mutex
	// syncErr is the error of a sync that failed: all later ones fail too.
	syncErr error
	// foreign holds the origins that the layer owns beside its own, nil for
	// none. It is replaced under the LUN's gate.
	foreign atomic.Pointer[map[uint32]bool]

	// below is the map of the layer that this one stands on, as it was when
	// this one began, and never changes. Nothing that the layer owns is in what
	// the LUN's map shares with it. It is replaced under the LUN's gate and
	// maintainMu, and read under either.
	below *extentMap

	mu sync.Mutex
	// dirty holds the segments written since they were last synced, each with
	// a reference.
	dirty []*segment
	// trims are the blocks of the layer's own segments that were unmapped
	// since the last checkpoint, and may be punched after the next.
	trims []trim
	// scan: trims were forgotten, the layer's segments are to be scanned.
	scan atomic.Bool
	// durable: swapped out and synced, so that flushes pass it by.
	durable bool
}

// trim is a run of blocks of an origin that a map ceased to use.
type trim struct {
	origin       uint32
	block, count uint64
}

// maxTrims bounds the memory that trims take. Those beyond it are forgotten and
// found again by a scan (reclaim).
const maxTrims = 1 << 16

func newHead(layer uint32, j *journal, origins []uint32) *head {
	h := &head{layer: layer, journal: j, below: newExtentMap()}
	h.setOrigins(origins)
	return h
}

func (h *head) setOrigins(origins []uint32) {
	if len(origins) <= 1 {
		h.foreign.Store(nil)
		return
	}
	foreign := make(map[uint32]bool, len(origins))
	for _, o := range origins {
		foreign[o] = true
	}
	h.foreign.Store(&foreign)
}

// owns tells whether the layer owns the segments or zeros that p names.
func (h *head) owns(p place) bool {
	if p == nowhere {
		return false
	}
	if p.origin() == h.layer {
		return true
	}
	f := h.foreign.Load()
	return f != nil && (*f)[p.origin()]
}

// inPlace tells whether a block at p is overwritten where it is.
func (h *head) inPlace(p place) bool { return p.isData() && h.owns(p) }

// markDirty puts a segment on the list of those to be synced, after it was
// written and before that is acknowledged.
func (h *head) markDirty(s *segment) {
	if s.dirty.Load() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.dirty.Load() {
		return
	}
	s.refs.Add(1)
	s.cache.dirty.Add(1)
	h.dirty = append(h.dirty, s)
	s.dirty.Store(true) // only now: who finds the mark relies on the list
}

func (h *head) setDurable() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.durable = true
}

func (h *head) isDurable() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.durable
}

// addTrim notes that blocks of an origin are not mapped any more.
func (h *head) addTrim(t trim) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.trims) >= maxTrims {
		h.scan.Store(true)
		return
	}
	h.trims = append(h.trims, t)
}

// pendingTrims returns the trims that were not punched yet. They stay on the
// list until dropTrims.
func (h *head) pendingTrims() []trim {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.trims
}

// dropTrims forgets the first n trims.
func (h *head) dropTrims(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trims = slices.Clone(h.trims[n:])
}

// syncData makes durable all data written to the layer before the call.
func (h *head) syncData(c *segmentCache) error {
	h.syncMu.Lock()
	defer h.syncMu.Unlock()
	if h.syncErr == nil {
		h.syncErr = h.syncDirty(c)
	}
	return h.syncErr
}

func (h *head) syncDirty(c *segmentCache) error {
	h.mu.Lock()
	dirty := h.dirty
	h.dirty = nil
	h.mu.Unlock()
	var errs []error
	for _, s := range dirty {
		// A write that still finds the mark set was made before this, so the
		// sync covers it; a later one puts the segment on the list anew.
		s.dirty.Store(false)
		errs = append(errs, s.Sync())
		c.dirty.Add(-1)
		c.put(s)
	}
	errs = append(errs, c.syncNames(h.layer))
	return errors.Join(errs...)
}

// flush makes durable everything written to the layer before the call, map
// changes included. errJournalFull asks for more room in the journal.
func (h *head) flush(c *segmentCache) error {
	seq := h.journal.lastSeq()
	if err := h.syncData(c); err != nil {
		return err
	}
	return h.journal.commit(seq)
}
