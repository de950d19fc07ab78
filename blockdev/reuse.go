package blockdev

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// errInUse is returned by a step that has to wait for I/O under way, which it
// cannot do itself since it is under way, too.
var errInUse = errors.New("blockdev: unmapped blocks are still in use")

// reuse knows which blocks were unmapped and may still be in use by I/O that
// had found them mapped. Each unmapping has a number.
type reuse struct {
	last atomic.Uint64
	// unmappedBy is the last unmapping in each stripe, guarded by the stripe.
	unmappedBy [stripeCount]uint64
	// left is the last unmapping of which all users have left.
	left atomic.Uint64
	mu   sync.Mutex // one wait at a time
}

// unmapped notes that a range was unmapped; its stripes are held.
func (r *reuse) unmapped(block, count uint64) {
	n := r.last.Add(1)
	eachStripe(block, count, func(stripe uint64) bool {
		r.unmappedBy[stripe] = n
		return true
	})
}

// inUse tells whether any of some runs was unmapped in the layer of h, to
// which it would be redirected, and may still be in use. The stripes are held.
func (r *reuse) inUse(h *head, runs []mapRun) (used bool) {
	left := r.left.Load()
	for _, run := range runs {
		if run.place != zeroPlace(h.layer) {
			continue
		}
		eachStripe(run.block, run.count, func(stripe uint64) bool {
			used = used || r.unmappedBy[stripe] > left
			return !used
		})
	}
	return used
}

// wait returns when all I/O has left that may use what was unmapped before the
// call. The caller has no I/O under way.
func (r *reuse) wait(g *grace) error {
	last := r.last.Load()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left.Load() >= last {
		return nil
	}
	last = r.last.Load()
	if err := g.wait(context.Background()); err != nil {
		return err
	}
	r.left.Store(last)
	return nil
}

// eachStripe calls fn for the stripes of a range of blocks until it returns
// false.
func eachStripe(block, count uint64, fn func(stripe uint64) bool) {
	first := block / stripeBlocks
	n := min((block+count-1)/stripeBlocks-first+1, stripeCount)
	for i := range n {
		if !fn((first + i) % stripeCount) {
			return
		}
	}
}
