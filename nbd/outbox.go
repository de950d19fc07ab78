package nbd

import (
	"net"
	"sync"
	"time"

	"github.com/rowan-storage/rowan/nbd/wire"
)

const (
	// maxQueuedBytes is how much memory replies may take that wait in an outbox
	// before the reader of the connection waits as well.
	maxQueuedBytes = 1 << 20
	// maxWriteBytes is about how much one system call is given to write.
	maxWriteBytes = 512 << 10
)

// exchange is a request that is not served at once, with the memory that it
// and its reply live in. Without a request it is a batch of replies.
type exchange struct {
	wire.Request
	began time.Time // when it was received; zero without an observer
	// buf holds the payload of the request or of the reply; nil if there is
	// none.
	buf *buffer
	// in is the payload of the request, a part of buf.
	in []byte
	// out is the reply: parts of head and buf, in order.
	out  [][]byte
	head [maxHeadBytes]byte
	// slot tells whether it counts among the requests in flight.
	slot bool
}

// outbox sends the replies of one connection. Anyone may hand in a reply;
// whoever finds nobody sending sends, and goes on until all that others handed
// in meanwhile is sent too. So none is left behind, many leave with one system
// call when there are many, and no goroutine exists only to write.
type outbox struct {
	conn  net.Conn
	guard *stallGuard
	// free is called for every exchange that was sent or given up.
	free func(*exchange)
	// broken is called once when sending failed, with mu not held.
	broken func(error)

	mu      sync.Mutex
	changed sync.Cond // sending ended, or less is held
	queue   []*exchange
	held    int // memory of queue, in bytes
	sending bool
	err     error

	// These belong to the one who sends.
	taken  []*exchange
	pieces [][]byte
	vector net.Buffers
}

func newOutbox(conn net.Conn, guard *stallGuard, free func(*exchange), broken func(error)) *outbox {
	o := &outbox{conn: conn, guard: guard, free: free, broken: broken}
	o.changed.L = &o.mu
	return o
}

// send takes over x and sees that it is sent.
func (o *outbox) send(x *exchange) {
	o.mu.Lock()
	if o.err != nil {
		o.mu.Unlock()
		o.free(x)
		return
	}
	o.queue = append(o.queue, x)
	o.held += x.heldBytes()
	if o.sending {
		o.mu.Unlock()
		return
	}
	o.sending = true
	var broke error
	for len(o.queue) > 0 {
		o.take()
		o.mu.Unlock()
		err := o.write()
		o.mu.Lock()
		if err != nil && o.err == nil {
			o.err, broke = err, err
		}
		o.changed.Broadcast()
	}
	o.sending = false
	o.changed.Broadcast()
	o.mu.Unlock()
	if broke != nil {
		o.broken(broke)
	}
}

// take moves what the next write sends out of the queue. o.mu is held.
func (o *outbox) take() {
	n, bytes := 0, 0
	for n < len(o.queue) && (n == 0 || bytes < maxWriteBytes) {
		bytes += o.queue[n].outBytes()
		o.held -= o.queue[n].heldBytes()
		n++
	}
	o.taken = append(o.taken[:0], o.queue[:n]...)
	rest := copy(o.queue, o.queue[n:])
	clear(o.queue[rest:])
	o.queue = o.queue[:rest]
}

// write sends what was taken, unless sending failed before, and frees it.
func (o *outbox) write() error {
	err := o.err // only the one who sends changes it
	if err == nil {
		bytes := 0
		o.pieces = o.pieces[:0]
		for _, x := range o.taken {
			o.pieces = append(o.pieces, x.out...)
			bytes += x.outBytes()
		}
		o.guard.begin(bytes)
		if len(o.pieces) == 1 {
			_, err = o.conn.Write(o.pieces[0])
		} else {
			o.vector = o.pieces
			_, err = o.vector.WriteTo(o.conn)
		}
		o.guard.end()
		clear(o.pieces)
	}
	for i, x := range o.taken {
		o.free(x)
		o.taken[i] = nil
	}
	return err
}

// waitRoom waits while more than maxQueuedBytes are queued.
func (o *outbox) waitRoom() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.held > maxQueuedBytes && o.err == nil {
		o.changed.Wait()
	}
	return o.err
}

// drain waits until everything handed in was sent or given up.
func (o *outbox) drain() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.sending {
		o.changed.Wait()
	}
}

// failure returns why sending failed, nil if it did not.
func (o *outbox) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// heldBytes is the memory that x takes.
func (x *exchange) heldBytes() int {
	if x.buf == nil {
		return maxHeadBytes + x.outBytes()
	}
	return len(x.buf.mem)
}

func (x *exchange) outBytes() int {
	n := 0
	for _, p := range x.out {
		n += len(p)
	}
	return n
}
