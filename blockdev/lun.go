package blockdev

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
)

const (
	// writeChunk bounds what one step of a write covers, and by it the number
	// of journal records that the step needs.
	writeChunk = 1 << 20
	// zeroChunk is the same for discards: one record whatever the length.
	zeroChunk = 1 << 30

	stripeCount  = 256
	stripeBlocks = 64
)

// lun is an exported LUN at run time.
//
// Lock order: roomMu, maintainMu, Pool.opMu, gate, stripes ascending, journal, map.
//
// A write holds the gate shared from the look at the map until all of it is
// done; a freeze holds it alone to swap the head. A write that changes the map
// also holds the stripes of its blocks, so that two writes to one block, or a
// write and a hole punch, follow one another. Writes in place and reads need
// no stripe: what they do overlaps in time with whatever changes the map under
// them, and every order of the two is right. That ends where the space of a
// block that was unmapped is written again while they are still at it: they
// would be seen, or see, before the map says so. So the first redirected write
// to such a block waits until they have left (reuse).
type lun struct {
	pool *Pool
	id   uint64
	size atomic.Int64
	m    atomic.Pointer[extentMap] // replaced under gate by a revert

	failed atomic.Pointer[Error]
	// broken: it could not be opened, there is nothing to read it by. failed
	// says why.
	broken bool
	gone   atomic.Bool

	gate sync.RWMutex
	head *head   // the open layer
	old  []*head // swapped out and not sealed, oldest first

	stripes [stripeCount]sync.Mutex
	reuse   reuse

	// roomMu is held while a file is added to the head's journal for want of
	// room, so that only one is.
	roomMu sync.Mutex

	// maintainMu is held while a checkpoint is made, or one of the LUN's layers
	// is sealed or merged.
	maintainMu sync.Mutex

	flushes flushGroup
	// flushing is held shared by flushes, and alone to wait for their end.
	flushing sync.RWMutex
	handles  handles
}

func (l *lun) name() string {
	if r := l.pool.cat.lun(l.id); r != nil {
		return r.Name
	}
	return fmt.Sprintf("#%d", l.id)
}

// fail stops the LUN from taking writes: data that it had not made durable is
// lost. It stays so after a restart (invariant 10).
func (l *lun) fail(cause error) error {
	e := &Error{Object: lunObject(l.name()), Class: ErrFailed, Detail: "takes no more writes, unsynced data is lost", Cause: cause}
	if !l.failed.CompareAndSwap(nil, e) {
		return l.failed.Load()
	}
	l.pool.log.Error("LUN failed", "lun", l.name(), "error", cause)
	l.pool.recordFailure(l.id, cause.Error())
	return e
}

// stray stops the LUN from taking writes because its map is not what its
// journal says. Nothing is lost: it is put right when the pool is opened.
func (l *lun) stray(cause error) error {
	e := &Error{Object: lunObject(l.name()), Class: ErrFailed, Detail: "takes no more writes until the daemon is restarted", Cause: cause}
	if l.failed.CompareAndSwap(nil, e) {
		l.pool.log.Error("LUN stopped", "lun", l.name(), "error", cause)
	}
	return e
}

// usable returns why the LUN cannot be written, nil if it can.
func (l *lun) usable() error {
	if l.gone.Load() {
		return &Error{Object: fmt.Sprintf("LUN #%d", l.id), Class: ErrStale}
	}
	if e := l.failed.Load(); e != nil {
		return e
	}
	return nil
}

// inRange tells whether n bytes at off lie in size bytes.
func inRange(off, n, size int64) bool { return off >= 0 && n >= 0 && off <= size && n <= size-off }

func rangeError(off, n, size int64) error {
	return errorf(ErrInvalid, "request", "%d bytes at %d are not within %d", n, off, size)
}

// writeAt writes p, which lies within the LUN.
func (l *lun) writeAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		n := min(len(p)-done, int(writeChunk-at%writeChunk))
		if err := l.change(false, func() error { return l.write(p[done:done+n], at) }); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// change runs one step that may change the map, again if room had to be made
// first: in the journal, out of the reserve if it must, or in the reserve; or
// if the users of a block had to be waited for.
func (l *lun) change(must bool, step func() error) error {
	for {
		if l.pool.segments.crowded() {
			if err := l.thinOut(); err != nil {
				return err
			}
		}
		h, err := l.attempt(step)
		switch err {
		case errJournalFull:
			err = l.makeRoom(h, must)
		case errReserveShort:
			err = l.pool.admit()
		case errInUse:
			err = l.reuse.wait(&l.pool.grace)
		default:
			return err
		}
		if err != nil {
			return err
		}
	}
}

func (l *lun) attempt(step func() error) (*head, error) {
	phase := l.pool.grace.enter()
	defer l.pool.grace.exit(phase)
	l.gate.RLock()
	defer l.gate.RUnlock()
	if err := l.usable(); err != nil {
		return nil, err
	}
	return l.head, step()
}

// write is one step of a write; the gate is held.
func (l *lun) write(p []byte, off int64) error {
	if size := l.size.Load(); !inRange(off, int64(len(p)), size) { // a revert came between
		return rangeError(off, int64(len(p)), size)
	}
	h, m := l.head, l.m.Load()
	first := uint64(off / BlockSize)
	count := uint64((off+int64(len(p))+BlockSize-1)/BlockSize) - first
	var buf [16]mapRun
	runs, err := m.runs(buf[:0], first, count)
	if err != nil {
		return err
	}
	if redirected(h, runs) == 0 {
		for _, r := range runs {
			if err := l.writePart(h, r, r.place.origin(), p, off); err != nil {
				return err
			}
		}
		return nil
	}
	unlock := l.lockStripes(first, count)
	defer unlock()
	var nodes [2]*mapNode
	held, err := m.hold(nodes[:0], first, count)
	if err != nil {
		return err
	}
	defer unpin(held)
	if runs, err = m.runs(runs[:0], first, count); err != nil {
		return err
	}
	return l.writeRedirected(h, m, runs, p, off)
}

// redirected returns how many records it takes to map to the head what it does
// not own of some runs: runs that adjoin share one.
func redirected(h *head, runs []mapRun) (n int64) {
	before := false
	for _, r := range runs {
		own := h.inPlace(r.place)
		if !own && !before {
			n++
		}
		before = !own
	}
	return n
}

// writeRedirected writes runs of which the head does not own all: those go
// whole to the head's segments, then the journal and the map are changed. The
// stripes are held.
func (l *lun) writeRedirected(h *head, m *extentMap, runs []mapRun, p []byte, off int64) error {
	if l.pool.reserve.short.Load() {
		return errReserveShort
	}
	if l.reuse.inUse(h, runs) {
		return errInUse
	}
	need := redirected(h, runs)
	if !h.journal.reserve(need) {
		return errJournalFull
	}
	var buf [4]record
	recs := buf[:0]
	for i, r := range runs {
		origin := r.place.origin()
		var err error
		if h.inPlace(r.place) {
			err = l.writePart(h, r, origin, p, off)
		} else {
			err = l.writeWhole(h, r, p, off)
			recs = appendData(recs, r, h.layer)
		}
		if err != nil {
			h.journal.release(need)
			l.trimUnmapped(h, runs[:i+1])
			return err
		}
	}
	if err := h.journal.append(recs...); err != nil {
		return l.fail(err)
	}
	for _, r := range recs {
		if err := m.set(r.block, uint64(r.count), r.place()); err != nil {
			return l.stray(err)
		}
	}
	l.pool.wantRoom(l, h)
	return nil
}

// trimUnmapped has the space given back that a write took which failed before
// the map was changed.
func (l *lun) trimUnmapped(h *head, runs []mapRun) {
	for _, r := range runs {
		if !h.inPlace(r.place) {
			h.addTrim(trim{h.layer, r.block, r.count})
		}
	}
	l.pool.wantCheckpoint(l)
}

// appendData adds the record that maps a run to an origin, or makes the last
// one longer where the run adjoins it.
func appendData(recs []record, r mapRun, origin uint32) []record {
	if n := len(recs); n > 0 && recs[n-1].block+uint64(recs[n-1].count) == r.block {
		recs[n-1].count += uint32(r.count)
		return recs
	}
	return append(recs, record{kind: recordData, block: r.block, count: uint32(r.count), origin: origin})
}

// part returns what of p, which begins at off, falls on a run.
func part(r mapRun, p []byte, off int64) (b []byte, at int64) {
	start := max(off, int64(r.block)*BlockSize)
	end := min(off+int64(len(p)), int64(r.block+r.count)*BlockSize)
	return p[start-off : end-off], start
}

// writePart writes what of p falls on a run to the segments of an origin.
func (l *lun) writePart(h *head, r mapRun, origin uint32, p []byte, off int64) error {
	b, at := part(r, p, off)
	return l.writeSegments(h, origin, b, at)
}

func (l *lun) writeSegments(h *head, origin uint32, b []byte, at int64) error {
	// Blocks of other origins are only overwritten: their segments are there.
	create := origin == h.layer
	err := l.pool.eachShard(origin, at, int64(len(b)), create, func(s *segment, segOff, i, n int64) error {
		_, err := s.WriteAt(b[i:i+n], segOff)
		h.markDirty(s)
		if err != nil {
			return l.writeError(s, segOff, err)
		}
		return nil
	})
	if isNoSpace(err) && !errors.Is(err, ErrNoSpace) { // a segment could not be made
		return &Error{Object: lunObject(l.name()), Class: ErrNoSpace, Cause: err}
	}
	return err
}

func (l *lun) writeError(s *segment, segOff int64, err error) error {
	class := error(syscall.EIO)
	if isNoSpace(err) {
		class = ErrNoSpace
	}
	return &Error{Object: lunObject(l.name()), Class: class,
		Detail: fmt.Sprintf("write %s at offset %d", segmentName(s.key.origin, s.key.shard), segOff), Cause: err}
}

// writeWhole writes what of p falls on a run to the head's own segments. A
// block that p covers in part is filled up with what it held.
func (l *lun) writeWhole(h *head, r mapRun, p []byte, off int64) error {
	b, at := part(r, p, off)
	if lead := at % BlockSize; lead != 0 || len(b) < BlockSize {
		n := min(int64(len(b)), BlockSize-lead)
		if err := l.writeFilled(h, r.place, b[:n], at); err != nil {
			return err
		}
		b, at = b[n:], at+n
	}
	if whole := len(b) / BlockSize * BlockSize; whole > 0 {
		if err := l.writeSegments(h, h.layer, b[:whole], at); err != nil {
			return err
		}
		b, at = b[whole:], at+int64(whole)
	}
	if len(b) > 0 {
		return l.writeFilled(h, r.place, b, at)
	}
	return nil
}

// writeFilled writes part of one block, whose content is at old, as a whole
// block of the head's.
func (l *lun) writeFilled(h *head, old place, b []byte, at int64) error {
	var block [BlockSize]byte
	start := at / BlockSize * BlockSize
	// What is damaged must not become part of a layer that is summed later.
	err := l.pool.readSummed(old, block[:], start, false)
	if bad, ok := errors.AsType[*badSum](err); ok {
		return l.pool.damaged(lunObject(l.name()), bad, "lun", l.name())
	}
	if err != nil {
		return err
	}
	copy(block[at-start:], b)
	return l.writeSegments(h, h.layer, block[:], start)
}

// zero makes n bytes from off on, which lie within the LUN, read as zeros and
// gives their space back.
func (l *lun) zero(ctx context.Context, off, n int64) error {
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		k := min(n, zeroChunk-off%zeroChunk)
		if err := l.change(true, func() error { return l.zeroStep(off, k) }); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}

// zeroStep is one step of a discard; the gate is held, so that a freeze has all
// of it or nothing. The whole blocks come first: they need no space.
func (l *lun) zeroStep(off, n int64) error {
	end := off + n
	first, last := (off+BlockSize-1)/BlockSize, end/BlockSize
	if first < last {
		if err := l.unmap(uint64(first), uint64(last-first)); err != nil {
			return err
		}
	}
	if lead := min(end, first*BlockSize); lead > off {
		if err := l.zeroPart(off, lead-off); err != nil {
			return err
		}
	}
	if tail := last * BlockSize; last >= first && end > tail {
		return l.zeroPart(tail, end-tail)
	}
	return nil
}

// zeroPart writes zeros to part of one block, unless it is zero already. The
// gate is held.
func (l *lun) zeroPart(off, n int64) error {
	at, err := l.m.Load().at(uint64(off / BlockSize))
	if err != nil || !at.isData() {
		return err
	}
	var zeros [BlockSize]byte
	return l.write(zeros[:n], off)
}

// unmap is one step of a discard of whole blocks; the gate is held. One record
// covers all, from the first to the last block that holds data.
func (l *lun) unmap(block, count uint64) error {
	if size := l.size.Load(); !inRange(int64(block)*BlockSize, int64(count)*BlockSize, size) {
		return rangeError(int64(block)*BlockSize, int64(count)*BlockSize, size)
	}
	h, m := l.head, l.m.Load()
	unlock := l.lockStripes(block, count)
	defer unlock()
	held, err := m.hold(nil, block, count)
	if err != nil {
		return err
	}
	defer unpin(held)
	runs, err := m.runs(nil, block, count)
	if err != nil {
		return err
	}
	runs = slices.DeleteFunc(runs, func(r mapRun) bool { return !r.place.isData() })
	if len(runs) == 0 {
		return nil
	}
	if !h.journal.reserve(1) {
		return errJournalFull
	}
	last := runs[len(runs)-1]
	first, n := runs[0].block, last.block+last.count-runs[0].block
	if err := h.journal.append(record{kind: recordZero, block: first, count: uint32(n), origin: h.layer}); err != nil {
		return l.fail(err)
	}
	if err := m.set(first, n, zeroPlace(h.layer)); err != nil {
		return l.stray(err)
	}
	trimmed := false
	for _, r := range runs {
		if h.owns(r.place) {
			trimmed = true
			h.addTrim(trim{r.place.origin(), r.block, r.count})
		}
	}
	if trimmed {
		l.reuse.unmapped(block, count)
		l.pool.wantCheckpoint(l)
	}
	return nil
}

// lockStripes locks the stripes of a range of blocks and returns what unlocks
// them.
func (l *lun) lockStripes(block, count uint64) (unlock func()) {
	first := block / stripeBlocks
	n := (block+count-1)/stripeBlocks - first + 1
	if n >= stripeCount {
		first, n = 0, stripeCount
	}
	// Ascending by index: those that wrapped around come first.
	lo, hi := first%stripeCount, first%stripeCount+n
	wrapped := uint64(0)
	if hi > stripeCount {
		wrapped, hi = hi-stripeCount, stripeCount
	}
	for i := range wrapped {
		l.stripes[i].Lock()
	}
	for i := lo; i < hi; i++ {
		l.stripes[i].Lock()
	}
	return func() {
		for i := range wrapped {
			l.stripes[i].Unlock()
		}
		for i := lo; i < hi; i++ {
			l.stripes[i].Unlock()
		}
	}
}
