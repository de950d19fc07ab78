package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rowan-storage/rowan/nbd/wire"
)

// session is the transmission phase of one connection.
//
// One goroutine, the reader, takes requests off the socket. Those that it can
// serve without waiting it serves itself, at once: reads of up to 256 KiB that
// the page cache answers, and writes, which go no further than the page cache.
// Their replies gather in a batch. The batch is handed to the outbox whenever
// the reader is about to wait for the socket, a slot or memory, so that no reply
// waits for a request that its client will only send after the reply. All other
// requests go to a bounded number of workers.
//
// A write can be slow all the same, where the page cache is full or the device
// is frozen for a moment. The requests behind it then wait for it, and replies
// before it, but only once: after such a write, writes go to the workers for a
// while.
type session struct {
	export   *Export
	try      tryReader // nil if the device offers none
	style    wire.Style
	contexts []metaContext
	observer Observer // nil if there is none
	pool     *bufferPool
	budget   *budget
	zeros    []byte // never written to
	limits   Limits

	// ctx is cancelled when the connection is broken, not when it is drained.
	ctx    context.Context
	cancel context.CancelFunc

	in        inbox
	receiving stallGuard
	sending   stallGuard
	out       *outbox
	draining  atomic.Bool

	// These belong to the reader.
	batch     *exchange // replies not yet handed to the outbox, or nil
	slowUntil time.Time // until when small writes go to the workers too
	accompany int       // so many more flushes go to the workers in any case
	workers   int       // started so far

	requests chan *exchange // to the workers
	idle     atomic.Int32   // workers that wait for a request
	running  sync.WaitGroup
	slots    chan struct{} // one for each exchange with a slot
	unused   sync.Pool     // of *exchange
}

// errDisconnect ends a session that the client ended with NBD_CMD_DISC.
var errDisconnect = errors.New("disconnect requested")

// newSession makes the session of a connection whose handshake is done.
func newSession(srv *Server, conn net.Conn, n *negotiated) *session {
	s := &session{
		export: n.export, style: n.style, contexts: n.contexts,
		observer: srv.observer, pool: &srv.pool, limits: srv.limits,
		budget:   newBudget(srv.limits.ConnMemoryBytes, srv.memory, &srv.clock.waiting),
		zeros:    srv.zeros,
		in:       newInbox(conn),
		requests: make(chan *exchange, srv.limits.MaxInFlight),
		slots:    make(chan struct{}, srv.limits.MaxInFlight),

		accompany: accompanyFlushes,
	}
	s.try, _ = n.export.Device.(tryReader)
	s.ctx, s.cancel = context.WithCancel(srv.ctx)
	s.receiving.clock, s.sending.clock = &srv.clock, &srv.clock
	s.out = newOutbox(conn, &s.sending, s.free, func(error) {
		s.cancel()
		conn.Close() // wakes the reader
	})
	return s
}

// run serves requests until the client is gone, breaks the protocol, or the
// session is drained. Every request that was received is answered before it
// returns, unless the connection is broken.
func (s *session) run() error {
	defer s.cancel()
	err := s.read()
	if s.batch != nil {
		s.flush()
	}
	close(s.requests)
	s.running.Wait()
	s.out.drain()
	if failure := s.out.failure(); failure != nil {
		return failure
	}
	if errors.Is(err, errDisconnect) || errors.Is(err, io.EOF) || s.draining.Load() {
		return nil
	}
	return err
}

// drain makes run return as soon as what was received is answered.
func (s *session) drain() {
	s.draining.Store(true)
	s.in.conn.SetReadDeadline(time.Unix(1, 0))
}

// stalled tells whether the client keeps the server waiting for too long.
func (s *session) stalled() bool { return s.receiving.stalled() || s.sending.stalled() }

// read takes requests until there are no more.
func (s *session) read() error {
	header := wire.RequestBytes(s.style == wire.Extended)
	for {
		b := s.in.peek()
		if len(b) < header {
			if err := s.fill(); err != nil {
				return err
			}
			continue
		}
		req, err := wire.ParseRequest(b, s.style == wire.Extended)
		if err != nil {
			return err
		}
		payload := req.PayloadBytes(s.style == wire.Extended)
		if payload > wire.MaxPayload {
			return fmt.Errorf("nbd: %v with a payload of %d bytes", req.Type, payload)
		}
		if payload > maxInboxPayload {
			s.in.take(header)
			err = s.receive(req, int(payload))
		} else if end := header + int(payload); len(b) < end {
			err = s.fill()
		} else {
			s.in.take(end)
			err = s.serve(req, b[header:end])
		}
		if err != nil {
			return err
		}
	}
}

// fill hands out the batch and waits for more requests.
func (s *session) fill() error {
	if err := s.flush(); err != nil {
		return err
	}
	if s.draining.Load() {
		return net.ErrClosed
	}
	err := s.in.fill()
	if len(s.in.peek()) > 0 {
		return unexpected(err)
	}
	return err
}

// unexpected makes the end of the stream an error where more has to come.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// serve serves a request whose payload is in the inbox.
func (s *session) serve(req wire.Request, payload []byte) error {
	if req.Type == wire.CmdDisc {
		return errDisconnect
	}
	began := s.now()
	if refused := s.check(&req); refused != nil {
		return s.refuse(&req, refused, began)
	}
	switch {
	case req.Length == 0 && req.Type != wire.CmdFlush:
		return s.reply(&req, nil, began)
	case req.Type == wire.CmdRead && s.try != nil && req.Length <= maxBatchedRead:
		if done, err := s.readInline(&req, began); done || err != nil {
			return err
		}
	case req.Type == wire.CmdRead && s.try != nil && req.Length <= maxInlineRead:
		return s.readAlone(req, began)
	case req.Type == wire.CmdFlush && s.alone():
		return s.flushInline(&req, began)
	case req.Type == wire.CmdWrite && req.Flags&wire.CmdFlagFUA == 0:
		if done, err := s.writeInline(&req, payload, began); done || err != nil {
			return err
		}
	}
	return s.dispatch(req, payload, began)
}

// receive serves a request with a large payload, of which only a part may have
// arrived.
func (s *session) receive(req wire.Request, payload int) error {
	began := s.now()
	if refused := s.check(&req); refused != nil {
		s.receiving.begin(payload)
		defer s.receiving.end()
		if err := s.flush(); err != nil {
			return err
		}
		if err := s.in.discard(payload); err != nil {
			return unexpected(err)
		}
		return s.refuse(&req, refused, began)
	}
	if req.Type == wire.CmdWrite && req.Flags&wire.CmdFlagFUA == 0 && !s.writesAreSlow() {
		return s.writeArriving(&req, payload, began)
	}
	x, err := s.exchange(req, payload, began)
	if err != nil {
		return err
	}
	x.in = x.buf.payload(payload)
	if _, err := s.receivePayload(x.in, payload, payload); err != nil {
		s.free(x)
		return err
	}
	return s.enqueue(x)
}

// dispatch gives a request to the workers, with a copy of its payload.
func (s *session) dispatch(req wire.Request, payload []byte, began time.Time) error {
	x, err := s.exchange(req, s.bufferFor(&req, len(payload)), began)
	if err != nil {
		return err
	}
	if len(payload) > 0 {
		x.in = x.buf.payload(len(payload))
		copy(x.in, payload)
	}
	return s.enqueue(x)
}

// enqueue hands x to a worker. There is room in the channel for every exchange
// with a slot.
func (s *session) enqueue(x *exchange) error {
	if s.idle.Load() <= int32(len(s.requests)) && s.workers < s.limits.Workers {
		s.workers++
		s.running.Go(s.work)
	}
	s.requests <- x
	return nil
}

// work is what each worker does.
func (s *session) work() {
	for {
		s.idle.Add(1)
		x, ok := <-s.requests
		s.idle.Add(-1)
		if !ok {
			return
		}
		s.carryOut(x)
		s.out.send(x)
	}
}

// exchange returns an exchange for req with a slot and with a buffer of n
// bytes, none if n is 0. If it has to wait for them, it hands the batch out
// first.
func (s *session) exchange(req wire.Request, n int, began time.Time) (*exchange, error) {
	select {
	case s.slots <- struct{}{}:
	default:
		if err := s.flush(); err != nil {
			return nil, err
		}
		select {
		case s.slots <- struct{}{}:
		case <-s.ctx.Done():
			return nil, s.ctx.Err()
		}
	}
	x := s.unusedExchange()
	x.Request, x.began, x.slot = req, began, true
	if n == 0 {
		return x, nil
	}
	bytes := bufferBytes(n)
	lease, ok := s.budget.tryAcquire(bytes)
	if !ok {
		err := s.flush()
		if err == nil {
			lease, err = s.budget.acquire(s.ctx, bytes)
		}
		if err != nil {
			s.free(x)
			return nil, err
		}
	}
	x.buf = s.pool.get(n)
	x.buf.lease = lease
	return x, nil
}

func (s *session) unusedExchange() *exchange {
	if x, ok := s.unused.Get().(*exchange); ok {
		return x
	}
	return new(exchange)
}

// free takes back an exchange and all that it holds.
func (s *session) free(x *exchange) {
	s.freeBuffer(x)
	clear(x.out)
	x.out = x.out[:0]
	slot := x.slot
	x.slot = false
	s.unused.Put(x)
	if slot {
		<-s.slots
	}
}

// freeBuffer takes back the buffer of an exchange, if it has one.
func (s *session) freeBuffer(x *exchange) {
	if x.buf != nil {
		s.pool.put(x.buf)
		x.buf, x.in = nil, nil
	}
}

// now returns the time if anybody wants to know how long requests take.
func (s *session) now() time.Time {
	if s.observer == nil {
		return time.Time{}
	}
	return time.Now()
}

// observe tells the observer about a request whose reply was made.
func (s *session) observe(req *wire.Request, errno wire.Errno, began time.Time) {
	if s.observer == nil {
		return
	}
	s.observer.RequestDone(RequestStats{
		Export: s.export.Name, Kind: req.Type, Bytes: req.Length,
		Duration: time.Since(began), Errno: errno,
	})
}
