package nbd

import (
	"net"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/nbd/wire"
)

// queuedBytes is the memory of the replies that wait for the clients of s.
func queuedBytes(s *testServer) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.mu.Lock()
		if c.session != nil {
			c.session.out.mu.Lock()
			for _, x := range c.session.out.queue {
				n += len(x.buf.mem)
			}
			c.session.out.mu.Unlock()
		}
		c.mu.Unlock()
	}
	return n
}

// TestRepliesNobodyTakes: a client that asks on and takes no reply is asked to
// wait, before its replies take more memory than they may.
func TestRepliesNobodyTakes(t *testing.T) {
	s := serveDevice(t, newMemDevice(64<<20))
	c := entered(t, s, wire.Simple)
	// The worker that sends this one is stuck, and the reader goes on.
	c.request(wire.Request{Type: wire.CmdRead, Length: 8 << 20})
	c.SetWriteDeadline(time.Now().Add(2 * time.Second))
	for range 2000 {
		refused := wire.AppendRequest(nil, wire.Request{Type: wire.CmdFlush, Offset: 1}, false)
		if _, err := c.Write(refused); err != nil {
			break // the server does not read on
		}
		time.Sleep(200 * time.Microsecond) // so that each has a batch of its own
	}
	if n := queuedBytes(s); n == 0 || n > maxQueuedBytes+2*batchBytes {
		t.Errorf("%d bytes are queued, want some and at most %d", n, maxQueuedBytes)
	}
}

// TestSmallRequestsWaitForNobody: clients that hold all the memory there is keep
// nobody's small requests waiting.
func TestSmallRequestsWaitForNobody(t *testing.T) {
	limit := bufferBytes(wire.MaxPayload)
	s := serve(t, Config{Limits: Limits{ConnMemoryBytes: limit, TotalMemoryBytes: limit}},
		map[string]*Export{"": {Device: newMemDevice(wire.MaxPayload)}})
	holder, other := entered(t, s, wire.Simple), entered(t, s, wire.Simple)
	holder.request(wire.Request{Type: wire.CmdRead, Length: wire.MaxPayload})
	eventually(t, "the memory is taken", func() bool { return !s.memory.TryAcquire(1) || release(s) })
	other.wantErrno(0, wire.Request{Type: wire.CmdRead, Length: 256 << 10})
	other.wantErrno(0, wire.Request{Type: wire.CmdWrite, Flags: wire.CmdFlagFUA, Length: 4096}, make([]byte, 4096)...)
	other.wantErrno(0, wire.Request{Type: wire.CmdWrite, Length: 1 << 20}, make([]byte, 1<<20)...)
}

func release(s *testServer) bool {
	s.memory.Release(1)
	return false
}

// TestHandshakesLeaveRoom: who fills one listener with clients that never finish
// their handshake keeps nobody from another.
func TestHandshakesLeaveRoom(t *testing.T) {
	s := serve(t, Config{Limits: Limits{MaxConnections: 32}}, map[string]*Export{"": {Device: newMemDevice(1 << 20)}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l, nil)
	for range 64 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	eventually(t, "the listener is full", func() bool { return s.clients() == 16 })
	wantAlive(t, s)
}

// TestHurryWhileOthersWait: the time to take a reply is shorter while others
// wait for the memory.
func TestHurryWhileOthersWait(t *testing.T) {
	clock := &stallClock{period: time.Second, timeout: 16 * time.Second}
	clock.tick.Store(1)
	g := stallGuard{clock: clock}
	g.begin(32 << 20)
	clock.tick.Add(40)
	if g.stalled() {
		t.Error("stalled while nobody waits")
	}
	clock.waiting.Add(1)
	if !g.stalled() {
		t.Error("not stalled though others wait")
	}
	g.end()
	if g.stalled() {
		t.Error("stalled though it was done")
	}
}
