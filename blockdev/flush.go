package blockdev

import (
	"context"
	"errors"
	"sync"
	"time"
)

// flushGroup lets flushes that wait at the same time share one.
type flushGroup struct {
	mu      sync.Mutex
	running bool
	next    *flushCall // what those wait for that came while one was running
}

type flushCall struct {
	done chan struct{}
	err  error
}

// do returns the result of a run of fn that began after do was called.
func (g *flushGroup) do(ctx context.Context, fn func() error) error {
	g.mu.Lock()
	if !g.running {
		g.running = true
		g.mu.Unlock()
		err := fn()
		g.finish(fn)
		return err
	}
	if g.next == nil {
		g.next = &flushCall{done: make(chan struct{})}
	}
	call := g.next
	g.mu.Unlock()
	select {
	case <-call.done:
		return call.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// finish runs fn for those that came meanwhile, if any, on a goroutine of its
// own, so that who came first does not wait for them.
func (g *flushGroup) finish(fn func() error) {
	g.mu.Lock()
	call := g.next
	g.next = nil
	g.running = call != nil
	g.mu.Unlock()
	if call == nil {
		return
	}
	go func() {
		call.err = fn()
		close(call.done)
		g.finish(fn)
	}()
}

// flush makes every write that was acknowledged before the call durable.
func (l *lun) flush(ctx context.Context) error {
	if err := l.usable(); err != nil {
		return err
	}
	return l.flushes.do(ctx, l.flushNow)
}

func (l *lun) flushNow() error {
	l.flushing.RLock()
	defer l.flushing.RUnlock()
	if err := l.usable(); err != nil {
		return err
	}
	h := l.currentHead()
	// Older layers first: what the head commits stands on them.
	if err := l.flushOld(); err != nil {
		return err
	}
	return l.flushHead(h)
}

// flushOld makes the layers durable that were swapped out and are not sealed.
func (l *lun) flushOld() error {
	for _, h := range l.oldHeads() {
		if err := l.flushHead(h); err != nil {
			return err
		}
		h.setDurable()
	}
	return nil
}

// flushHead flushes one layer. Failure is final for the LUN (invariant 10).
// The gate is not held.
func (l *lun) flushHead(h *head) error {
	for {
		err := l.flushOnce(h)
		if err != errJournalFull {
			return err
		}
		if l.usable() == nil && l.isHead(h) {
			err = l.makeRoom(h, true)
		} else if err = l.pool.makeJournal(l.pool.nextJournal(h.journal.lastLength()), h.journal.extend); err != nil {
			err = l.unlessDurable(h, l.metadataError, err)
		}
		if err != nil {
			return err
		}
	}
}

// flushOnce is flushHead but for errJournalFull.
func (l *lun) flushOnce(h *head) error {
	if h.isDurable() {
		return nil
	}
	err := h.flush(l.pool.segments)
	if err == nil || err == errJournalFull {
		return err
	}
	return l.unlessDurable(h, l.fail, err)
}

// thinOut has dirty segments synced, since each is kept open until then. No I/O
// of the caller's is under way.
func (l *lun) thinOut() error {
	l.pool.maintenance.wake()
	if !l.pool.segments.full() {
		return nil
	}
	return l.syncHead()
}

// syncHead makes the data of the head durable, but no map changes.
func (l *lun) syncHead() error {
	h := l.currentHead()
	if err := h.syncData(l.pool.segments); err != nil {
		return l.unlessDurable(h, l.fail, err)
	}
	return nil
}

// unlessDurable passes an error on, unless the layer, swapped out, was synced
// and sealed meanwhile, so that its journal is closed.
func (l *lun) unlessDurable(h *head, pass func(error) error, err error) error {
	if h.isDurable() {
		return nil
	}
	return pass(err)
}

// Sizes of journal files. A layer begins with a small one; each further one is
// four times larger, until all together would pass the limit: then a
// checkpoint makes them superfluous.
const (
	firstJournalBytes = 1 << 20
	nextJournalFactor = 4
	maxJournalBytes   = 48 << 20
	// While something else holds maintainMu there can be no checkpoint. The
	// journal then grows on, up to this many times its limit, lest writes wait.
	maxJournalFactor = 4
)

// makeRoom extends the journal of a head that has run full, where it must work
// out of the reserve. The gate is not held.
func (l *lun) makeRoom(h *head, must bool) error {
	l.roomMu.Lock()
	defer l.roomMu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if !h.journal.full() || !l.isHead(h) {
		return nil
	}
	err := l.extend(h)
	if must && isNoSpace(err) {
		err = l.pool.makeJournal(minJournalBytes, h.journal.extend)
	}
	return err
}

// extend adds a file to the head's journal, or makes a checkpoint where the
// journal has reached its limit. roomMu is held.
func (l *lun) extend(h *head) error {
	bytes := h.journal.bytes() + l.pool.nextJournal(h.journal.lastLength())
	if limit := l.pool.journalLimit(); bytes > limit && l.isHead(h) {
		free := l.maintainMu.TryLock()
		if !free && bytes > maxJournalFactor*limit {
			l.maintainMu.Lock()
			free = true
		}
		if free {
			defer l.maintainMu.Unlock()
			_, err := l.checkpoint(h, nil)
			return err
		}
	}
	if err := l.extendJournal(h); err != nil && l.isHead(h) {
		return l.metadataError(err)
	}
	return nil
}

func (l *lun) extendJournal(h *head) error {
	return h.journal.extend(l.pool.nextJournal(h.journal.lastLength()))
}

func (l *lun) isHead(h *head) bool {
	l.gate.RLock()
	defer l.gate.RUnlock()
	return l.head == h
}

// metadataError is the error of a write that failed because the engine's own
// files could not be written, though nothing is lost.
func (l *lun) metadataError(err error) error {
	if isNoSpace(err) {
		return &Error{Object: lunObject(l.name()), Class: ErrNoSpace, Cause: err}
	}
	if errors.Is(err, errMapLost) {
		return err
	}
	return l.fail(err)
}

// checkpoint writes the presence map of the head, with the blocks of further
// origins that it is about to own, and drops the journal written until then.
// It returns the map as it is now on disk, nil if h is not the head any more.
// maintainMu is held. Writes go on meanwhile.
func (l *lun) checkpoint(h *head, further []uint32) (*extentMap, error) {
	p := l.pool
	length := p.nextJournal(h.journal.lastLength() / nextJournalFactor)
	if l.gone.Load() {
		length = p.restingJournal()
	}
	if err := p.makeJournal(length, h.journal.extend); err != nil {
		return nil, l.metadataError(err)
	}
	l.gate.Lock()
	if l.head != h {
		l.gate.Unlock()
		return nil, nil // swapped out meanwhile: sealing does the rest
	}
	from, nextSeq := h.journal.advance()
	frozen, below := l.m.Load().clone(), h.below
	leftover := len(h.pendingTrims()) > 0 || h.scan.Load()
	blocks := uint64(l.size.Load() / BlockSize)
	l.gate.Unlock()

	if err := h.syncData(p.segments); err != nil {
		return nil, l.fail(err)
	}
	owned := func(at place) bool { return h.owns(at) || containsOrigin(further, at) }
	if len(further) > 0 {
		below = newExtentMap() // has their blocks
	}
	header := presenceHeader{layer: h.layer, leftover: leftover, blocks: blocks, journalFrom: from, nextSeq: nextSeq}
	if err := p.writePresence(header, frozen, below, owned); err != nil {
		return nil, l.metadataError(err)
	}
	if err := h.journal.cut(from); err != nil {
		// Nothing reads the files any more; the next opening removes them.
		p.log.Warn("journal files not removed", "layer", h.layer, "error", err)
	}
	return frozen, nil
}

func containsOrigin(origins []uint32, at place) bool {
	for _, o := range origins {
		if at != nowhere && at.origin() == o {
			return true
		}
	}
	return false
}

// writePresence writes the presence map of a layer: of m, the places that
// owned holds for. None of them is in what m shares with below.
func (p *Pool) writePresence(h presenceHeader, m, below *extentMap, owned func(place) bool) error {
	return p.withReserve(func() error { return p.writePresenceOnce(h, m, below, owned) })
}

func (p *Pool) writePresenceOnce(h presenceHeader, m, below *extentMap, owned func(place) bool) error {
	w, err := createPresence(p.fs, h)
	if err != nil {
		return err
	}
	err = m.leavesBeside(below, func(index uint64, vals *[leafBlocks]place) error {
		if index*leafBlocks >= h.blocks {
			return nil
		}
		any := false
		for i, at := range vals {
			if owned(at) {
				any = true
			} else {
				vals[i] = nowhere
			}
		}
		if !any {
			return nil
		}
		return w.leaf(index, vals)
	})
	if err != nil {
		w.abort()
		return err
	}
	_, err = w.finish()
	return err
}

// punch gives back the space of trims, of which the durable map frozen says
// that they are not used; those that have come into use again are passed by.
// If the head is swapped meanwhile it is not done, and left to the sealing.
func (l *lun) punch(h *head, frozen *extentMap, trims []trim, rest breather) (done bool, err error) {
	if len(trims) == 0 {
		return true, nil
	}
	if err := l.pool.grace.wait(context.Background()); err != nil {
		return false, err
	}
	for _, t := range trims {
		for ; t.count > 0; t.block, t.count = t.block+punchStep(t.count), t.count-punchStep(t.count) {
			punched, err := l.punchRange(h, frozen, t.origin, t.block, punchStep(t.count), rest)
			if err != nil || !punched {
				return false, err
			}
		}
	}
	return true, nil
}

// punchStep is how many of count blocks are looked at in one go.
func punchStep(count uint64) uint64 { return min(count, 16*stripeBlocks) }

// punchRange punches those blocks of an origin of the head's in a range that
// neither the durable map nor the present one uses. It stops and returns false
// if h is not the head any more: what it wrote since the durable map was made
// then belongs to a snapshot, and the present map does not tell.
func (l *lun) punchRange(h *head, frozen *extentMap, origin uint32, block, count uint64, rest breather) (bool, error) {
	durable, err := frozen.runs(nil, block, count)
	if err != nil {
		return false, err
	}
	for _, r := range durable {
		if r.place == dataPlace(origin) {
			continue
		}
		began := time.Now()
		if punched, err := l.punchRun(h, origin, r); !punched || err != nil {
			return false, err
		}
		if err := rest(began); err != nil {
			return false, err
		}
	}
	return true, nil
}

// punchRun punches the blocks of an origin in a run that the present map does
// not use. A freeze waits for it, and for no more.
func (l *lun) punchRun(h *head, origin uint32, run mapRun) (bool, error) {
	l.gate.RLock()
	defer l.gate.RUnlock()
	if l.head != h {
		return false, nil
	}
	unlock := l.lockStripes(run.block, run.count)
	defer unlock()
	var errs []error
	runs, err := l.m.Load().runs(nil, run.block, run.count)
	if err != nil {
		return false, err
	}
	for _, r := range runs {
		if r.place != dataPlace(origin) {
			errs = append(errs, l.pool.punchBlocks(origin, r.block, r.count, h.markDirty))
		}
	}
	return true, errors.Join(errs...)
}
