package nbd

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/rowan-storage/rowan/nbd/wire"
)

func TestBufferClasses(t *testing.T) {
	var p bufferPool
	for _, test := range []struct{ n, room int }{
		{0, 8 << 10}, {1, 8 << 10}, {8 << 10, 8 << 10}, {8<<10 + 1, 16 << 10},
		{1 << 20, 1 << 20}, {1<<20 + 1, 2 << 20}, {wire.MaxPayload - 1, 32 << 20}, {wire.MaxPayload, 32 << 20},
	} {
		b := p.get(test.n)
		if got := len(b.mem) - headroom; got != test.room {
			t.Errorf("a buffer for %d bytes has room for %d, want %d", test.n, got, test.room)
		}
		if int64(len(b.mem)) != bufferBytes(test.n) {
			t.Errorf("a buffer for %d bytes takes %d, not %d", test.n, len(b.mem), bufferBytes(test.n))
		}
		if q := b.payload(test.n); len(q) != test.n || cap(q) != test.n {
			t.Errorf("a payload of %d bytes has %d, room for %d", test.n, len(q), cap(q))
		}
		p.put(b)
	}
}

func TestBudget(t *testing.T) {
	const unit = maxReserved + 1 // more than the reserve is for
	total := semaphore.NewWeighted(100 * unit)
	var waiting atomic.Int64
	a, b := newBudget(60*unit, total, &waiting), newBudget(60*unit, total, &waiting)
	all, ok := a.tryAcquire(60 * unit)
	if _, more := a.tryAcquire(unit); !ok || more {
		t.Error("the bound of a connection does not hold")
	}
	rest, ok := b.tryAcquire(40 * unit)
	if _, more := b.tryAcquire(unit); !ok || more {
		t.Error("the bound of all does not hold")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := b.acquire(ctx, 20*unit); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting returned %v", err)
	}
	small, ok := b.tryAcquire(maxReserved)
	if !ok {
		t.Error("there is nothing in reserve for a small request")
	}
	all.release()
	late, err := b.acquire(t.Context(), 20*unit)
	if err != nil {
		t.Error(err)
	}
	for _, l := range []lease{rest, small, late} {
		l.release()
	}
	if !total.TryAcquire(100*unit) || !a.conn.TryAcquire(60*unit) || !b.conn.TryAcquire(60*unit) ||
		!b.reserve.TryAcquire(reserveBytes) || waiting.Load() != 0 {
		t.Error("what was given up by waiting is still counted")
	}
}

func TestLimitsHaveDefaults(t *testing.T) {
	got := Limits{}.withDefaults()
	want := Limits{
		MaxConnections: 256, HandshakeTimeout: 30 * time.Second, MaxOptions: 512, MaxInFlight: 256, Workers: 16,
		ConnMemoryBytes: 64 << 20, TotalMemoryBytes: 256 << 20, StallTimeout: 2 * time.Minute,
	}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	low := Limits{ConnMemoryBytes: 1, TotalMemoryBytes: 1}.withDefaults()
	if low.ConnMemoryBytes < wire.MaxPayload || low.TotalMemoryBytes < low.ConnMemoryBytes {
		t.Errorf("%+v cannot serve the longest request", low)
	}
	set := Limits{1, time.Second, 2, 3, 4, 40 << 20, 50 << 20, time.Minute}
	if got := set.withDefaults(); got != set {
		t.Errorf("%+v became %+v", set, got)
	}
}

func TestStallClock(t *testing.T) {
	c := &stallClock{period: time.Second, timeout: 10 * time.Second}
	c.tick.Store(1)
	g := stallGuard{clock: c}
	if g.stalled() {
		t.Error("stalled before anything began")
	}
	g.begin(5 * slowestBytesPerSecond)
	c.tick.Add(16) // 10 s, 5 s for the bytes, and one to begin with
	if g.stalled() {
		t.Error("stalled too soon")
	}
	c.tick.Add(1)
	if !g.stalled() {
		t.Error("not stalled")
	}
	g.end()
	if g.stalled() {
		t.Error("stalled after the end")
	}
}
