package blockdev

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// grace lets one wait until every I/O that was under way has ended, without
// holding up new ones (sleepable read-copy-update). An I/O that begins after
// wait was called sees every map change made before.
type grace struct {
	phase  atomic.Uint32
	active [2]struct {
		n atomic.Int64
		_ [56]byte // a cache line each
	}
	mu sync.Mutex // one wait at a time
}

// enter begins an I/O; its result goes to exit.
func (g *grace) enter() uint32 {
	i := g.phase.Load() & 1
	g.active[i].n.Add(1)
	return i
}

func (g *grace) exit(i uint32) { g.active[i].n.Add(-1) }

// wait returns when all I/O that had entered before the call has left. The
// phase turns twice, since an I/O may read the phase before a turn and be
// counted after it.
func (g *grace) wait(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for range 2 {
		i := g.phase.Load() & 1
		g.phase.Add(1)
		for g.active[i].n.Load() != 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(50 * time.Microsecond):
			}
		}
	}
	return nil
}
