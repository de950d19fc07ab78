package nbd

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/rowan-storage/rowan/nbd/wire"
)

const (
	// linkDepth is how many requests are under way on one connection.
	linkDepth = 128
	// goodbyeTime bounds how long a client waits for a server to hang up.
	goodbyeTime = time.Second
)

// call is a request of a client, and where its reply goes.
type call struct {
	wire.Request
	data []byte // what to write, or room for what is read
	// context is whose status is asked for, extents where it goes.
	context uint32
	extents *[]wire.StatusExtent
}

// slot is a place for a call that is under way. While it is busy the call and
// the reply belong to the goroutine that takes replies.
type slot struct {
	call
	reply replyState
	done  chan error

	// These are guarded by link.mu.
	busy      bool
	abandoned bool   // nobody waits for the reply
	serial    uint32 // tells the calls of one slot apart
}

// link is one connection of a client. One goroutine takes the replies; whoever
// makes a request sends it.
//
// The server may be hostile: whatever it sends, no more than the callers' own
// memory is written to, and nothing but a reply that is complete and makes
// sense ends a call with success. A server that breaks the protocol loses the
// connection, and all calls fail.
type link struct {
	conn     net.Conn
	r        *bufio.Reader
	style    wire.Style
	contexts map[uint32]bool // the ids that the server gave
	reading  sync.WaitGroup
	scratch  [wire.HoleSize]byte
	free     chan uint32   // numbers of slots that are not busy
	broken   chan struct{} // closed when err is set

	sendMu sync.Mutex // held while a request is sent
	head   []byte
	vector net.Buffers
	pieces [2][]byte

	mu     sync.Mutex
	slots  [linkDepth]slot
	cause  error // why the connection was broken on this side
	err    error // why there is no connection any more
	closed bool  // on purpose
}

func newLink(conn net.Conn, info *exportInfo) *link {
	l := &link{
		conn: conn, r: bufio.NewReaderSize(conn, 64<<10), style: info.style,
		contexts: map[uint32]bool{},
		free:     make(chan uint32, linkDepth),
		broken:   make(chan struct{}),
	}
	for _, id := range info.contexts {
		l.contexts[id] = true
	}
	for i := range l.slots {
		l.slots[i].done = make(chan error, 1)
		l.free <- uint32(i)
	}
	l.reading.Go(func() { l.fail(l.receive()) })
	return l
}

// do sends a request and waits for its reply. ctx ends the waiting, not the
// request; it is not heeded while the caller's memory is in use.
func (l *link) do(ctx context.Context, c call) error {
	var i uint32
	select {
	case i = <-l.free:
	case <-ctx.Done():
		return ctx.Err()
	case <-l.broken:
		return l.failure()
	}
	s := &l.slots[i]
	l.mu.Lock()
	if l.err != nil || l.closed {
		defer l.mu.Unlock()
		l.free <- i
		return cmp.Or(l.err, net.ErrClosed)
	}
	s.serial++
	s.busy, s.abandoned = true, false
	s.call = c
	s.Cookie = uint64(s.serial)<<32 | uint64(i)
	s.reply = replyState{covered: coverage{s.reply.covered.ranges[:0]}}
	req := s.Request
	l.mu.Unlock()

	if err := l.send(req, c.data); err != nil {
		l.hangUp(err)
	}
	if c.data != nil {
		ctx = context.Background()
	}
	select {
	case err := <-s.done:
		l.free <- i
		return err
	case <-ctx.Done():
		l.abandon(i)
		return ctx.Err()
	}
}

// abandon gives up waiting for the call in slot i. The slot stays busy until
// the reply is there.
func (l *link) abandon(i uint32) {
	s := &l.slots[i]
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.busy {
		s.abandoned = true
		return
	}
	<-s.done
	l.free <- i
}

// send sends a request with its payload.
func (l *link) send(req wire.Request, data []byte) error {
	l.sendMu.Lock()
	defer l.sendMu.Unlock()
	if req.Type == wire.CmdWrite && l.style == wire.Extended {
		req.Flags |= wire.CmdFlagPayloadLen
	}
	l.head = wire.AppendRequest(l.head[:0], req, l.style == wire.Extended)
	if req.Type != wire.CmdWrite {
		_, err := l.conn.Write(l.head)
		return err
	}
	l.pieces = [2][]byte{l.head, data}
	l.vector = l.pieces[:]
	_, err := l.vector.WriteTo(l.conn)
	l.pieces = [2][]byte{}
	return err
}

// finish ends the call in slot i.
func (l *link) finish(i uint32, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.finishLocked(i, err)
}

func (l *link) finishLocked(i uint32, err error) {
	s := &l.slots[i]
	s.busy = false
	if s.abandoned {
		l.free <- i
	} else {
		if err == nil && s.extents != nil {
			*s.extents = s.reply.extents
		}
		s.done <- err
	}
	s.call = call{}
}

// hangUp breaks the connection, whereupon the goroutine that takes replies ends
// all calls. Only that one may: it may be writing to a caller's memory.
func (l *link) hangUp(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause == nil {
		l.cause = cause
	}
	l.conn.Close()
}

// fail ends all calls when there are no more replies to take.
func (l *link) fail(err error) {
	l.conn.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	err = cmp.Or(l.cause, err)
	switch {
	case l.closed:
		l.err = net.ErrClosed
	case err == io.EOF:
		l.err = fmt.Errorf("the server hung up: %w", syscall.EIO)
	default:
		l.err = fmt.Errorf("connection lost: %w: %w", err, syscall.EIO)
	}
	close(l.broken)
	for i := range l.slots {
		if l.slots[i].busy {
			l.finishLocked(uint32(i), l.err)
		}
	}
}

func (l *link) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// close takes leave of the server and ends the connection.
func (l *link) close() {
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	l.mu.Unlock()
	if first {
		l.conn.SetDeadline(time.Now().Add(goodbyeTime))
		l.send(wire.Request{Type: wire.CmdDisc}, nil) // as a courtesy
	}
	l.reading.Wait()
}
