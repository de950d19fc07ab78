package blockdev

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Maintenance is what nobody waits for: extending journals before they are
// full, sealing layers that were swapped out, merging layers that nothing
// names, giving space back.
type maintenance struct {
	runMu sync.Mutex // one pass at a time

	kick     chan struct{}      // something is to be done
	kickRoom chan struct{}      // a journal is to be extended
	quit     context.CancelFunc // ends the loops, after the step under way
	loops    sync.WaitGroup
	// hurry counts those who wait for space to be given back.
	hurry atomic.Int32
	// owed is how long giving space back took since it last rested.
	owed time.Duration

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
	t.kick, t.kickRoom, t.quit = make(chan struct{}, 1), make(chan struct{}, 1), cancel
	t.loops.Go(func() { p.maintainLoop(ctx) })
	t.loops.Go(func() { p.roomLoop(ctx) })
	wake(t.kick)
}

func (t *maintenance) stop() {
	if t.quit != nil {
		t.quit()
		t.loops.Wait()
	}
}

// wake makes the loop run a pass soon.
func (t *maintenance) wake() { wake(t.kick) }

// wake kicks a loop, unless it was kicked already, or there is none.
func wake(kick chan struct{}) {
	select {
	case kick <- struct{}{}:
	default:
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
		wake(t.kickRoom)
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

// roomLoop extends journals before they are full, until ctx ends. It is a loop
// of its own, since writes wait for room and for nothing else of maintenance.
func (p *Pool) roomLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.maintenance.kickRoom:
		}
		if err := p.extendJournals(); err != nil {
			p.log.Error("a journal was not extended", "error", err)
		}
	}
}

// extendJournals extends the journals that will soon be full.
func (p *Pool) extendJournals() error {
	var errs []error
	for _, l := range take(&p.maintenance.mu, &p.maintenance.room) {
		errs = append(errs, l.extendEarly())
	}
	return errors.Join(errs...)
}

// Settle runs maintenance until nothing is left to do: all layers sealed that
// can be, the space of deleted snapshots and discarded blocks given back,
// segments merged, the sums of sealed layers made as far as there is space for
// them.
func (p *Pool) Settle(ctx context.Context) error {
	if err := p.Compact(ctx); err != nil {
		return err
	}
	_, err := p.sumLayers(ctx, new(pace))
	return err
}

// Compact is Settle but for the sums. It merges the segments of layers that own
// more than Options.MaxOrigins as fast as it can, if there is room to copy them.
func (p *Pool) Compact(ctx context.Context) error {
	p.maintenance.hurry.Add(1)
	defer p.maintenance.hurry.Add(-1)
	for {
		if err := p.maintain(ctx, true); err != nil {
			return err
		}
		if p.pending() == 0 {
			return nil
		}
		if err := p.compact(ctx, new(pace)); err != nil {
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
	n += len(p.reclaimable()) + len(p.prunable()) + len(p.newBranches()) + len(p.crowdedLayers()) + len(p.crowdedHeads())
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
	err := errors.Join(p.maintainPass(ctx, trims), p.reserve.refill())
	if len(p.crowdedLayers())+len(p.crowdedHeads()) > 0 {
		p.compaction.wake()
	}
	return err
}

func (p *Pool) maintainPass(ctx context.Context, trims bool) error {
	t := &p.maintenance
	errs := []error{p.extendJournals(), p.sealAll(ctx)}
	for _, l := range p.allLUNs() {
		if p.segments.crowded() && l.usable() == nil {
			errs = append(errs, l.syncHead())
		}
	}
	if trims {
		for _, l := range take(&t.mu, &t.checkpoint) {
			errs = append(errs, l.giveBackTrims(ctx))
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
	l.roomMu.Lock()
	defer l.roomMu.Unlock()
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
func (l *lun) giveBackTrims(ctx context.Context) error {
	if l.usable() != nil {
		return nil
	}
	h := l.currentHead()
	trims := h.pendingTrims()
	frozen, err := l.checkpointNow(h)
	if frozen != nil {
		err = l.punchTrims(h, frozen, trims, l.pool.breathe(ctx))
	}
	if err = errors.Join(err, l.scanForgotten(h)); err != nil {
		l.pool.wantCheckpoint(l)
	}
	return err
}

// checkpointNow is checkpoint for who does not hold maintainMu.
func (l *lun) checkpointNow(h *head) (*extentMap, error) {
	l.maintainMu.Lock()
	defer l.maintainMu.Unlock()
	if l.usable() != nil {
		return nil, nil
	}
	return l.checkpoint(h, nil)
}

// punchTrims gives back the space of trims that were pending when the durable
// map frozen was made.
func (l *lun) punchTrims(h *head, frozen *extentMap, trims []trim, rest breather) error {
	done, err := l.punch(h, frozen, trims, rest)
	if done {
		h.dropTrims(len(trims))
	}
	return err
}

// scanForgotten asks for a scan of the head's segments if more blocks were
// unmapped than could be kept in mind.
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
