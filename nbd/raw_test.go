package nbd

import (
	"encoding/binary"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/nbd/wire"
)

// rawClient speaks the protocol byte by byte, so that a test can break it.
type rawClient struct {
	testing.TB
	net.Conn
	style wire.Style
	// peeked is the same client, before the reply that peekCookie looked at.
	peeked *rawClient
}

// prefixConn is a connection from which some bytes were read already.
type prefixConn struct {
	net.Conn
	prefix []byte
}

func (c *prefixConn) Read(p []byte) (int, error) {
	if len(c.prefix) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.prefix)
	c.prefix = c.prefix[n:]
	return n, nil
}

// dialRaw connects to a server and does nothing more.
func dialRaw(t testing.TB, s *testServer) *rawClient {
	t.Helper()
	conn, err := net.Dial("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(waitTime))
	return &rawClient{TB: t, Conn: conn}
}

// greeted connects and exchanges greetings as most clients do.
func greeted(t testing.TB, s *testServer) *rawClient {
	t.Helper()
	c := dialRaw(t, s)
	c.greet(uint32(wire.FlagFixedNewstyle | wire.FlagNoZeroes))
	return c
}

// entered connects and enters the transmission phase of the default export.
func entered(t testing.TB, s *testServer, style wire.Style, contexts ...string) *rawClient {
	t.Helper()
	c := greeted(t, s)
	c.choose(style)
	if len(contexts) > 0 {
		c.option(wire.OptSetMetaContext, wire.AppendMetaRequest(nil, "", contexts...))
		for range contexts {
			c.wantReply(wire.RepMetaContext)
		}
		c.wantReply(wire.RepAck)
	}
	c.option(wire.OptGo, wire.AppendInfoRequest(nil, ""))
	c.wantReply(wire.RepInfo)
	c.wantReply(wire.RepAck)
	return c
}

func (c *rawClient) send(b []byte) {
	c.Helper()
	if _, err := c.Write(b); err != nil {
		c.Fatalf("sending: %v", err)
	}
}

func (c *rawClient) greet(flags uint32) {
	c.Helper()
	b := make([]byte, wire.GreetingSize)
	mustReadFull(c, c, b)
	if got, err := wire.ParseGreeting(b); err != nil || got != 3 {
		c.Fatalf("greeting with flags %#x, %v", got, err)
	}
	c.send(binary.BigEndian.AppendUint32(nil, flags))
}

// choose negotiates a style of replies.
func (c *rawClient) choose(style wire.Style) {
	c.Helper()
	switch c.style = style; style {
	case wire.Structured:
		c.option(wire.OptStructuredReply, nil)
	case wire.Extended:
		c.option(wire.OptExtendedHeaders, nil)
	default:
		return
	}
	c.wantReply(wire.RepAck)
}

func (c *rawClient) option(o wire.Option, data []byte) {
	c.Helper()
	c.send(wire.AppendOption(nil, o, data))
}

// optionReply reads one reply to an option.
func (c *rawClient) optionReply() (wire.OptionReply, []byte) {
	c.Helper()
	b := make([]byte, wire.ReplyHeaderSize)
	mustReadFull(c, c, b)
	r, err := wire.ParseOptionReply(b)
	if err != nil {
		c.Fatal(err)
	}
	data := make([]byte, r.DataBytes)
	mustReadFull(c, c, data)
	return r, data
}

// wantReply reads one reply to an option, which has to be of a type.
func (c *rawClient) wantReply(want wire.ReplyType) []byte {
	c.Helper()
	r, data := c.optionReply()
	if r.Type != want {
		c.Fatalf("option %d: reply %v %q, want %v", r.Option, r.Type, data, want)
	}
	return data
}

// request sends a request with its payload.
func (c *rawClient) request(r wire.Request, payload ...byte) {
	c.Helper()
	c.send(append(wire.AppendRequest(nil, r, c.style == wire.Extended), payload...))
}

// extent is a wire.StatusExtent.
type extent struct{ length, flags uint64 }

// answer is a reply, put together from its chunks.
type answer struct {
	errno   wire.Errno
	message string
	chunks  []wire.ChunkType    // none for a simple reply
	data    []byte              // of a read
	status  map[uint32][]extent // by context
}

// read reads the whole reply to a request; replies to others must not come in
// between.
func (c *rawClient) read(req wire.Request) answer {
	c.Helper()
	a := answer{status: map[uint32][]extent{}}
	for {
		r := c.replyHeader()
		if r.Cookie != req.Cookie {
			c.Fatalf("a reply with cookie %d, want %d", r.Cookie, req.Cookie)
		}
		if r.Simple {
			a.errno = r.Errno
			if r.Errno == 0 && req.Type == wire.CmdRead {
				a.data = make([]byte, req.Length)
				mustReadFull(c, c, a.data)
			}
			return a
		}
		a.chunks = append(a.chunks, r.Type)
		if c.style == wire.Extended && r.Offset != req.Offset {
			c.Fatalf("a reply with offset %d, want %d", r.Offset, req.Offset)
		}
		payload := make([]byte, r.Length)
		mustReadFull(c, c, payload)
		c.chunk(&a, req, r, payload)
		if r.Flags&wire.ChunkFlagDone != 0 {
			return a
		}
	}
}

func (c *rawClient) chunk(a *answer, req wire.Request, r wire.Reply, payload []byte) {
	c.Helper()
	var err error
	if a.data == nil && (r.Type == wire.ChunkOffsetData || r.Type == wire.ChunkOffsetHole) {
		a.data = make([]byte, req.Length)
	}
	switch r.Type {
	case wire.ChunkOffsetData:
		off, _ := wire.ParseDataOffset(payload)
		copy(a.data[off-req.Offset:], payload[wire.DataOffsetSize:])
	case wire.ChunkOffsetHole:
		var off, n uint64
		off, n, err = wire.ParseHole(payload)
		clear(a.data[off-req.Offset:][:n])
	case wire.ChunkError:
		a.errno, a.message, err = wire.ParseError(payload)
	case wire.ChunkBlockStatus, wire.ChunkBlockStatusExt:
		var id uint32
		var extents []wire.StatusExtent
		id, extents, err = wire.ParseStatus(payload, r.Type)
		for _, e := range extents {
			a.status[id] = append(a.status[id], extent{e.Length, e.Flags})
		}
	}
	if err != nil {
		c.Fatal(err)
	}
}

func (c *rawClient) replyHeader() wire.Reply {
	c.Helper()
	b := make([]byte, wire.ExtendedReplySize)
	mustReadFull(c, c, b[:4])
	n, err := c.style.ReplyBytes(b)
	if err != nil {
		c.Fatal(err)
	}
	mustReadFull(c, c, b[4:n])
	r, err := wire.ParseReply(b, c.style)
	if err != nil {
		c.Fatal(err)
	}
	return r
}

// do sends a request and reads its reply.
func (c *rawClient) do(r wire.Request, payload ...byte) answer {
	c.Helper()
	if c.style == wire.Extended && len(payload) > 0 {
		r.Flags |= wire.CmdFlagPayloadLen
	}
	c.request(r, payload...)
	return c.read(r)
}

// wantErrno sends a request that has to be answered with an error, 0 for none.
func (c *rawClient) wantErrno(want wire.Errno, r wire.Request, payload ...byte) answer {
	c.Helper()
	a := c.do(r, payload...)
	if a.errno != want {
		c.Errorf("%v flags %#x at %d, %d bytes: error %d %q, want %d",
			r.Type, r.Flags, r.Offset, r.Length, a.errno, a.message, want)
	}
	return a
}

// wantClosed checks that the server hangs up without saying anything more.
func (c *rawClient) wantClosed() {
	c.Helper()
	b, err := io.ReadAll(c)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		c.Fatalf("the server does not hang up")
	}
	if len(b) > 0 {
		c.Fatalf("the server says %q and then hangs up", b)
	}
}

// wantAlive checks that a server serves.
func wantAlive(t testing.TB, s *testServer) {
	t.Helper()
	c := entered(t, s, wire.Structured)
	c.wantErrno(0, wire.Request{Type: wire.CmdRead, Cookie: 1, Length: 512})
	c.request(wire.Request{Type: wire.CmdDisc})
	c.wantClosed()
}

// styles are all styles of replies.
func styles() []wire.Style { return []wire.Style{wire.Simple, wire.Structured, wire.Extended} }

func wantChunks(t testing.TB, got answer, want ...wire.ChunkType) {
	t.Helper()
	if !slices.Equal(got.chunks, want) {
		t.Errorf("chunks of types %v, want %v", got.chunks, want)
	}
}
