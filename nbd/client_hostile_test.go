package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/nbd/wire"
)

// handshakeReplies is what a good server says until the transmission phase, in
// pieces as fakeServer wants them.
func handshakeReplies(style wire.Style) [][]byte {
	says := [][]byte{
		wire.AppendGreeting(nil, 3),
		nil, // the client flags come alone or with the first option
	}
	if style == wire.Extended {
		says[1] = wire.AppendOptionReply(nil, wire.OptExtendedHeaders, wire.RepAck, nil)
	} else {
		says[1] = wire.AppendOptionReply(nil, wire.OptExtendedHeaders, wire.RepErrUnsup, nil)
		says = append(says, wire.AppendOptionReply(nil, wire.OptStructuredReply, wire.RepAck, nil))
	}
	meta := wire.AppendOptionReply(nil, wire.OptSetMetaContext, wire.RepMetaContext, wire.AppendMetaContext(nil, 5, allocation))
	enter := wire.AppendOptionReply(nil, wire.OptGo, wire.RepInfo, wire.AppendExportInfo(nil, 1<<20, wire.FlagHasFlags))
	return append(says,
		wire.AppendOptionReply(meta, wire.OptSetMetaContext, wire.RepAck, nil),
		wire.AppendOptionReply(enter, wire.OptGo, wire.RepAck, nil))
}

func TestHostileServerInHandshake(t *testing.T) {
	reply := func(o wire.Option, r wire.ReplyType, data string) []byte {
		return wire.AppendOptionReply(nil, o, r, []byte(data))
	}
	good := handshakeReplies(wire.Extended)
	huge := reply(wire.OptGo, wire.RepInfo, "")
	binary.BigEndian.PutUint32(huge[16:], 1<<32-1)
	ack := reply(wire.OptGo, wire.RepAck, "")
	info := func(b []byte) []byte { return append(wire.AppendOptionReply(nil, wire.OptGo, wire.RepInfo, b), ack...) }
	for name, says := range map[string][][]byte{
		"not NBD":            {[]byte("HTTP/1.1 400 Bad Request")},
		"oldstyle":           {[]byte("NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\x00\x00\x00\x00")},
		"not fixed newstyle": {wire.AppendGreeting(nil, 0)},
		"wrong reply magic":  {good[0], bytes.Repeat([]byte("x"), 20)},
		"another option":     {good[0], reply(wire.OptList, wire.RepAck, "")},
		"unexpected type":    {good[0], reply(wire.OptExtendedHeaders, wire.RepServer, "")},
		"context not asked":  {good[0], good[1], reply(wire.OptSetMetaContext, wire.RepMetaContext, "\x00\x00\x00\x01x:y")},
		"context twice": {good[0], good[1], bytes.Repeat(
			wire.AppendOptionReply(nil, wire.OptSetMetaContext, wire.RepMetaContext, wire.AppendMetaContext(nil, 1, allocation)), 2)},
		"reply of 4 GiB":            {good[0], good[1], good[2], huge},
		"endless replies":           {good[0], good[1], good[2], bytes.Repeat(reply(wire.OptGo, wire.RepInfo, "\x00\x09"), 2*maxReplies)},
		"no information":            {good[0], good[1], good[2], ack},
		"empty information":         {good[0], good[1], good[2], info(nil)},
		"no flags":                  {good[0], good[1], good[2], info(wire.AppendExportInfo(nil, 1<<20, 0))},
		"size of 2^63":              {good[0], good[1], good[2], info(wire.AppendExportInfo(nil, 1<<63, 1))},
		"block sizes make no sense": {good[0], good[1], good[2], info(wire.AppendBlockSizeInfo(nil, wire.BlockSizes{Minimum: 3}))},
		"hangs up":                  {good[0], good[1]},
		"error with long text":      {good[0], good[1], good[2], reply(wire.OptGo, wire.RepErrPolicy, strings.Repeat("x", 60000))},
	} {
		address, _ := fakeServer(t, says...)
		c, err := Dial(t.Context(), "tcp", address, ClientOptions{})
		if err == nil {
			c.Close()
			t.Errorf("%s: no error", name)
		} else if len(err.Error()) > 500 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
}

// fakeTransmission is a server that answers the first request of a client with
// what reply makes of its cookie, and then nothing more.
func fakeTransmission(t *testing.T, style wire.Style, reply func(cookie uint64) []byte) *Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(waitTime))
		b := make([]byte, wire.ExtendedRequestSize)
		for i, say := range handshakeReplies(style) {
			if i == 0 {
				conn.Write(say)
				io.ReadFull(conn, b[:wire.ClientFlagsSize])
				continue
			}
			io.ReadFull(conn, b[:wire.OptionHeaderSize])
			_, n, _ := wire.ParseOptionHeader(b[:wire.OptionHeaderSize])
			io.CopyN(io.Discard, conn, int64(n))
			conn.Write(say)
		}
		if _, err := io.ReadFull(conn, b[:wire.RequestBytes(style == wire.Extended)]); err != nil {
			return
		}
		conn.Write(reply(binary.BigEndian.Uint64(b[8:])))
		io.Copy(io.Discard, conn)
	}()
	c, err := Dial(t.Context(), "tcp", l.Addr().String(), ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); l.Close(); <-done })
	return c
}

// chunk makes a chunk with its payload.
func chunk(style wire.Style, c wire.Chunk, payload []byte) []byte {
	b := make([]byte, style.ChunkBytes())
	if c.Length == 0 {
		c.Length = uint64(len(payload))
	}
	wire.PutChunk(b, c, style)
	return append(b, payload...)
}

func TestHostileServerInTransmission(t *testing.T) {
	const at, n = 8192, 4096
	data := func(off uint64, n int) []byte {
		return append(binary.BigEndian.AppendUint64(nil, off), make([]byte, n)...)
	}
	hole := func(off uint64, n uint32) []byte { b := make([]byte, wire.HoleSize); wire.PutHole(b, off, n); return b }
	status := func(id uint32, length uint64) []byte {
		return wire.AppendStatusExtent(wire.AppendStatusHead(nil, id, 1, wire.Structured), wire.StatusExtent{Length: length}, wire.Structured)
	}
	const done = wire.ChunkFlagDone
	type part struct {
		flags   uint16
		t       wire.ChunkType
		payload []byte
	}
	for name, parts := range map[string][]part{
		"data before the range":                     {{done, wire.ChunkOffsetData, data(at-1, n)}},
		"data after the range":                      {{done, wire.ChunkOffsetData, data(at+1, n)}},
		"data far away":                             {{done, wire.ChunkOffsetData, data(1<<64-1, n)}},
		"more data than asked for":                  {{done, wire.ChunkOffsetData, data(at, n+1)}},
		"no data":                                   {{done, wire.ChunkOffsetData, data(at, 0)}},
		"cut offset":                                {{done, wire.ChunkOffsetData, []byte("1234567")}},
		"data twice":                                {{0, wire.ChunkOffsetData, data(at, n)}, {done, wire.ChunkOffsetData, data(at, n)}},
		"overlapping data and hole":                 {{0, wire.ChunkOffsetData, data(at, n)}, {done, wire.ChunkOffsetHole, hole(at+n-1, 1)}},
		"a part missing":                            {{0, wire.ChunkOffsetData, data(at, n-1)}, {done, wire.ChunkNone, nil}},
		"nothing":                                   {{done, wire.ChunkNone, nil}},
		"an empty hole":                             {{done, wire.ChunkOffsetHole, hole(at, 0)}},
		"a hole of 4 GiB":                           {{done, wire.ChunkOffsetHole, hole(at, 1<<32-1)}},
		"a hole of the wrong form":                  {{done, wire.ChunkOffsetHole, make([]byte, 13)}},
		"none that goes on":                         {{0, wire.ChunkNone, nil}},
		"none with a payload":                       {{done, wire.ChunkNone, []byte("x")}},
		"a status for a read":                       {{done, wire.ChunkBlockStatus, status(5, 4096)}},
		"an unknown type":                           {{done, 77, nil}},
		"an error of no bytes":                      {{done, wire.ChunkError, nil}},
		"an error that is none":                     {{done, wire.ChunkError, make([]byte, 6)}},
		"an error with a message that is not there": {{done, wire.ChunkError, []byte("\x00\x00\x00\x05\xff\xff")}},
		"an endless error":                          {{done, wire.ChunkError, append([]byte("\x00\x00\x00\x05\x00\x00"), make([]byte, maxErrorBytes)...)}},
	} {
		for _, style := range []wire.Style{wire.Structured, wire.Extended} {
			c := fakeTransmission(t, style, func(cookie uint64) (b []byte) {
				for _, p := range parts {
					b = append(b, chunk(style, wire.Chunk{Flags: p.flags, Type: p.t, Cookie: cookie, Offset: at}, p.payload)...)
				}
				return b
			})
			p := make([]byte, 3*n)
			for i := range p {
				p[i] = 7
			}
			m, err := c.ReadAt(p[n:2*n], at)
			if err == nil || m != 0 {
				t.Errorf("%s: %d bytes read", name, m)
			}
			if _, ok := errors.AsType[syscall.Errno](err); !ok {
				t.Errorf("%s: %v carries no errno", name, err)
			}
			if bytes.ContainsFunc(p[:n], notSeven) || bytes.ContainsFunc(p[2*n:], notSeven) {
				t.Errorf("%s: memory beside the caller's was written to", name)
			}
		}
	}
}

func notSeven(r rune) bool { return r != 7 }

func TestHostileServerWithWrongHeaders(t *testing.T) {
	simple := func(cookie uint64, errno wire.Errno) []byte {
		b := make([]byte, wire.SimpleReplySize)
		wire.PutSimpleReply(b, cookie, errno)
		return b
	}
	whole := wire.Chunk{Flags: wire.ChunkFlagDone, Type: wire.ChunkOffsetData, Offset: 512}
	with := func(cookie, offset uint64) wire.Chunk {
		c := whole
		c.Cookie, c.Offset = cookie, offset
		return c
	}
	payload := append(binary.BigEndian.AppendUint64(nil, 512), make([]byte, 512)...)
	for name, test := range map[string]struct {
		style wire.Style
		reply func(cookie uint64) []byte
	}{
		"wrong magic":          {wire.Structured, func(uint64) []byte { return make([]byte, 32) }},
		"simple for a read":    {wire.Structured, func(c uint64) []byte { return append(simple(c, 0), make([]byte, 512)...) }},
		"simple with extended": {wire.Extended, func(c uint64) []byte { return append(simple(c, wire.EIO), make([]byte, 16)...) }},
		"unknown cookie":       {wire.Structured, func(c uint64) []byte { return chunk(wire.Structured, with(c+1, 0), payload) }},
		"cookie of no slot":    {wire.Structured, func(uint64) []byte { return chunk(wire.Structured, with(1<<64-1, 0), payload) }},
		"stale cookie":         {wire.Extended, func(c uint64) []byte { return chunk(wire.Extended, with(c-1<<32, 512), payload) }},
		"wrong offset":         {wire.Extended, func(c uint64) []byte { return chunk(wire.Extended, with(c, 0), payload) }},
		"answered twice": {wire.Extended, func(c uint64) []byte {
			return bytes.Repeat(chunk(wire.Extended, with(c, 512), payload), 2)
		}},
		"2^64 bytes": {wire.Extended, func(c uint64) []byte {
			h := with(c, 512)
			h.Length = 1<<64 - 1
			return chunk(wire.Extended, h, payload)
		}},
		"cut header": {wire.Extended, func(c uint64) []byte { return chunk(wire.Extended, with(c, 512), payload)[:20] }},
	} {
		c := fakeTransmission(t, test.style, test.reply)
		go func() { time.Sleep(50 * time.Millisecond); c.links[0].conn.(*net.TCPConn).CloseRead() }() // ends a reply that is cut
		_, err := c.ReadAt(make([]byte, 512), 512)
		if name == "answered twice" {
			// The first answer is good. The second breaks the connection.
			_, err = c.ReadAt(make([]byte, 512), 512)
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestHostileServerInBlockStatus(t *testing.T) {
	for name, payloads := range map[string][][]byte{
		"unknown context": {status32(6, 4096)},
		"context twice":   {status32(5, 4096), status32(5, 4096)},
		"empty extent":    {status32(5, 0)},
		"no extent":       {status32(5)},
		"nothing":         {},
	} {
		c := fakeTransmission(t, wire.Structured, func(cookie uint64) (b []byte) {
			for _, p := range payloads {
				b = append(b, chunk(wire.Structured, wire.Chunk{Type: wire.ChunkBlockStatus, Cookie: cookie}, p)...)
			}
			return append(b, chunk(wire.Structured, wire.Chunk{Flags: wire.ChunkFlagDone, Cookie: cookie}, nil)...)
		})
		if err := c.Extents(t.Context(), 0, 8192, func(int64, bool) bool { return true }); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	// An extent that reaches beyond what was asked for is legal, and cut.
	c := fakeTransmission(t, wire.Structured, func(cookie uint64) []byte {
		return chunk(wire.Structured, wire.Chunk{Flags: wire.ChunkFlagDone, Type: wire.ChunkBlockStatus, Cookie: cookie}, status32(5, 1<<31))
	})
	got := collect(t, func(yield func(int64, bool) bool) error { return c.Extents(context.Background(), 0, 8192, yield) })
	if want := []run{{0, 8192, true}}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func status32(id uint32, lengths ...uint64) []byte {
	b := wire.AppendStatusHead(nil, id, 0, wire.Structured)
	for _, n := range lengths {
		b = wire.AppendStatusExtent(b, wire.StatusExtent{Length: n}, wire.Structured)
	}
	return b
}

// Chunks may come in any order.
func TestClientPutsChunksInOrder(t *testing.T) {
	const n = 64 << 10
	want := make([]byte, n)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range want {
		want[i] = byte(random.Uint32())
	}
	clear(want[4096:8192])
	c := fakeTransmission(t, wire.Extended, func(cookie uint64) (b []byte) {
		for _, i := range random.Perm(16) {
			off := uint64(i * 4096)
			h := wire.Chunk{Type: wire.ChunkOffsetData, Cookie: cookie}
			payload := append(binary.BigEndian.AppendUint64(nil, off), want[off:off+4096]...)
			if i == 1 {
				h.Type = wire.ChunkOffsetHole
				payload = make([]byte, wire.HoleSize)
				wire.PutHole(payload, off, 4096)
			}
			b = append(b, chunk(wire.Extended, h, payload)...)
		}
		return append(b, chunk(wire.Extended, wire.Chunk{Flags: wire.ChunkFlagDone, Cookie: cookie}, nil)...)
	})
	got := bytes.Repeat([]byte{7}, n)
	if _, err := c.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, got, want)
}

func TestCoverage(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 5))
	for range 300 {
		var c coverage
		covered := make([]bool, 100)
		for range 60 {
			start := random.IntN(100)
			end := start + 1 + random.IntN(min(12, 100-start))
			fresh := !slices.Contains(covered[start:end], true)
			if got := c.add(uint64(start), uint64(end)); got != fresh {
				t.Fatalf("adding [%d, %d) to %v: %v", start, end, c.ranges, got)
			}
			if fresh {
				for i := start; i < end; i++ {
					covered[i] = true
				}
			}
			if got := c.all(100); got == slices.Contains(covered, false) {
				t.Fatalf("%v: all is %v", c.ranges, got)
			}
		}
	}
	var c coverage
	for i := range uint64(maxGaps) {
		if !c.add(2*i, 2*i+1) {
			t.Fatal("refused too soon")
		}
	}
	if c.add(1<<40, 1<<40+1) {
		t.Error("gaps are not bounded")
	}
}
