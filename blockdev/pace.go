package blockdev

import (
	"context"
	"sync"
	"time"
)

// pace bounds how many bytes per second background work reads. The zero value
// does not.
type pace struct {
	bytesPerSecond int64

	mu  sync.Mutex
	due time.Time // when what was let through will have taken its time
}

// maxBurst is how far behind its rate work may catch up at once.
const maxBurst = 100 * time.Millisecond

// wait lets n bytes through, and returns when they may be read.
func (p *pace) wait(ctx context.Context, n int64) error {
	if p.bytesPerSecond <= 0 {
		return ctx.Err()
	}
	p.mu.Lock()
	now := time.Now()
	if floor := now.Add(-maxBurst); p.due.Before(floor) {
		p.due = floor
	}
	p.due = p.due.Add(time.Duration(float64(n) / float64(p.bytesPerSecond) * float64(time.Second)))
	delay := p.due.Sub(now)
	p.mu.Unlock()
	if delay <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
