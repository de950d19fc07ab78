package nbd

import (
	"context"
	"math/bits"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/rowan-storage/rowan/nbd/wire"
)

const (
	// headroom is what a buffer has before the payload, for the header of a
	// reply, so that both leave in one piece. It keeps payloads page-aligned.
	headroom = 4096

	smallestClass = 13 // 1<<13 bytes
	largestClass  = 25 // wire.MaxPayload
)

var _ = [1]struct{}{}[1<<largestClass-wire.MaxPayload]

// bufferPool keeps unused buffers by size class, the powers of two from 8 KiB
// to the largest payload.
type bufferPool struct {
	classes [largestClass + 1 - smallestClass]sync.Pool
}

// buffer is memory for one payload, with headroom before it.
type buffer struct {
	mem   []byte // headroom, then the payload's room
	class int
	lease lease // of its bytes, empty if none was asked for
}

// classOf returns the class of the smallest buffer for a payload of n bytes.
func classOf(n int) int {
	return max(smallestClass, bits.Len(uint(max(n, 1)-1)))
}

// bufferBytes is how much memory a buffer for a payload of n bytes takes.
func bufferBytes(n int) int64 { return headroom + 1<<classOf(n) }

// get returns a buffer for a payload of n bytes, at most wire.MaxPayload,
// outside any budget.
func (p *bufferPool) get(n int) *buffer {
	class := classOf(n)
	if b, ok := p.classes[class-smallestClass].Get().(*buffer); ok {
		return b
	}
	return &buffer{mem: make([]byte, headroom+1<<class), class: class}
}

// put takes a buffer back and gives up its place in the budget.
func (p *bufferPool) put(b *buffer) {
	b.lease.release()
	b.lease = lease{}
	p.classes[b.class-smallestClass].Put(b)
}

// payload returns the first n bytes of the payload's room.
func (b *buffer) payload(n int) []byte { return b.mem[headroom : headroom+n : headroom+n] }

// reserveBytes is what each connection has for itself, for requests of up to
// maxReserved bytes: what other clients hold keeps none of them waiting.
const (
	maxReserved  = headroom + 256<<10
	reserveBytes = 2 * maxReserved
)

// budget bounds the memory of one connection, and with it that of all.
type budget struct {
	reserve     *semaphore.Weighted
	conn, total *semaphore.Weighted
	waiting     *atomic.Int64 // how many wait for a part of the total
}

func newBudget(connBytes int64, total *semaphore.Weighted, waiting *atomic.Int64) *budget {
	return &budget{semaphore.NewWeighted(reserveBytes), semaphore.NewWeighted(connBytes), total, waiting}
}

// lease is a part of a budget.
type lease struct {
	n      int64
	from   *semaphore.Weighted
	others *semaphore.Weighted // nil if from is the reserve
}

func (l lease) release() {
	if l.others != nil {
		l.others.Release(l.n)
	}
	if l.from != nil {
		l.from.Release(l.n)
	}
}

// tryAcquire takes n bytes if they are to be had now.
func (b *budget) tryAcquire(n int64) (lease, bool) {
	if n <= maxReserved && b.reserve.TryAcquire(n) {
		return lease{n: n, from: b.reserve}, true
	}
	if !b.conn.TryAcquire(n) {
		return lease{}, false
	}
	if !b.total.TryAcquire(n) {
		b.conn.Release(n)
		return lease{}, false
	}
	return lease{n, b.conn, b.total}, true
}

// acquire waits for n bytes. Whoever holds some never waits for more, so that
// those who wait are served in the end.
func (b *budget) acquire(ctx context.Context, n int64) (lease, error) {
	if n <= maxReserved {
		return lease{n: n, from: b.reserve}, b.reserve.Acquire(ctx, n)
	}
	if err := b.conn.Acquire(ctx, n); err != nil {
		return lease{}, err
	}
	b.waiting.Add(1)
	defer b.waiting.Add(-1)
	if err := b.total.Acquire(ctx, n); err != nil {
		b.conn.Release(n)
		return lease{}, err
	}
	return lease{n, b.conn, b.total}, nil
}
