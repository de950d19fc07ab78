package blockdev

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"time"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// Giving space back rests whenever it has taken longer than breath, at most for
// maxBreath.
const (
	breath    = time.Millisecond
	maxBreath = 100 * time.Millisecond
)

// breather is called between the steps of giving space back, of which the last
// began at a time.
type breather func(began time.Time) error

// breathe lets guests' I/O pass for as long as giving space back took, unless
// space is wanted, and seals what was frozen meanwhile. runMu is held and no
// other lock.
func (p *Pool) breathe(ctx context.Context) breather {
	t := &p.maintenance
	return func(began time.Time) error {
		t.owed += time.Since(began)
		if t.hurry.Load() > 0 || p.reserve.short.Load() {
			t.owed = 0
		}
		if t.owed > breath {
			select {
			case <-ctx.Done():
			case <-time.After(min(t.owed, maxBreath)):
			}
			t.owed = 0
		}
		select {
		case <-t.kick:
			t.wake() // for what is not done here
			if err := p.sealAll(ctx); err != nil {
				return err
			}
		default:
		}
		return ctx.Err()
	}
}

// reclaimable lists the reclaims that can be done now.
func (p *Pool) reclaimable() []reclaimRecord {
	failed := p.failedLUNs()
	p.cat.mu.RLock()
	defer p.cat.mu.RUnlock()
	var out []reclaimRecord
	for _, r := range p.cat.reclaims {
		if p.brokenLayer(r.Owner) != nil || p.compaction.claims(r) {
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
	// Blocks are punched by the map that is read here: a process that died may
	// have left it under a name that is not durable.
	if err := p.fs.SyncDir(layerDir(r.Owner)); err != nil {
		return false, err
	}
	own := p.maps.newMap()
	if err := p.overlayLayer(own, r.Owner); err != nil {
		return false, err
	}
	if err := p.grace.wait(ctx); err != nil {
		return false, err
	}
	if err := p.eachAllocated(r.Origin, func(block, count uint64) error {
		return p.punchSealed(own, r.Origin, block, count, p.breathe(ctx))
	}); err != nil {
		return false, err
	}
	// The record must not go before the holes are durable.
	return true, p.syncOrigins([]uint32{r.Origin})
}

// punchSealed punches the blocks of an origin in a range that the map of the
// sealed layer which owns it does not use.
func (p *Pool) punchSealed(own *extentMap, origin uint32, block, count uint64, rest breather) error {
	runs, err := own.runs(nil, block, count)
	if err != nil {
		return err
	}
	for _, r := range runs {
		if r.place == dataPlace(origin) {
			continue
		}
		began := time.Now()
		if err := p.punchBlocks(origin, r.block, r.count, func(*segment) {}); err != nil {
			return err
		}
		if err := rest(began); err != nil {
			return err
		}
	}
	return nil
}

// reclaim is reclaimSpace for an origin that the LUN's head owns.
func (l *lun) reclaim(ctx context.Context, r reclaimRecord) (bool, error) {
	h := l.currentHead()
	if h.layer != r.Owner {
		return false, nil
	}
	frozen, err := l.checkpointNow(h)
	if err != nil || frozen == nil {
		return false, err
	}
	if err := l.pool.grace.wait(ctx); err != nil {
		return false, err
	}
	complete := true
	err = l.pool.eachAllocated(r.Origin, func(block, count uint64) error {
		punched, err := l.punchRange(h, frozen, r.Origin, block, count, l.pool.breathe(ctx))
		complete = complete && punched
		return err
	})
	if err != nil || !complete {
		return false, err
	}
	// The record must not go before the holes are durable.
	if err := h.syncData(l.pool.segments); err != nil {
		return false, l.unlessDurable(h, l.fail, err)
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
