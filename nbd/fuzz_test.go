package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/nbd/wire"
)

// scriptConn is a connection whose peer says what is in r, and takes all.
type scriptConn struct {
	r    *bytes.Reader
	mu   sync.Mutex
	hold chan struct{} // while not nil, reading waits for it
	sent bytes.Buffer
}

func (c *scriptConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	hold := c.hold
	c.mu.Unlock()
	if hold != nil {
		<-hold
	}
	return c.r.Read(p)
}

func (c *scriptConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hold != nil {
		close(c.hold)
		c.hold = nil
	}
	if c.sent.Len() < 1<<20 {
		c.sent.Write(p)
	}
	return len(p), nil
}

func (c *scriptConn) Close() error                     { return nil }
func (c *scriptConn) LocalAddr() net.Addr              { return &net.UnixAddr{Name: "script"} }
func (c *scriptConn) RemoteAddr() net.Addr             { return &net.UnixAddr{Name: "script"} }
func (c *scriptConn) SetDeadline(time.Time) error      { return nil }
func (c *scriptConn) SetReadDeadline(time.Time) error  { return nil }
func (c *scriptConn) SetWriteDeadline(time.Time) error { return nil }

// FuzzServer lets a client say anything from the greeting on.
func FuzzServer(f *testing.F) {
	for _, style := range []wire.Style{wire.Structured, wire.Extended} {
		f.Add(goodSession(style))
	}
	plain := wire.AppendOption([]byte{0, 0, 0, 0}, wire.OptExportName, nil)
	for _, r := range floods() {
		plain = wire.AppendRequest(plain, r, false)
	}
	f.Add(plain)
	options := []byte{0, 0, 0, 3}
	for o := range wire.OptExtendedHeaders + 2 {
		options = wire.AppendOption(options, o, nil)
		options = wire.AppendOption(options, o, wire.AppendMetaRequest(nil, "", "base:"))
	}
	f.Add(options)
	exports := &memExports{}
	d := newMemDevice(256 << 10)
	d.fill(0, 100<<10)
	d.snapshot("monday")
	exports.byName = map[string]*Export{"": {Device: d, ChangeContexts: []string{"monday"}}}
	s := NewServer(Config{Exports: exports})
	f.Fuzz(func(t *testing.T, b []byte) {
		newConn(s, &scriptConn{r: bytes.NewReader(b)}, nil).serve()
		if n := exports.count(); n != 0 {
			t.Errorf("%d exports are open", n)
		}
		wantBudgetFree(t, &testServer{Server: s}, s.limits.TotalMemoryBytes)
	})
}

// fuzzServerScript is a good server's part of what FuzzClient does.
func fuzzServerScript(style wire.Style) []byte {
	b := bytes.Join(handshakeReplies(style), nil)
	const firstCookie = 1 << 32
	read := append(binary.BigEndian.AppendUint64(nil, 0), make([]byte, 4096)...)
	b = append(b, chunk(style, wire.Chunk{Type: wire.ChunkOffsetData, Cookie: firstCookie}, read)...)
	hole := make([]byte, wire.HoleSize)
	wire.PutHole(hole, 4096, 4096)
	b = append(b, chunk(style, wire.Chunk{Flags: wire.ChunkFlagDone, Type: wire.ChunkOffsetHole, Cookie: firstCookie}, hole)...)
	status := chunk(style, wire.Chunk{Flags: wire.ChunkFlagDone, Type: wire.ChunkBlockStatus, Cookie: firstCookie + 1}, status32(5, 8192))
	return append(b, status...)
}

// FuzzClient lets a server say anything from the greeting on.
func FuzzClient(f *testing.F) {
	for _, style := range []wire.Style{wire.Structured, wire.Extended} {
		f.Add(fuzzServerScript(style))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		conn := &scriptConn{r: bytes.NewReader(b)}
		h := &clientHandshake{conn: conn}
		info, err := h.run(context.Background(), "", ClientOptions{}, wire.Extended)
		if err != nil {
			return
		}
		conn.hold = make(chan struct{})
		c := &Client{links: []*link{newLink(conn, &info)}, info: info}
		p := make([]byte, 3*8192)
		n, err := c.ReadAt(p[8192:2*8192], 0)
		if err != nil && !errors.Is(err, io.EOF) && n != 0 {
			t.Errorf("%d bytes and %v", n, err)
		}
		if !bytes.Equal(p[:8192], make([]byte, 8192)) || !bytes.Equal(p[2*8192:], make([]byte, 8192)) {
			t.Error("memory beside the caller's was written to")
		}
		sum := int64(0)
		err = c.Extents(context.Background(), 0, min(8192, c.Size()), func(n int64, _ bool) bool {
			sum += n
			return n > 0
		})
		if err == nil && sum != min(8192, c.Size()) {
			t.Errorf("extents of %d bytes", sum)
		}
		c.Close()
	})
}

// The seeds reach the end, so that the fuzzer starts from there.
func TestFuzzSeedsAreGood(t *testing.T) {
	for _, style := range []wire.Style{wire.Structured, wire.Extended} {
		conn := &scriptConn{r: bytes.NewReader(fuzzServerScript(style))}
		h := &clientHandshake{conn: conn}
		info, err := h.run(context.Background(), "", ClientOptions{}, wire.Extended)
		if err != nil {
			t.Fatal(err)
		}
		conn.hold = make(chan struct{})
		c := &Client{links: []*link{newLink(conn, &info)}, info: info}
		if _, err := c.ReadAt(make([]byte, 8192), 0); err != nil {
			t.Errorf("style %d: %v", style, err)
		}
		c.Close()
	}
}
