package blockdev

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// A layer that others were merged into owns their segments, and with each merge
// one more origin: one more directory of files. Compaction bounds their number.
// In the background it copies the blocks of a sealed layer's smallest origins to
// the same offsets of another of its origins, and drops those that it emptied
// (compactjob.go).
//
// A head's blocks are written in place all the time. So a head with too many
// origins is sealed, without a name for it, and a new one opened on it, as for a
// snapshot. What was sealed is compacted, then merged into the new head, as any
// layer without a name.
//
// Compaction needs room. Where there is little nothing of it is begun, and
// nothing waits for it.

const (
	defaultMaxOrigins = 8
	// compactBatch is after how many blocks the layer's presence map is written
	// anew and their old places are given back: 16 GiB.
	compactBatch = 4 << 20
	// compactRead is how much is copied at a time.
	compactRead = 256 << 10
	// compactRest is how long compaction rests after it found no room.
	compactRest = time.Minute
)

// compaction merges the segments of layers, in the background.
type compaction struct {
	limit int        // Options.MaxOrigins, with its default
	batch uint64     // compactBatch
	runMu sync.Mutex // one run at a time, taken before Pool.maintenance.runMu

	kick chan struct{}
	quit context.CancelFunc
	done chan struct{}

	pace pace

	mu  sync.Mutex      // held while blocks are written; nothing of the catalogue is asked under it
	job *compactJob     // what is under way, nil for nothing
	not time.Time       // nothing is begun before
	bad map[uint32]bool // origins with blocks that cannot be copied
	// lost holds the origins of a layer whose presence map may be the one before
	// or the one after: nothing of them may be punched.
	lost map[uint32]bool
}

func (c *compaction) start(p *Pool, limit int) {
	c.limit, c.batch = limit, compactBatch
	c.pace.bytesPerSecond = p.backgroundRate
	if p.manual {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.kick, c.quit, c.done = make(chan struct{}, 1), cancel, make(chan struct{})
	go p.compactLoop(ctx)
}

// stop ends the loop. What it was copying is copied again after the pool is
// opened again.
func (c *compaction) stop() {
	if c.quit != nil {
		c.quit()
		<-c.done
	}
}

// wake makes the loop look for layers with too many origins.
func (c *compaction) wake() { wake(c.kick) }

func (p *Pool) compactLoop(ctx context.Context) {
	c := &p.compaction
	defer close(c.done)
	for {
		var later <-chan time.Time
		if rest := c.resting(); rest > 0 {
			later = time.After(rest)
		}
		select {
		case <-ctx.Done():
			return
		case <-c.kick:
		case <-later:
		}
		if err := p.compact(ctx, &c.pace); err != nil && ctx.Err() == nil {
			p.log.Error("segments could not be merged, will be tried again", "error", err)
			c.rest(retryDelay)
		}
	}
}

// rest has nothing begun for a time.
func (c *compaction) rest(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.not = time.Now().Add(d)
}

// resting returns for how long nothing is begun.
func (c *compaction) resting() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Until(c.not)
}

// crowded tells whether a layer owns more origins than it should, of those
// whose blocks can be copied.
func (c *compaction) crowded(r *layerRecord) bool {
	limit := c.limit
	if limit < 0 {
		return false
	}
	if !r.Sealed {
		limit++ // its own
	}
	return len(c.movable(r.Origins)) > limit
}

// movable returns those of some origins whose blocks can be copied.
func (c *compaction) movable(origins []uint32) []uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(origins), func(o uint32) bool { return c.bad[o] })
}

// leave has the blocks of origins left where they are.
func (c *compaction) leave(origins ...uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bad == nil {
		c.bad = make(map[uint32]bool)
	}
	for _, o := range origins {
		c.bad[o] = true
	}
}

// claims tells whether a reclaim has to wait for what is under way.
func (c *compaction) claims(r *reclaimRecord) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost[r.Origin] || c.job != nil && r.Owner == c.job.layer && (r.Origin == c.job.target || c.job.sources[r.Origin])
}

// drop ends what is under way in a layer that is about to go: when it returns
// nothing of it is written any more.
func (c *compaction) drop(layer uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.job != nil && c.job.layer == layer {
		c.job = nil
	}
}

// wantsCompaction tells whether a sealed layer is to be compacted before it is
// merged into a head. Where there is no room it is merged as it is.
func (p *Pool) wantsCompaction(r *layerRecord) bool {
	return p.compaction.crowded(r) && p.compaction.resting() <= 0 && !p.reserve.short.Load()
}

// crowdedLayers lists the sealed layers that can be compacted now and should be.
func (p *Pool) crowdedLayers() []uint32 {
	open, failed := p.openLayers(), p.failedLUNs()
	p.cat.mu.RLock()
	defer p.cat.mu.RUnlock()
	named := p.cat.names()
	children := p.cat.byParent()
	var out []uint32
	for id, r := range p.cat.layers {
		if r.Sealed && !open[id] && p.wantsCompaction(r) && p.isOwnMaster(id, named[id], children[id], failed) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// isOwnMaster tells whether nobody else's files can name the blocks of a sealed
// layer. A layer without a name that is to be removed, or merged into a sealed
// one, is left to that: a merge that was cut off leaves places in the map of the
// child. The catalogue's lock is held.
func (p *Pool) isOwnMaster(id uint32, named bool, children []*layerRecord, failed map[uint64]bool) bool {
	switch {
	case p.brokenLayer(id) != nil:
		return false
	case named || len(children) > 1:
		return true
	}
	return len(children) == 1 && !children[0].Sealed && p.isUsableHead(children[0].ID, failed)
}

// ownMaster returns the record of a sealed layer for which isOwnMaster holds,
// else nil.
func (p *Pool) ownMaster(id uint32) *layerRecord {
	open, failed := p.openLayers(), p.failedLUNs()
	p.cat.mu.RLock()
	defer p.cat.mu.RUnlock()
	r := p.cat.layers[id]
	if r == nil || !r.Sealed || open[id] || !p.isOwnMaster(id, p.cat.names()[id], p.cat.byParent()[id], failed) {
		return nil
	}
	return r
}

// crowdedHeads lists the LUNs whose heads own too many origins.
func (p *Pool) crowdedHeads() []*lun {
	return slices.DeleteFunc(p.allLUNs(), func(l *lun) bool {
		if l.usable() != nil {
			return true
		}
		r := p.cat.layer(l.currentHead().layer)
		return r == nil || !p.wantsCompaction(r)
	})
}

// compact does what compaction can be done now, a batch of each layer; the
// reclaims that it asks for are to be done before the next.
func (p *Pool) compact(ctx context.Context, pc *pace) error {
	c := &p.compaction
	c.runMu.Lock()
	defer c.runMu.Unlock()
	var errs []error
	for _, l := range p.crowdedHeads() {
		errs = append(errs, p.compactResult(p.splitHead(ctx, l)))
	}
	for _, id := range p.crowdedLayers() {
		if err := ctx.Err(); err != nil {
			return err
		}
		errs = append(errs, p.compactResult(p.compactLayer(ctx, id, pc)))
		p.maintenance.wake()
	}
	return errors.Join(errs...)
}

// compactResult passes an error on, unless it says only that it cannot be now.
func (p *Pool) compactResult(err error) error {
	switch {
	case err == errDropped:
		return nil
	case isNoSpace(err):
		p.log.Info("segments are not merged for want of room", "error", err)
		p.compaction.rest(compactRest)
		return nil
	}
	return err
}

// hasRoom returns ErrNoSpace unless n bytes can be written without the pool
// coming near to being full.
func (p *Pool) hasRoom(n int64) error {
	total, free, err := p.fs.Space()
	if err != nil {
		return err
	}
	if warn := total / warnShare; p.reserve.short.Load() || free-n < warn {
		return errorf(ErrNoSpace, "pool", "%d bytes are free, %d are to be copied, and %d to be left", free, n, warn)
	}
	return nil
}

// splitHead seals the head of a LUN and opens a new one on it, if what was
// sealed can then be compacted.
func (p *Pool) splitHead(ctx context.Context, l *lun) error {
	if err := p.begin(ctx); err != nil {
		return err
	}
	defer p.opMu.Unlock()
	r := p.cat.layer(l.currentHead().layer)
	if l.usable() != nil || p.cat.lun(l.id) == nil || r == nil || !p.wantsCompaction(r) {
		return errDropped
	}
	uses, err := countOrigins(l.m.Load().clone(), p.compaction.movable(r.Origins))
	if err != nil {
		return err
	}
	group := mergeGroup(uses, p.compaction.limit)
	if err := p.hasRoom(copyBytes(group)); err != nil {
		return err
	}
	if err := p.admit(); err != nil {
		return err
	}
	heads, err := p.prepareHeads([]*lun{l})
	if err != nil {
		return err
	}
	p.swapHeads([]*lun{l}, heads)
	p.maintenance.wake()
	return nil
}

// originUse is how many blocks a layer has at an origin.
type originUse struct {
	origin      uint32
	data, zeros uint64
}

// countOrigins counts what a map, which does not change meanwhile, has at each
// of some origins.
func countOrigins(m *extentMap, origins []uint32) ([]originUse, error) {
	at := make(map[uint32]int, len(origins))
	uses := make([]originUse, len(origins))
	for i, o := range origins {
		at[o], uses[i].origin = i, o
	}
	err := m.leaves(func(_ uint64, vals *[leafBlocks]place) error {
		for _, here := range vals {
			if k, ok := at[here.origin()]; ok && here.isData() {
				uses[k].data++
			} else if ok {
				uses[k].zeros++
			}
		}
		return nil
	})
	return uses, err
}

// mergeGroup chooses the origins to be merged into the last of them: the smallest
// ones, so many that half the limit is left, and further ones while they are no
// larger than all before them together. The largest is not copied, so that a
// block that is comes to an origin at least twice as large as its own: it is
// copied no more often than the size of a LUN can be doubled.
func mergeGroup(uses []originUse, limit int) []originUse {
	slices.SortFunc(uses, func(a, b originUse) int {
		return cmp.Or(cmp.Compare(a.data, b.data), cmp.Compare(a.origin, b.origin))
	})
	n := len(uses) - max(limit/2, 1) + 1
	sum := uint64(0)
	for _, u := range uses[:n] {
		sum += u.data
	}
	for n < len(uses) && uses[n].data <= sum {
		sum += uses[n].data
		n++
	}
	return uses[:n]
}

// copyBytes is how much has to be copied to merge a group.
func copyBytes(group []originUse) (n int64) {
	for _, u := range group[:len(group)-1] {
		n += int64(u.data) * BlockSize
	}
	return n
}
