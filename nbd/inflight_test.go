package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/nbd/wire"
)

// A client that got no answer to anything yet gets all of them, whatever order
// and sizes the requests come in and however they are cut into packets.
func TestManyRequestsInFlight(t *testing.T) {
	for _, style := range styles() {
		d := newMemDevice(4 << 20)
		d.fill(0, 4<<20)
		c := entered(t, serveDevice(t, d), style)
		random := rand.New(rand.NewPCG(3, uint64(style)))
		var all []byte
		reqs := map[uint64]wire.Request{}
		for i := range uint64(400) {
			n := uint64(1 + random.IntN(9000))
			if i%40 == 0 {
				n = uint64(random.IntN(300 << 10))
			}
			r := wire.Request{Type: wire.CmdRead, Cookie: i, Offset: random.Uint64N(3 << 20), Length: n}
			switch random.IntN(4) {
			case 0:
				r = wire.Request{Type: wire.CmdFlush, Cookie: i}
			case 1:
				r = wire.Request{Type: wire.CmdCache, Cookie: i, Offset: r.Offset, Length: n}
			}
			reqs[i] = r
			all = wire.AppendRequest(all, r, style == wire.Extended)
		}
		go func() {
			for rest := all; len(rest) > 0; {
				n := min(len(rest), 1+random.IntN(1500))
				if _, err := c.Write(rest[:n]); err != nil {
					return // reading will tell
				}
				rest = rest[n:]
			}
		}()
		for len(reqs) > 0 {
			cookie := c.peekCookie()
			r, ok := reqs[cookie]
			if !ok {
				t.Fatalf("a reply to no request: %d", cookie)
			}
			delete(reqs, cookie)
			a := c.peeked.read(r)
			if a.errno != 0 || r.Type == wire.CmdRead && !bytes.Equal(a.data, d.data[r.Offset:r.Offset+r.Length]) {
				t.Fatalf("%v: error %d or wrong data", r, a.errno)
			}
		}
	}
}

// Replies leave even though the client sends nothing more.
func TestNoReplyWaitsForTheNextRequest(t *testing.T) {
	d := newMemDevice(1 << 20)
	c := entered(t, serveDevice(t, d), wire.Simple)
	for n := 1; n <= 64; n++ {
		var all []byte
		for i := range n {
			all = wire.AppendRequest(all, wire.Request{Type: wire.CmdRead, Cookie: uint64(i), Length: 4096}, false)
		}
		// A part of the next request must not hold the replies up either.
		part := wire.AppendRequest(nil, wire.Request{Type: wire.CmdFlush, Cookie: 99}, false)
		c.send(append(all, part[:n%28]...))
		for i := range n {
			c.read(wire.Request{Type: wire.CmdRead, Cookie: uint64(i), Length: 4096})
		}
		c.send(part[n%28:])
		c.read(wire.Request{Type: wire.CmdFlush, Cookie: 99})
	}
}

// A request that waits does not keep others waiting.
func TestSlowRequestsDoNotHoldUpOthers(t *testing.T) {
	d := newMemDevice(1 << 20)
	release := make(chan struct{})
	d.onFlush = func(int64, int) error { <-release; return nil }
	c := entered(t, serveDevice(t, d), wire.Simple)
	c.request(wire.Request{Type: wire.CmdFlush, Cookie: 1})
	c.wantErrno(0, wire.Request{Type: wire.CmdRead, Cookie: 2, Length: 4096})
	c.wantErrno(0, wire.Request{Type: wire.CmdWrite, Cookie: 3, Length: 1}, 1)
	c.wantErrno(0, wire.Request{Type: wire.CmdRead, Cookie: 4, Length: 512 << 10})
	close(release)
	c.read(wire.Request{Type: wire.CmdFlush, Cookie: 1})
}

// After a slow write, writes go to the workers for a while, so that they no
// longer hold up the requests behind them.
func TestSlowWritesGoToTheWorkers(t *testing.T) {
	d := newMemDevice(1 << 20)
	s := newSession(NewServer(Config{}), &scriptConn{}, &negotiated{export: &Export{Device: d}})
	req := &wire.Request{Type: wire.CmdWrite, Length: 512}
	write := func() bool {
		t.Helper()
		done, err := s.writeInline(req, make([]byte, 512), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	s.slowUntil = time.Time{}
	d.onWrite = func(int64, int) error { time.Sleep(2 * slowWrite); return nil }
	begun := time.Now()
	if !write() {
		t.Error("a write goes to the workers for no reason")
	}
	if s.slowUntil.Before(begun.Add(slowPause)) {
		t.Error("a slow write is not noticed")
	}
	s.slowUntil = time.Now().Add(time.Hour)
	if write() || d.writes.Load() != 1 {
		t.Error("after a slow write another one is done at once")
	}
	s.slowUntil = time.Now()
	if !write() {
		t.Error("writes go to the workers for ever")
	}
}

func TestDisconnectAnswersWhatIsInFlight(t *testing.T) {
	d := newMemDevice(1 << 20)
	release := make(chan struct{})
	d.onFlush = func(int64, int) error { <-release; return nil }
	s := serveDevice(t, d)
	c := entered(t, s, wire.Structured)
	for range 20 {
		c.request(wire.Request{Type: wire.CmdFlush, Cookie: 7})
	}
	c.request(wire.Request{Type: wire.CmdDisc})
	eventually(t, "the flushes begin", func() bool { return d.flushes.Load() > 0 })
	close(release)
	for range 20 {
		c.read(wire.Request{Type: wire.CmdFlush, Cookie: 7})
	}
	c.wantClosed()
	eventually(t, "the export is closed", func() bool { return s.exports.count() == 0 })
}

// peekCookie returns the cookie of the next reply, which c.peeked then reads.
func (c *rawClient) peekCookie() uint64 {
	c.Helper()
	b := make([]byte, 16)
	mustReadFull(c, c, b)
	c.peeked = &rawClient{TB: c.TB, Conn: &prefixConn{c.Conn, b}, style: c.style}
	return binary.BigEndian.Uint64(b[8:])
}

// stepDevice flushes when it is told to.
type stepDevice struct {
	*memDevice
	begun, end chan struct{}
}

func (d stepDevice) Flush(ctx context.Context) error {
	d.begun <- struct{}{}
	select {
	case <-d.end:
	case <-ctx.Done():
	}
	return nil
}

// A client that waits for each flush has them served without a worker. Once it
// sends something meanwhile, that does not wait for later ones.
func TestFlushesOfOneAlone(t *testing.T) {
	d := stepDevice{newMemDevice(1 << 20), make(chan struct{}), make(chan struct{})}
	s := serve(t, Config{}, map[string]*Export{"": {Device: d}})
	c := entered(t, s, wire.Simple)
	flush := func() {
		c.request(wire.Request{Type: wire.CmdFlush})
		<-d.begun
		d.end <- struct{}{}
		mustReadFull(t, c, make([]byte, 16))
	}
	// beside sends a read during a flush and tells whether it is answered before
	// the flush.
	beside := func() bool {
		c.request(wire.Request{Type: wire.CmdFlush})
		<-d.begun
		c.request(wire.Request{Type: wire.CmdRead, Length: 16})
		c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		answered, err := io.ReadFull(c, make([]byte, 32))
		if answered > 0 && err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		d.end <- struct{}{}
		mustReadFull(t, c, make([]byte, 48-answered))
		return answered > 0
	}
	if !beside() {
		t.Error("a read waited for the first flush")
	}
	alone := false
	for range 5 { // a worker may not be done with the flush before
		for range accompanyFlushes {
			flush()
		}
		if alone = !beside(); alone {
			break
		}
	}
	if !alone {
		t.Error("no flush was served alone")
	}
	for range 3 {
		if !beside() {
			t.Error("a read waited for a flush though the client is known to send some")
		}
	}
}
