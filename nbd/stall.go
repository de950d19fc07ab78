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
	period  time.Duration // of the ticks
	timeout time.Duration // how long a client may stall
}

// stallGuard watches one direction of a connection.
type stallGuard struct {
	clock *stallClock
	// until is the last tick at which what was begun may still go on, 0 if
	// nothing was begun.
	until atomic.Int64
}

// begin is called before waiting for the peer to move n bytes.
func (g *stallGuard) begin(n int) {
	g.until.Store(g.clock.tick.Load() + g.clock.allowance(n))
}

// end is called when the peer did its part.
func (g *stallGuard) end() { g.until.Store(0) }

// stalled tells whether the peer took too long.
func (g *stallGuard) stalled() bool {
	until := g.until.Load()
	return until != 0 && g.clock.tick.Load() > until
}

// allowance is the number of ticks in which n bytes must have moved.
func (c *stallClock) allowance(n int) int64 {
	d := c.timeout + time.Duration(n)*time.Second/slowestBytesPerSecond
	return int64(d/c.period) + 1
}
