package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/nbd/wire"
)

func TestHostileHandshakesAreDropped(t *testing.T) {
	s := serveDevice(t, newMemDevice(1<<20))
	long := strings.Repeat("x", wire.MaxString+1)
	header := func(magic uint64, o wire.Option, n uint32) []byte {
		b := binary.BigEndian.AppendUint64(nil, magic)
		b = binary.BigEndian.AppendUint32(b, uint32(o))
		return binary.BigEndian.AppendUint32(b, n)
	}
	for name, b := range map[string][]byte{
		"unknown client flags":   {0, 0, 0, 4},
		"all client flags":       {0xff, 0xff, 0xff, 0xff},
		"wrong option magic":     append([]byte{0, 0, 0, 3}, header(wire.MagicOptionReply, wire.OptList, 0)...),
		"HTTP":                   []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"over-long export name":  append([]byte{0, 0, 0, 3}, wire.AppendOption(nil, wire.OptExportName, []byte(long))...),
		"an option of 4 GiB":     append([]byte{0, 0, 0, 3}, header(wire.MagicOption, wire.OptGo, 1<<32-1)...),
		"unknown option of 4GiB": append([]byte{0, 0, 0, 3}, header(wire.MagicOption, 4711, 1<<32-1)...),
		"a flood of queries": append([]byte{0, 0, 0, 3}, wire.AppendOption(nil, wire.OptListMetaContext,
			wire.AppendMetaRequest(nil, "", make([]string, 20000)...))...),
	} {
		c := dialRaw(t, s)
		mustReadFull(t, c, make([]byte, wire.GreetingSize))
		c.send(b)
		if c.wantClosed(); t.Failed() {
			t.Fatal(name)
		}
	}
	wantAlive(t, s)
}

func TestOptionFlood(t *testing.T) {
	s := serve(t, Config{Limits: Limits{MaxOptions: 20}}, map[string]*Export{"": {Device: newMemDevice(1 << 20)}})
	c := greeted(t, s)
	for range 20 {
		c.option(wire.OptInfo, wire.AppendInfoRequest(nil, "none"))
		c.wantReply(wire.RepErrUnknown)
	}
	c.wantClosed()
	wantAlive(t, s)
}

// goodSession is all that a client sends in a session that uses much of the
// protocol.
func goodSession(style wire.Style) []byte {
	b := []byte{0, 0, 0, 3}
	b = wire.AppendOption(b, wire.OptList, nil)
	if style == wire.Structured {
		b = wire.AppendOption(b, wire.OptStructuredReply, nil)
	} else {
		b = wire.AppendOption(b, wire.OptExtendedHeaders, nil)
	}
	b = wire.AppendOption(b, wire.OptSetMetaContext, wire.AppendMetaRequest(nil, "", allocation))
	b = wire.AppendOption(b, wire.OptGo, wire.AppendInfoRequest(nil, "", wire.InfoBlockSize))
	for _, r := range []wire.Request{
		{Type: wire.CmdRead, Length: 4096}, {Type: wire.CmdWrite, Offset: 512, Length: 100},
		{Type: wire.CmdBlockStatus, Length: 4096}, {Type: wire.CmdWriteZeroes, Length: 700},
		{Type: wire.CmdWrite, Length: 200, Flags: wire.CmdFlagFUA}, {Type: wire.CmdFlush}, {Type: wire.CmdDisc},
	} {
		if r.Type == wire.CmdWrite && style == wire.Extended {
			r.Flags |= wire.CmdFlagPayloadLen
		}
		b = wire.AppendRequest(b, r, style == wire.Extended)
		if r.Type == wire.CmdWrite {
			b = append(b, make([]byte, r.Length)...)
		}
	}
	return b
}

func TestEarlyCloseAtEveryByte(t *testing.T) {
	s := serve(t, Config{}, map[string]*Export{"": {Device: newMemDevice(1 << 20)}})
	for _, style := range []wire.Style{wire.Structured, wire.Extended} {
		good := goodSession(style)
		for n := range len(good) + 1 {
			c := dialRaw(t, s)
			// Sending may fail: the server may be done already.
			c.Write(good[:n])
			switch n % 3 {
			case 0:
				c.Close()
			case 1: // the replies are read
				c.Conn.(*net.UnixConn).CloseWrite()
				if _, err := io.Copy(io.Discard, c); err != nil {
					t.Fatalf("cut to %d bytes: %v", n, err)
				}
				c.Close()
			default: // a reset, as unread data makes it
				mustReadFull(t, c, make([]byte, 1))
				c.Close()
			}
		}
	}
	eventually(t, "all exports are closed", func() bool { return s.exports.count() == 0 })
	wantAlive(t, s)
}

// The same bytes one at a time, as a slow network would bring them.
func TestGoodSessionByteByByte(t *testing.T) {
	s := serve(t, Config{}, map[string]*Export{"": {Device: newMemDevice(1 << 20)}})
	for _, style := range []wire.Style{wire.Structured, wire.Extended} {
		c, whole := dialRaw(t, s), dialRaw(t, s)
		for _, b := range goodSession(style) {
			c.send([]byte{b})
		}
		whole.send(goodSession(style))
		one, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		other, err := io.ReadAll(whole)
		if err != nil || len(one) != len(other) {
			t.Errorf("%d bytes of replies, otherwise %d, %v", len(one), len(other), err)
		}
	}
}

func TestSlowHandshakeIsDropped(t *testing.T) {
	s := serve(t, Config{Limits: Limits{HandshakeTimeout: time.Second}},
		map[string]*Export{"": {Device: newMemDevice(1 << 20)}})
	silent := dialRaw(t, s)
	loris := greeted(t, s)
	go func() {
		for _, b := range bytes.Repeat(wire.AppendOption(nil, wire.OptList, nil), 1000) {
			if _, err := loris.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	io.Copy(io.Discard, silent)
	io.Copy(io.Discard, loris)
	eventually(t, "both are gone", func() bool { return s.clients() == 0 })
	// A client that has got through the handshake has all the time.
	c := entered(t, s, wire.Simple)
	time.Sleep(1200 * time.Millisecond)
	c.wantErrno(0, wire.Request{Type: wire.CmdRead, Length: 512})
}

// clients is the number of connections.
func (s *testServer) clients() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func TestConnectionFlood(t *testing.T) {
	s := serve(t, Config{Limits: Limits{MaxConnections: 4}}, map[string]*Export{"": {Device: newMemDevice(1 << 20)}})
	var kept []*rawClient
	for range 4 {
		kept = append(kept, greeted(t, s))
	}
	for range 20 {
		dialRaw(t, s).wantClosed()
	}
	kept[0].Close()
	eventually(t, "there is room again", func() bool { return s.clients() < 4 })
	wantAlive(t, s)
}

// heldBytes is how much memory is in use, that of pools apart: those give up
// what is not used when the collector comes by twice.
func heldBytes() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// floods are requests that a client sends again and again without taking a
// single reply.
func floods() map[string]wire.Request {
	return map[string]wire.Request{
		"small reads":      {Type: wire.CmdRead, Length: 4096},
		"large reads":      {Type: wire.CmdRead, Length: 1 << 20},
		"largest reads":    {Type: wire.CmdRead, Length: wire.MaxPayload},
		"flushes":          {Type: wire.CmdFlush},
		"block status":     {Type: wire.CmdBlockStatus, Length: wire.MaxPayload},
		"errors":           {Type: 99},
		"cache":            {Type: wire.CmdCache, Length: 1 << 20},
		"zeroes, no holes": {Type: wire.CmdWriteZeroes, Length: 1 << 20, Flags: wire.CmdFlagNoHole},
	}
}

func TestClientsThatNeverReadReplies(t *testing.T) {
	const limit = 40 << 20
	for name, req := range floods() {
		t.Run(name, func(t *testing.T) {
			d := newMemDevice(wire.MaxPayload)
			for p := 0; p < len(d.mapped); p += 2 {
				d.mapped[p] = true
			}
			s := serve(t, Config{Limits: Limits{ConnMemoryBytes: limit, TotalMemoryBytes: limit}},
				map[string]*Export{"": {Device: d}})
			c := entered(t, s, wire.Structured, allocation)
			before := heldBytes()
			var sent atomic.Int64
			flood := bytes.Repeat(wire.AppendRequest(nil, req, false), 1000)
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				for {
					n, err := c.Write(flood)
					sent.Add(int64(n))
					if err != nil {
						return
					}
				}
			}()
			// At some point the server takes no more, and does no more.
			moved := func() int64 {
				return sent.Load() + d.tries.Load() + d.reads.Load() + d.writes.Load() + d.flushes.Load()
			}
			for last := int64(-1); last != moved(); time.Sleep(200 * time.Millisecond) {
				last = moved()
			}
			eventually(t, "what is held is bounded", func() bool { return heldBytes() < before+limit+8<<20 })
			wantAlive(t, s)
			c.Close()
			<-gone
			eventually(t, "all is given back", func() bool { return s.exports.count() == 0 })
			wantBudgetFree(t, s, limit)
		})
	}
}

// wantBudgetFree checks that no memory is counted as in use.
func wantBudgetFree(t *testing.T, s *testServer, bytes int64) {
	t.Helper()
	if !s.memory.TryAcquire(bytes) {
		t.Error("memory was not given back")
		return
	}
	s.memory.Release(bytes)
}

// Clients that hold all memory that there is are disconnected after a while,
// and meanwhile small requests of others are served.
func TestStalledClientsAreDropped(t *testing.T) {
	limit := bufferBytes(wire.MaxPayload)
	limits := Limits{ConnMemoryBytes: limit, TotalMemoryBytes: limit, StallTimeout: 200 * time.Millisecond}
	for name, stall := range map[string]func(c *rawClient){
		"takes no reply": func(c *rawClient) {
			c.request(wire.Request{Type: wire.CmdRead, Length: 8 << 20, Flags: wire.CmdFlagDF})
		},
		"gives no payload": func(c *rawClient) {
			c.request(wire.Request{Type: wire.CmdWrite, Length: 8 << 20}, 1, 2, 3)
		},
		"gives no payload of a refused write": func(c *rawClient) {
			c.request(wire.Request{Type: wire.CmdWrite, Offset: 1 << 40, Length: 8 << 20}, 1, 2, 3)
		},
	} {
		d := newMemDevice(wire.MaxPayload)
		s := serve(t, Config{Limits: limits, Logger: testLogger(t)}, map[string]*Export{"": {Device: d}})
		idle := entered(t, s, wire.Structured)
		c := entered(t, s, wire.Structured)
		stall(c)
		wantAlive(t, s)
		// 8 MiB may take their time at slowestBytesPerSecond: make time fly.
		go func() {
			for s.clients() > 1 {
				s.clock.tick.Add(1000)
				time.Sleep(time.Millisecond)
			}
		}()
		eventually(t, name, func() bool { return s.clients() == 1 })
		wantBudgetFree(t, s, limit)
		// Who only has nothing to say stays.
		idle.wantErrno(0, wire.Request{Type: wire.CmdRead, Length: 512})
	}
}

// A payload is not allocated before the memory for it is to be had.
func TestPayloadsWaitForMemory(t *testing.T) {
	limit := bufferBytes(wire.MaxPayload)
	d := newMemDevice(wire.MaxPayload)
	release := make(chan struct{})
	d.onWrite = func(_ int64, n int) error {
		if n == wire.MaxPayload {
			<-release
		}
		return nil
	}
	s := serve(t, Config{Limits: Limits{ConnMemoryBytes: limit, TotalMemoryBytes: limit}}, map[string]*Export{"": {Device: d}})
	first, second := entered(t, s, wire.Simple), entered(t, s, wire.Simple)
	first.request(wire.Request{Type: wire.CmdWrite, Flags: wire.CmdFlagFUA, Length: wire.MaxPayload}, make([]byte, wire.MaxPayload)...)
	eventually(t, "the write begins", func() bool { return d.writes.Load() == 1 })
	second.request(wire.Request{Type: wire.CmdRead, Length: wire.MaxPayload})
	second.SetReadDeadline(noTime())
	if _, err := second.Read(make([]byte, 1)); err == nil {
		t.Error("two payloads are held where there is room for one")
	}
	second.SetReadDeadline(time.Now().Add(waitTime))
	close(release)
	first.read(wire.Request{Type: wire.CmdWrite})
	if a := second.read(wire.Request{Type: wire.CmdRead, Length: wire.MaxPayload}); a.errno != 0 {
		t.Errorf("error %d", a.errno)
	}
}

func TestNoGoroutineRemains(t *testing.T) {
	before := runtime.NumGoroutine()
	exports := &memExports{byName: map[string]*Export{"": {Device: newMemDevice(1 << 20)}}}
	s := NewServer(Config{Exports: exports})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { s.Serve(l, nil); close(served) }()
	var clients []*Client
	for range 5 {
		c, err := Dial(t.Context(), "tcp", l.Addr().String(), ClientOptions{Connections: 3})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	for _, c := range clients[1:] {
		c.Close()
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	<-served
	clients[0].Close()
	eventually(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= before })
}
