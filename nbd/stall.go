package nbd

import (
	"sync/atomic"
	"time"
)

// stallClock is the coarse clock of a server by which clients are watched that
// may have stalled. It costs the data path an atomic store, where a deadline
// would cost a timer.
type stallClock struct {
	tick    atomic.Int64  // counts periods, from 1
	waiting atomic.Int64  // requests that wait for memory that others hold
	period  time.Duration // of the ticks
	timeout time.Duration // how long a client may stall
}

// stallGuard watches one direction of a connection.
type stallGuard struct {
	clock *stallClock
	// until is the last tick at which what was begun may still go on, 0 if
	// nothing was begun; hurried is the same while others wait for memory.
	until, hurried atomic.Int64
}

// begin is called before waiting for the peer to move n bytes.
func (g *stallGuard) begin(n int) {
	now := g.clock.tick.Load()
	g.hurried.Store(now + g.clock.ticks(g.clock.timeout/hurry, n, hurriedBytesPerSecond))
	g.until.Store(now + g.clock.ticks(g.clock.timeout, n, slowestBytesPerSecond))
}

// end is called when the peer did its part.
func (g *stallGuard) end() { g.until.Store(0) }

// stalled tells whether the peer took too long.
func (g *stallGuard) stalled() bool {
	until := g.until.Load()
	if until != 0 && g.clock.waiting.Load() > 0 {
		until = g.hurried.Load()
	}
	return until != 0 && g.clock.tick.Load() > until
}

// ticks is the number of ticks in which n bytes must have moved.
func (c *stallClock) ticks(grace time.Duration, n, bytesPerSecond int) int64 {
	d := grace + time.Duration(n)*time.Second/time.Duration(bytesPerSecond)
	return int64(d/c.period) + 1
}
