package blockdev

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// Maintenance is what nobody waits for: extending journals before they are
// full, sealing layers that were swapped out, merging layers that nothing
// names, giving space back.
type maintenance struct {
	runMu sync.Mutex // one pass at a time

	kick chan struct{}
	quit context.CancelFunc // ends the loop, after the step under way
	done chan struct{}

	mu         sync.Mutex
	room       map[*lun]bool // journals to be extended
	checkpoint map[*lun]bool // LUNs with trims to be punched
	branches   map[uint32]branchState
}

// trimDelay is how long discards are gathered before a checkpoint gives their
// space back.
const trimDelay = time.Second

// trimRest is how many times as long as giving their space back took it then
// rests, so that large maps are not written all the time.
const trimRest = 10

// retryDelay is how long maintenance rests after it failed.
const retryDelay = 10 * time.Second

func (t *maintenance) start(p *Pool) {
	t.mu.Lock()
	t.room, t.checkpoint, t.branches = make(map[*lun]bool), make(map[*lun]bool), make(map[uint32]branchState)
	t.mu.Unlock()
	if p.manual {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.kick, t.quit, t.done = make(chan struct{}, 1), cancel, make(chan struct{})
	go p.maintainLoop(ctx)
	t.wake()
}

func (t *maintenance) stop() {
	if t.quit != nil {
		t.quit()
		<-t.done
	}
}

// wake makes the loop run a pass soon.
func (t *maintenance) wake() {
	select {
	case t.kick <- struct{}{}:
	default: // a pass is due already, or there is no loop
	}
}

// wantRoom asks for more journal for a head before it is full.
func (p *Pool) wantRoom(l *lun, h *head) {
	if !h.journal.low() {
		return
	}
	t := &p.maintenance
	t.mu.Lock()
	known := t.room[l]
	t.room[l] = true
	t.mu.Unlock()
	if !known {
		t.wake()
	}
}

// wantCheckpoint asks for a checkpoint of a LUN, so that trims are punched.
func (p *Pool) wantCheckpoint(l *lun) {
	t := &p.maintenance
	t.mu.Lock()
	known := t.checkpoint[l]
	t.checkpoint[l] = true
	t.mu.Unlock()
	if !known {
		t.wake()
	}
}

func take(mu *sync.Mutex, set *map[*lun]bool) []*lun {
	mu.Lock()
	defer mu.Unlock()
	luns := slices.Collect(maps.Keys(*set))
	clear(*set)
	sortLUNs(luns)
	return luns
}

// maintainLoop runs passes until ctx ends. What is left then is done when the
// pool is opened again.
func (p *Pool) maintainLoop(ctx context.Context) {
	t := &p.maintenance
	defer close(t.done)
	var nextTrims time.Time
	for {
		var later <-chan time.Time
		t.mu.Lock()
		if len(t.checkpoint) > 0 || p.reserve.short.Load() {
			later = time.After(time.Until(nextTrims))
		}
		t.mu.Unlock()
		trims, began := false, time.Now()
		select {
		case <-ctx.Done():
			return
		case <-t.kick:
		case <-later:
			trims, began = true, time.Now()
		}
		if err := p.maintain(ctx, trims); err != nil && ctx.Err() == nil {
			p.log.Error("maintenance failed, will be tried again", "error", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(retryDelay):
				t.wake()
			}
		}
		if trims {
			now := time.Now()
			nextTrims = now.Add(max(trimDelay, trimRest*now.Sub(began)))
		}
	}
}

// Settle runs maintenance until nothing is left to do: all layers sealed that
// can be, the space of deleted snapshots and discarded blocks given back, the
// sums of sealed layers made as far as there is space for them.
func (p *Pool) Settle(ctx context.Context) error {
	for {
		if err := p.maintain(ctx, true); err != nil {
			return err
		}
		if p.pending() == 0 {
			_, err := p.sumLayers(ctx, new(pace))
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// pending counts what maintenance has to do.
func (p *Pool) pending() int {
	t := &p.maintenance
	t.mu.Lock()
	n := len(t.checkpoint)
	t.mu.Unlock()
	for _, l := range p.allLUNs() {
		if l.failed.Load() == nil {
			n += len(l.oldHeads())
		}
	}
	n += len(p.reclaimable()) + len(p.prunable()) + len(p.newBranches())
	return n
}

func (l *lun) oldHeads() []*head {
	l.gate.RLock()
	defer l.gate.RUnlock()
	return slices.Clone(l.old)
}

// maintain runs one pass, then fills up the reserve. trims says whether LUNs
// with trims get a checkpoint.
func (p *Pool) maintain(ctx context.Context, trims bool) error {
	p.maintenance.runMu.Lock()
	defer p.maintenance.runMu.Unlock()
	return errors.Join(p.maintainPass(ctx, trims), p.reserve.refill())
}

func (p *Pool) maintainPass(ctx context.Context, trims bool) error {
	t := &p.maintenance
	var errs []error
	for _, l := range take(&t.mu, &t.room) {
		errs = append(errs, l.extendEarly())
	}
	errs = append(errs, p.sealAll(ctx))
	for _, l := range p.allLUNs() {
		if p.segments.crowded() && l.usable() == nil {
			errs = append(errs, l.syncHead())
		}
	}
	if trims {
		for _, l := range take(&t.mu, &t.checkpoint) {
			errs = append(errs, l.giveBackTrims())
		}
	}
	// Whatever failed, space that can be given back may be what it wanted.
	for {
		progress, err := p.giveBack(ctx, trims)
		if err != nil || !progress {
			return errors.Join(append(errs, err)...)
		}
	}
}

// sealAll seals the layers that were swapped out.
func (p *Pool) sealAll(ctx context.Context) error {
	var errs []error
	for _, l := range p.allLUNs() {
		for _, h := range l.oldHeads() {
			if err := ctx.Err(); err != nil {
				return err
			}
			if l.failed.Load() == nil {
				errs = append(errs, l.seal(h))
			}
		}
		p.forgetRetired(l)
	}
	return errors.Join(errs...)
}

// giveBack does what reclaims and prunes can be done now, and tells whether
// there were any. A damaged layer does not keep it from the others. atOnce is as
// for giveBackShadowed.
func (p *Pool) giveBack(ctx context.Context, atOnce bool) (progress bool, err error) {
	var errs []error
	for _, r := range p.reclaimable() {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		done, err := p.reclaim(ctx, r)
		if err != nil && !isDamage(err) {
			return false, err
		}
		errs = append(errs, err)
		progress = progress || done
	}
	for _, id := range p.prunable() {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		done, err := p.prune(id)
		if err != nil && !isDamage(err) {
			return false, err
		}
		errs = append(errs, err)
		progress = progress || done
	}
	dropped, err := p.giveBackShadowed(ctx, atOnce)
	return progress || dropped, errors.Join(append(errs, err)...)
}

// extendEarly adds to the journal of a head that will soon be full.
func (l *lun) extendEarly() error {
	l.maintainMu.Lock()
	defer l.maintainMu.Unlock()
	h := l.currentHead()
	if l.usable() != nil || !h.journal.low() {
		return nil
	}
	if err := l.extend(h); err != nil && !errors.Is(err, ErrNoSpace) {
		return err
	}
	return nil
}

func (l *lun) currentHead() *head {
	l.gate.RLock()
	defer l.gate.RUnlock()
	return l.head
}

// giveBackTrims gives back the space of what was discarded. What fails is to be
// tried again.
func (l *lun) giveBackTrims() error {
	l.maintainMu.Lock()
	defer l.maintainMu.Unlock()
	if l.usable() != nil {
		return nil
	}
	h := l.currentHead()
	_, err := l.checkpointAndPunch(h)
	if err = errors.Join(err, l.scanForgotten(h)); err != nil {
		l.pool.wantCheckpoint(l)
	}
	return err
}

// scanForgotten asks for a scan of the head's segments if more blocks were
// unmapped than could be kept in mind. maintainMu is held.
func (l *lun) scanForgotten(h *head) error {
	if !h.scan.Load() {
		return nil
	}
	l.pool.opMu.Lock()
	defer l.pool.opMu.Unlock()
	r := l.pool.cat.layer(h.layer)
	if r == nil {
		return nil
	}
	err := l.pool.cat.commit(l.pool.reclaimsOf(r)...)
	if err == nil {
		h.scan.Store(false)
	}
	return err
}

// seal writes the final presence map of a layer that was swapped out.
func (l *lun) seal(h *head) error {
	p := l.pool
	l.maintainMu.Lock()
	defer l.maintainMu.Unlock()
	if err := l.flushHead(h); err != nil {
		return err
	}
	h.setDurable()
	frozen, err := p.viewMap(h.layer)
	if err != nil {
		return err
	}
	r := p.cat.layer(h.layer)
	header := presenceHeader{layer: h.layer, blocks: r.Blocks, sealed: true}
	if err := p.writePresence(header, frozen, h.below, h.owns); err != nil {
		return l.metadataError(err)
	}
	changes := []change{putLayer(sealedRecord(r))}
	if len(h.pendingTrims()) > 0 || h.scan.Load() {
		changes = append(changes, p.reclaimsOf(r)...)
	}
	p.opMu.Lock()
	err = p.cat.commit(changes...)
	p.opMu.Unlock()
	if err != nil {
		return err
	}
	l.gate.Lock()
	l.old = slices.DeleteFunc(l.old, func(o *head) bool { return o == h })
	l.gate.Unlock()
	p.pins.drop(h.layer)
	p.summing.wake()
	return errors.Join(h.journal.close(), p.removeJournals(h.layer, ^uint64(0)))
}

// reclaimable lists the reclaims that can be done now.
func (p *Pool) reclaimable() []reclaimRecord {
	failed := p.failedLUNs()
	p.cat.mu.RLock()
	defer p.cat.mu.RUnlock()
	var out []reclaimRecord
	for _, r := range p.cat.reclaims {
		if p.brokenLayer(r.Owner) != nil {
			continue // which of its blocks count is not known
		}
		if owner := p.cat.layers[r.Owner]; r.Owner == 0 || owner != nil && (owner.Sealed || p.isUsableHead(r.Owner, failed)) {
			out = append(out, *r)
		}
	}
	slices.SortFunc(out, func(a, b reclaimRecord) int { return int(a.Origin) - int(b.Origin) })
	return out
}

// isUsableHead tells whether a layer is the head of a LUN that did not fail.
// The catalogue's lock is held.
func (p *Pool) isUsableHead(layer uint32, failed map[uint64]bool) bool {
	for _, l := range p.cat.luns {
		if l.Head == layer {
			return !failed[l.ID]
		}
	}
	return false
}

// failedLUNs returns the ids of the LUNs that take no writes any more.
func (p *Pool) failedLUNs() map[uint64]bool {
	failed := make(map[uint64]bool)
	for _, l := range p.allLUNs() {
		if l.failed.Load() != nil {
			failed[l.id] = true
		}
	}
	return failed
}

// lunOfHead returns the LUN whose head a layer is, nil if it is none's.
func (p *Pool) lunOfHead(layer uint32) *lun {
	for _, l := range p.allLUNs() {
		if l.currentHead().layer == layer {
			return l
		}
	}
	return nil
}

// reclaim punches the blocks of an origin that its owner does not map. It
// returns false if it has to be done later.
func (p *Pool) reclaim(ctx context.Context, r reclaimRecord) (bool, error) {
	if done, err := p.reclaimSpace(ctx, r); !done || err != nil {
		return false, err
	}
	p.opMu.Lock()
	defer p.opMu.Unlock()
	p.cat.mu.RLock()
	now := p.cat.reclaims[r.Origin]
	p.cat.mu.RUnlock()
	if now == nil || now.Owner != r.Owner {
		return true, nil // it has a new owner, and is to be done again
	}
	return true, p.cat.commit(deleteReclaim(r.Origin))
}

func (p *Pool) reclaimSpace(ctx context.Context, r reclaimRecord) (bool, error) {
	if r.Owner == 0 {
		if err := p.grace.wait(ctx); err != nil {
			return false, err
		}
		return true, p.segments.remove(r.Origin)
	}
	if l := p.lunOfHead(r.Owner); l != nil {
		return l.reclaim(ctx, r)
	}
	if r := p.cat.layer(r.Owner); r == nil || !r.Sealed {
		return false, nil
	}
	own := newExtentMap()
	if err := p.overlayLayer(own, r.Owner); err != nil {
		return false, err
	}
	if err := p.grace.wait(ctx); err != nil {
		return false, err
	}
	if err := p.eachAllocated(r.Origin, func(block, count uint64) error {
		return p.punchUnused(own, r.Origin, block, count)
	}); err != nil {
		return false, err
	}
	// The record must not go before the holes are durable.
	return true, p.syncOrigins([]uint32{r.Origin})
}

// reclaim is reclaimSpace for an origin that the LUN's head owns.
func (l *lun) reclaim(ctx context.Context, r reclaimRecord) (bool, error) {
	l.maintainMu.Lock()
	defer l.maintainMu.Unlock()
	h := l.currentHead()
	if l.usable() != nil || h.layer != r.Owner {
		return false, nil
	}
	frozen, err := l.checkpoint(h, nil)
	if err != nil || frozen == nil {
		return false, err
	}
	if err := l.pool.grace.wait(ctx); err != nil {
		return false, err
	}
	complete := true
	err = l.pool.eachAllocated(r.Origin, func(block, count uint64) error {
		punched, err := l.punchRange(h, frozen, r.Origin, block, count)
		complete = complete && punched
		return err
	})
	if err != nil || !complete {
		return false, err
	}
	// The record must not go before the holes are durable.
	if err := h.syncData(l.pool.segments); err != nil {
		return false, l.fail(err)
	}
	return true, nil
}

// eachAllocated calls fn for the runs of blocks that may take space in the
// segments of an origin, none longer than the stripes can hold.
func (p *Pool) eachAllocated(origin uint32, fn func(block, count uint64) error) error {
	shards, err := p.segments.shards(origin)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, shard := range shards {
		base := uint64(shard) * uint64(p.shardBytes/BlockSize)
		err := p.eachDataRange(segmentKey{origin, shard}, func(start, end int64) error {
			first, last := uint64(start/BlockSize), uint64((end+BlockSize-1)/BlockSize)
			for first < last {
				n := punchStep(last - first)
				if err := fn(base+first, n); err != nil {
					return err
				}
				first += n
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// eachDataRange calls fn for the byte ranges of a segment that may take space.
func (p *Pool) eachDataRange(key segmentKey, fn func(start, end int64) error) error {
	s, err := p.segments.get(key, false)
	if err != nil {
		return err
	}
	defer p.segments.put(s)
	seeker, ok := s.File.(blockfile.DataSeeker)
	if !ok {
		size, err := s.Size()
		if err != nil || size == 0 {
			return err
		}
		return fn(0, size)
	}
	for off := int64(0); ; {
		start, end, err := seeker.NextData(off)
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = fn(start, end)
		}
		if err != nil {
			return err
		}
		off = end
	}
}

// punchBlocks gives back the space of blocks in the segments of an origin, and
// tells of each segment that it was changed.
func (p *Pool) punchBlocks(origin uint32, block, count uint64, punched func(*segment)) error {
	for count > 0 {
		shardBlocks := uint64(p.shardBytes / BlockSize)
		at := block % shardBlocks
		n := min(count, shardBlocks-at)
		s, err := p.segments.get(segmentKey{origin, uint32(block / shardBlocks)}, false)
		if err == nil {
			// To punch a hole may take a block of the filesystem's own.
			err = p.withReserve(func() error { return s.PunchHole(int64(at)*BlockSize, int64(n)*BlockSize) })
			punched(s)
			p.segments.put(s)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		block, count = block+n, count-n
	}
	return nil
}
