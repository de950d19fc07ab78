package nbd

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/nbd/wire"
)

// lengths are those at which the way that a request takes changes.
func lengths() []uint64 {
	return []uint64{
		1, 511, 512, 4096, maxBatchedRead, maxBatchedRead + 1, maxInboxPayload, maxInboxPayload + 1,
		batchBytes - 100, batchBytes, inboxBytes, arrivingBytes, arrivingBytes + 1, maxInlineRead + 1, 1 << 20,
	}
}

func TestReadAndWriteOfAllLengths(t *testing.T) {
	for _, style := range styles() {
		for name, device := range map[string]func(*memDevice) Device{
			"mem":   func(d *memDevice) Device { return d },
			"plain": func(d *memDevice) Device { return plainDevice{d} },
		} {
			t.Run(fmt.Sprint(name, style), func(t *testing.T) {
				d := newMemDevice(3 << 20)
				c := entered(t, serveDevice(t, device(d)), style)
				random := rand.NewChaCha8([32]byte{1})
				for i, n := range lengths() {
					payload := make([]byte, n)
					random.Read(payload)
					off := uint64(i*4321 + 77)
					c.wantErrno(0, wire.Request{Type: wire.CmdWrite, Cookie: 5, Offset: off, Length: n}, payload...)
					wantEqual(t, d.data[off:off+n], payload)
					a := c.wantErrno(0, wire.Request{Type: wire.CmdRead, Cookie: ^uint64(0), Offset: off, Length: n})
					wantEqual(t, a.data, payload)
				}
				c.request(wire.Request{Type: wire.CmdDisc})
				c.wantClosed()
			})
		}
	}
}

func TestLongestRequests(t *testing.T) {
	d := newMemDevice(wire.MaxPayload + 4096)
	c := entered(t, serveDevice(t, d), wire.Structured)
	payload := bytes.Repeat([]byte("0123456789abcdef"), wire.MaxPayload/16)
	c.wantErrno(0, wire.Request{Type: wire.CmdWrite, Offset: 4096, Length: wire.MaxPayload}, payload...)
	a := c.wantErrno(0, wire.Request{Type: wire.CmdRead, Offset: 4096, Length: wire.MaxPayload, Flags: wire.CmdFlagDF})
	wantEqual(t, a.data, payload)
	wantChunks(t, a, wire.ChunkOffsetData)
}

func TestRequestsThatAreRefused(t *testing.T) {
	const size = 1 << 20
	d := newMemDevice(size)
	s := serve(t, Config{}, map[string]*Export{"": {Device: d}})
	const top = ^uint64(0)
	cases := []struct {
		want wire.Errno
		req  wire.Request
	}{
		{wire.EINVAL, wire.Request{Type: wire.CmdRead, Offset: size, Length: 1}},
		{wire.EINVAL, wire.Request{Type: wire.CmdRead, Offset: size - 511, Length: 512}},
		{wire.EINVAL, wire.Request{Type: wire.CmdRead, Offset: top, Length: 1}},
		{wire.EINVAL, wire.Request{Type: wire.CmdRead, Offset: top - 4095, Length: 4096}}, // the sum is 0
		{wire.EINVAL, wire.Request{Type: wire.CmdRead, Offset: 1 << 63, Length: 512}},
		{wire.EINVAL, wire.Request{Type: wire.CmdRead, Length: wire.MaxPayload + 1}},
		{wire.EINVAL, wire.Request{Type: wire.CmdRead, Length: 1<<32 - 1}},
		{wire.EINVAL, wire.Request{Type: wire.CmdTrim, Offset: size - 1, Length: 2}},
		{wire.EINVAL, wire.Request{Type: wire.CmdTrim, Offset: 1, Length: 1<<32 - 1}},
		{wire.EINVAL, wire.Request{Type: wire.CmdCache, Offset: size, Length: 1}},
		{wire.ENOSPC, wire.Request{Type: wire.CmdWriteZeroes, Offset: size, Length: 1}},
		{wire.ENOSPC, wire.Request{Type: wire.CmdWriteZeroes, Offset: top, Length: 1<<32 - 1}},
		{wire.EINVAL, wire.Request{Type: wire.CmdBlockStatus, Length: 1}}, // no context
		{wire.EINVAL, wire.Request{Type: wire.CmdFlush, Offset: 1}},
		{wire.EINVAL, wire.Request{Type: wire.CmdFlush, Length: 1}},
		{wire.EINVAL, wire.Request{Type: 8, Length: 512}},
		{wire.EINVAL, wire.Request{Type: 0xffff}},
		{wire.EINVAL, wire.Request{Type: wire.CmdRead, Length: 512, Flags: wire.CmdFlagNoHole}},
		{wire.EINVAL, wire.Request{Type: wire.CmdRead, Length: 512, Flags: 1 << 15}},
		{wire.EINVAL, wire.Request{Type: wire.CmdTrim, Length: 512, Flags: wire.CmdFlagDF}},
		{wire.EINVAL, wire.Request{Type: wire.CmdWriteZeroes, Length: 512, Flags: wire.CmdFlagReqOne}},
		{wire.EINVAL, wire.Request{Type: wire.CmdFlush, Flags: wire.CmdFlagFastZero}},
		{wire.EINVAL, wire.Request{Type: wire.CmdCache, Length: 512, Flags: wire.CmdFlagNoHole}},
		{wire.ENOTSUP, wire.Request{Type: wire.CmdWriteZeroes, Length: 512, Flags: wire.CmdFlagFastZero | wire.CmdFlagNoHole}},
	}
	for _, style := range styles() {
		c := entered(t, s, style)
		for _, test := range cases {
			a := c.wantErrno(test.want, test.req)
			if style != wire.Simple {
				wantChunks(t, a, wire.ChunkError)
			}
		}
		for _, req := range []wire.Request{
			{Type: wire.CmdWrite, Offset: size - 511, Length: 512},
			{Type: wire.CmdWrite, Offset: top - 511, Length: 512},
			{Type: wire.CmdWrite, Offset: size, Length: 1 << 20},
		} {
			c.wantErrno(wire.ENOSPC, req, make([]byte, req.Length)...)
		}
		c.wantErrno(wire.EINVAL, wire.Request{Type: wire.CmdWrite, Length: 512, Flags: wire.CmdFlagNoHole}, make([]byte, 512)...)
		c.wantErrno(0, wire.Request{Type: wire.CmdRead, Offset: size - 1, Length: 1})
		df := wire.Errno(0)
		if style == wire.Simple {
			df = wire.EINVAL // it was not advertised
		}
		c.wantErrno(df, wire.Request{Type: wire.CmdRead, Length: 512, Flags: wire.CmdFlagDF})
	}
	if d.writes.Load() != 0 || d.discards.Load() != 0 || d.zeroes.Load() != 0 {
		t.Error("a refused request reached the device")
	}
}

func TestReadOnlyExport(t *testing.T) {
	d := newMemDevice(1 << 20)
	s := serve(t, Config{}, map[string]*Export{"": {Device: d, ReadOnly: true}})
	c := entered(t, s, wire.Structured)
	for _, n := range []uint64{512, 1 << 20} {
		c.wantErrno(wire.EPERM, wire.Request{Type: wire.CmdWrite, Length: n}, make([]byte, n)...)
	}
	c.wantErrno(wire.EPERM, wire.Request{Type: wire.CmdTrim, Length: 512})
	c.wantErrno(wire.EPERM, wire.Request{Type: wire.CmdWriteZeroes, Length: 512})
	c.wantErrno(0, wire.Request{Type: wire.CmdFlush})
	c.wantErrno(0, wire.Request{Type: wire.CmdRead, Length: 512, Flags: wire.CmdFlagFUA})
}

func TestEmptyRequests(t *testing.T) {
	for _, style := range styles() {
		c := entered(t, serveDevice(t, newMemDevice(4096)), style)
		for _, cmd := range []wire.Command{wire.CmdRead, wire.CmdTrim, wire.CmdCache, wire.CmdWriteZeroes} {
			c.wantErrno(0, wire.Request{Type: cmd, Offset: 4096})
		}
		if style != wire.Extended {
			c.wantErrno(0, wire.Request{Type: wire.CmdWrite})
		}
	}
}

func TestFUA(t *testing.T) {
	d := newMemDevice(1 << 20)
	c := entered(t, serveDevice(t, d), wire.Simple)
	for _, n := range []uint64{512, maxInboxPayload + 1, arrivingBytes + 1} {
		for _, cmd := range []wire.Command{wire.CmdWrite, wire.CmdTrim, wire.CmdWriteZeroes} {
			for _, flags := range []uint16{0, wire.CmdFlagFUA} {
				before := d.flushes.Load()
				var payload []byte
				if cmd == wire.CmdWrite {
					payload = make([]byte, n)
				}
				c.wantErrno(0, wire.Request{Type: cmd, Length: n, Flags: flags}, payload...)
				if fua := flags != 0; fua != (d.flushes.Load() == before+1) || fua == d.unflushed.Load() {
					t.Errorf("%v of %d, flags %d: %d flushes", cmd, n, flags, d.flushes.Load()-before)
				}
			}
		}
	}
	d.onFlush = func(int64, int) error { return syscall.EIO }
	c.wantErrno(wire.EIO, wire.Request{Type: wire.CmdWrite, Length: 1, Flags: wire.CmdFlagFUA}, 1)
	c.wantErrno(wire.EIO, wire.Request{Type: wire.CmdFlush})
}

func TestWriteZeroes(t *testing.T) {
	const n = scratchBytes*2 + 100
	for _, test := range []struct {
		flags          uint16
		plain          bool
		want           wire.Errno
		zeroes, writes int64
	}{
		{0, false, 0, 1, 0},
		{wire.CmdFlagFastZero, false, 0, 1, 0},
		{wire.CmdFlagNoHole, false, 0, 0, 3}, // written, to take up space
		{0, true, 0, 0, 3},                   // the device cannot
		{wire.CmdFlagFastZero, true, wire.ENOTSUP, 0, 0},
	} {
		d := newMemDevice(1 << 20)
		d.fill(0, 1<<20)
		want := slices.Clone(d.data)
		var device Device = d
		if test.plain {
			device = plainDevice{d}
		}
		c := entered(t, serveDevice(t, device), wire.Structured)
		c.wantErrno(test.want, wire.Request{Type: wire.CmdWriteZeroes, Offset: 1000, Length: n, Flags: test.flags})
		if test.want == 0 {
			clear(want[1000 : 1000+n])
		}
		wantEqual(t, d.data, want)
		if z, w := d.zeroes.Load(), d.writes.Load(); z != test.zeroes || w != test.writes {
			t.Errorf("%+v: %d zeroes, %d writes", test, z, w)
		}
	}
}

func TestTrimIsAHint(t *testing.T) {
	d := newMemDevice(1 << 20)
	c := entered(t, serveDevice(t, plainDevice{d}), wire.Structured)
	c.wantErrno(0, wire.Request{Type: wire.CmdTrim, Length: 1 << 20})
}

func TestCacheReads(t *testing.T) {
	d := newMemDevice(1 << 20)
	c := entered(t, serveDevice(t, d), wire.Structured)
	c.wantErrno(0, wire.Request{Type: wire.CmdCache, Offset: 100, Length: 1<<20 - 100})
	if d.reads.Load() != 4 {
		t.Errorf("%d reads", d.reads.Load())
	}
}

func TestSparseRead(t *testing.T) {
	const size = 1 << 20
	d := newMemDevice(size)
	d.fill(64<<10, 64<<10)
	d.fill(256<<10, 4096)
	d.fill(size-8192, 4096)
	s := serveDevice(t, plainExtents{plainDevice{d}, d})
	data, hole := wire.ChunkOffsetData, wire.ChunkOffsetHole
	for _, style := range []wire.Style{wire.Structured, wire.Extended} {
		c := entered(t, s, style)
		for _, test := range []struct {
			off, n uint64
			flags  uint16
			chunks []wire.ChunkType
		}{
			{0, size, 0, []wire.ChunkType{hole, data, hole, data, hole, data, hole}},
			{0, size, wire.CmdFlagDF, []wire.ChunkType{data}},
			{64 << 10, 64 << 10, 0, []wire.ChunkType{data}},
			{0, 64 << 10, 0, []wire.ChunkType{hole}},
			{100, 64 << 10, 0, []wire.ChunkType{hole, data}},
			{100 << 10, 100<<10 + 1, 0, []wire.ChunkType{data, hole}},
			{256<<10 - 4096, 64 << 10, 0, []wire.ChunkType{hole, data, hole}},
			{256<<10 - 4095, 64 << 10, 0, []wire.ChunkType{data, hole}}, // too short a hole
			{0, minSparseRead - 1, 0, []wire.ChunkType{data}},           // not worth the asking
		} {
			a := c.wantErrno(0, wire.Request{Type: wire.CmdRead, Offset: test.off, Length: test.n, Flags: test.flags})
			wantEqual(t, a.data, d.data[test.off:test.off+test.n])
			wantChunks(t, a, test.chunks...)
		}
	}
}

// plainExtents is a plainDevice that tells its extents.
type plainExtents struct {
	plainDevice
	extenter
}

func TestSparseReadHasBoundedChunks(t *testing.T) {
	const size = 4 * maxReadChunks * testPage
	d := newMemDevice(size)
	for i := 0; i < size; i += 2 * testPage {
		d.fill(i, testPage)
	}
	c := entered(t, serveDevice(t, d), wire.Structured)
	a := c.wantErrno(0, wire.Request{Type: wire.CmdRead, Length: size})
	wantEqual(t, a.data, d.data)
	if n := len(a.chunks); n > maxReadChunks || n < maxReadChunks-2 {
		t.Errorf("%d chunks", len(a.chunks))
	}
}

func TestDeviceErrorsAreMapped(t *testing.T) {
	d := newMemDevice(1 << 20)
	d.fill(0, 1<<20)
	var fail error
	h := func(int64, int) error { return fail }
	d.onRead, d.onWrite, d.onFlush = h, h, h
	s := serveDevice(t, d)
	for _, style := range styles() {
		c := entered(t, s, style)
		for errno, want := range map[error]wire.Errno{
			syscall.ENOSPC: wire.ENOSPC, syscall.EDQUOT: wire.ENOSPC, syscall.EROFS: wire.EPERM,
			syscall.ESTALE: wire.EIO, syscall.ENOMEM: wire.ENOMEM, syscall.ESHUTDOWN: wire.ESHUTDOWN,
			errors.New("some/secret/path: unknown"): wire.EIO,
		} {
			fail = fmt.Errorf("some/secret/path: %w", errno)
			for _, n := range []uint64{512, 200 << 10} {
				a := c.wantErrno(want, wire.Request{Type: wire.CmdRead, Length: n})
				b := c.wantErrno(want, wire.Request{Type: wire.CmdWrite, Length: n}, make([]byte, n)...)
				if strings.Contains(a.message+b.message, "secret") {
					t.Errorf("the client is told %q", a.message)
				}
			}
			c.wantErrno(want, wire.Request{Type: wire.CmdFlush})
		}
	}
}

func TestGrownExport(t *testing.T) {
	d := newMemDevice(1 << 20)
	s := serveDevice(t, d)
	c := entered(t, s, wire.Simple)
	c.wantErrno(wire.EINVAL, wire.Request{Type: wire.CmdRead, Offset: 1 << 20, Length: 512})
	d.grow(2 << 20)
	c.wantErrno(0, wire.Request{Type: wire.CmdRead, Offset: 1 << 20, Length: 512})
	o := greeted(t, s)
	o.option(wire.OptInfo, wire.AppendInfoRequest(nil, ""))
	if size, _, _ := wire.ParseExportInfo(o.wantReply(wire.RepInfo)); size != 2<<20 {
		t.Errorf("a new client is told %d bytes", size)
	}
}

type recordingObserver struct {
	mu             sync.Mutex
	opened, closed int
	requests       []RequestStats
}

func (o *recordingObserver) ConnectionOpened() { o.mu.Lock(); o.opened++; o.mu.Unlock() }
func (o *recordingObserver) ConnectionClosed() { o.mu.Lock(); o.closed++; o.mu.Unlock() }
func (o *recordingObserver) RequestDone(r RequestStats) {
	o.mu.Lock()
	o.requests = append(o.requests, r)
	o.mu.Unlock()
}

func TestObserver(t *testing.T) {
	o := &recordingObserver{}
	d := newMemDevice(1 << 20)
	d.onFlush = func(int64, int) error { time.Sleep(time.Millisecond); return syscall.EIO }
	s := serve(t, Config{Observer: o}, map[string]*Export{"": {Device: d}})
	c := entered(t, s, wire.Simple)
	c.do(wire.Request{Type: wire.CmdRead, Length: 4096})
	c.do(wire.Request{Type: wire.CmdRead, Length: 512 << 10})
	c.do(wire.Request{Type: wire.CmdWrite, Length: 1}, 1)
	c.do(wire.Request{Type: wire.CmdRead, Offset: 1 << 20, Length: 1})
	c.do(wire.Request{Type: wire.CmdFlush})
	c.Close()
	eventually(t, "the connection is closed", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.closed == 1
	})
	type brief struct {
		kind  wire.Command
		bytes uint64
		errno wire.Errno
	}
	var got []brief
	for _, r := range o.requests {
		got = append(got, brief{r.Kind, r.Bytes, r.Errno})
		if r.Duration <= 0 || r.Kind == wire.CmdFlush && r.Duration < time.Millisecond || r.Duration > waitTime {
			t.Errorf("%v took %v", r.Kind, r.Duration)
		}
	}
	want := []brief{
		{wire.CmdRead, 4096, 0}, {wire.CmdRead, 512 << 10, 0}, {wire.CmdWrite, 1, 0},
		{wire.CmdRead, 1, wire.EINVAL}, {wire.CmdFlush, 0, wire.EIO},
	}
	if !slices.Equal(got, want) || o.opened != 1 {
		t.Errorf("%v, want %v; %d opened", got, want, o.opened)
	}
}

func TestRequestsOfTheWrongFormEndTheConnection(t *testing.T) {
	s := serveDevice(t, newMemDevice(1<<20))
	for name, b := range map[string][]byte{
		"wrong magic": make([]byte, wire.RequestSize),
		"an extended request in a structured session": wire.AppendRequest(nil, wire.Request{Length: 512}, true),
		"a write of 4 GiB":                            wire.AppendRequest(nil, wire.Request{Type: wire.CmdWrite, Length: 1<<32 - 1}, false),
		"a write of a byte too much":                  wire.AppendRequest(nil, wire.Request{Type: wire.CmdWrite, Length: wire.MaxPayload + 1}, false),
	} {
		c := entered(t, s, wire.Structured)
		c.send(b)
		if c.wantClosed(); t.Failed() {
			t.Fatal(name)
		}
	}
	wantAlive(t, s)
}
