package nbd

import (
	"context"
	"encoding/binary"
	"slices"
	"syscall"
	"testing"

	"github.com/rowan-storage/rowan/nbd/wire"
)

const (
	allocation = "base:allocation"
	monday     = "rowan:changed-since:monday"
	mondayQEMU = "qemu:dirty-bitmap:monday"
)

// statusDevice has data in pages 2 and 3, and page 3 changed since monday.
func statusDevice() *memDevice {
	d := newMemDevice(10 * testPage)
	d.fill(2*testPage, 2*testPage)
	d.snapshot("monday")
	d.WriteAt([]byte("new"), 3*testPage)
	return d
}

func serveStatus(t *testing.T, d Device) *testServer {
	return serve(t, Config{Logger: testLogger(t)}, map[string]*Export{"": {Device: d, ChangeContexts: []string{"monday"}}})
}

type extents = []extent

func wantStatus(t *testing.T, a answer, want map[uint32]extents) {
	t.Helper()
	for id, w := range want {
		if !slices.Equal(a.status[id], w) {
			t.Errorf("context %d: %v, want %v", id, a.status[id], w)
		}
	}
	if len(a.status) != len(want) {
		t.Errorf("status of %d contexts, want %d", len(a.status), len(want))
	}
}

func TestBlockStatus(t *testing.T) {
	const hole = uint64(wire.StateHole | wire.StateZero)
	s := serveStatus(t, statusDevice())
	for _, style := range []wire.Style{wire.Structured, wire.Extended} {
		c := entered(t, s, style, allocation, monday, mondayQEMU)
		want := wire.ChunkBlockStatus
		if style == wire.Extended {
			want = wire.ChunkBlockStatusExt
		}
		a := c.wantErrno(0, wire.Request{Type: wire.CmdBlockStatus, Offset: 100, Length: 8 * testPage})
		wantChunks(t, a, want, want, want)
		changed := extents{{3*testPage - 100, 0}, {testPage, 1}, {4*testPage + 100, 0}}
		wantStatus(t, a, map[uint32]extents{
			1: {{2*testPage - 100, hole}, {2 * testPage, 0}, {4*testPage + 100, hole}}, 2: changed, 3: changed,
		})
		a = c.wantErrno(0, wire.Request{Type: wire.CmdBlockStatus, Offset: 2 * testPage, Length: 100, Flags: wire.CmdFlagReqOne})
		wantStatus(t, a, map[uint32]extents{1: {{100, 0}}, 2: {{100, 0}}, 3: {{100, 0}}})
		a = c.wantErrno(0, wire.Request{
			Type: wire.CmdBlockStatus, Offset: 2 * testPage, Length: 8 * testPage, Flags: wire.CmdFlagReqOne,
		})
		wantStatus(t, a, map[uint32]extents{1: {{2 * testPage, 0}}, 2: {{testPage, 0}}, 3: {{testPage, 0}}})
		for _, req := range []wire.Request{
			{Offset: 0, Length: 0}, {Offset: 10 * testPage, Length: 1}, {Offset: 1, Length: 10 * testPage},
		} {
			req.Type = wire.CmdBlockStatus
			c.wantErrno(wire.EINVAL, req)
		}
	}
}

// With extended headers a client names the contexts that it wants to know of
// in the payload of the request.
func TestBlockStatusWithPayload(t *testing.T) {
	c := entered(t, serveStatus(t, statusDevice()), wire.Extended, allocation, monday)
	payload := func(n uint64, ids ...uint32) []byte {
		b := binary.BigEndian.AppendUint64(nil, n)
		for _, id := range ids {
			b = binary.BigEndian.AppendUint32(b, id)
		}
		return b
	}
	do := func(want wire.Errno, offset uint64, b []byte) answer {
		t.Helper()
		return c.wantErrno(want, wire.Request{Type: wire.CmdBlockStatus, Offset: offset, Length: uint64(len(b))}, b...)
	}
	wantStatus(t, do(0, 3*testPage, payload(testPage, 2)), map[uint32]extents{2: {{testPage, 1}}})
	wantStatus(t, do(0, 3*testPage, payload(testPage, 2, 1)), map[uint32]extents{2: {{testPage, 1}}, 1: {{testPage, 0}}})
	for name, b := range map[string][]byte{
		"no ids": payload(testPage), "an unknown id": payload(testPage, 9), "an id twice": payload(testPage, 1, 1),
		"no length": payload(0, 1), "too long": payload(10*testPage+1, 1), "2^64": payload(1<<64-1, 1),
		"cut short": payload(testPage, 1)[:11], "too many": payload(testPage, make([]uint32, 3)...),
		"a flood": payload(testPage, make([]uint32, 10000)...), "a large flood": payload(testPage, make([]uint32, 100000)...),
	} {
		if a := do(wire.EINVAL, 0, b); a.errno == 0 {
			t.Error(name)
		}
	}
}

// A map with more extents than a reply may hold is told in part.
func TestBlockStatusIsBounded(t *testing.T) {
	const pages = 3 * statusContextBytes / 8
	d := newMemDevice(pages * testPage)
	for p := 0; p < pages; p += 2 {
		d.mapped[p] = true
	}
	s := serveStatus(t, d)
	for _, style := range []wire.Style{wire.Structured, wire.Extended} {
		c := entered(t, s, style, allocation)
		at, replies := uint64(0), 0
		for at < pages*testPage {
			a := c.wantErrno(0, wire.Request{Type: wire.CmdBlockStatus, Offset: at, Length: pages*testPage - at})
			if n := len(a.status[1]); n == 0 || style.ChunkBytes()+style.StatusBytes(n) > statusContextBytes {
				t.Fatalf("%d extents", n)
			}
			for _, e := range a.status[1] {
				if e.length != testPage || (e.flags == 0) != (at/testPage%2 == 0) {
					t.Fatalf("extent %v at %d", e, at)
				}
				at += e.length
			}
			replies++
		}
		if replies < 3 {
			t.Errorf("told in %d replies", replies)
		}
	}
}

// oddDevice says strange things about its extents.
type oddDevice struct {
	*memDevice
	extents func(off, n int64, yield func(int64, bool) bool) error
}

func (d oddDevice) Extents(_ context.Context, off, n int64, yield func(int64, bool) bool) error {
	return d.extents(off, n, yield)
}

func TestBlockStatusOfOddDevices(t *testing.T) {
	for name, test := range map[string]struct {
		extents func(off, n int64, yield func(int64, bool) bool) error
		errno   wire.Errno
		want    extents
	}{
		"says nothing":   {func(int64, int64, func(int64, bool) bool) error { return nil }, wire.EIO, nil},
		"fails":          {func(int64, int64, func(int64, bool) bool) error { return syscall.ENOSPC }, wire.ENOSPC, nil},
		"says too much":  {func(_, n int64, y func(int64, bool) bool) error { y(n*2, true); return nil }, 0, extents{{8192, 0}}},
		"empty extent":   {func(_, n int64, y func(int64, bool) bool) error { y(0, true); return nil }, wire.EIO, nil},
		"negative":       {func(_, n int64, y func(int64, bool) bool) error { y(-5, true); return nil }, wire.EIO, nil},
		"does not stop":  {func(_, n int64, y func(int64, bool) bool) error { y(n, true); y(n, false); return nil }, 0, extents{{8192, 0}}},
		"stops too soon": {func(_, n int64, y func(int64, bool) bool) error { y(512, true); return nil }, 0, extents{{512, 0}}},
	} {
		d := newMemDevice(1 << 20)
		d.fill(0, 1<<20)
		c := entered(t, serveStatus(t, oddDevice{d, test.extents}), wire.Structured, allocation)
		a := c.wantErrno(test.errno, wire.Request{Type: wire.CmdBlockStatus, Offset: 4096, Length: 8192})
		if test.errno == 0 && !slices.Equal(a.status[1], test.want) {
			t.Errorf("%s: %v, want %v", name, a.status, test.want)
		}
		// A read does without such a device's opinion.
		a = c.wantErrno(0, wire.Request{Type: wire.CmdRead, Offset: 4096, Length: 100 << 10})
		wantEqual(t, a.data, d.data[4096:4096+100<<10])
	}
}

// Extended headers let one request be about more than 4 GiB.
func TestExtendedRequestsBeyond4GiB(t *testing.T) {
	const size = 5 << 40
	d := &hugeDevice{size: size}
	c := entered(t, serveStatus(t, d), wire.Extended, allocation)
	a := c.wantErrno(0, wire.Request{Type: wire.CmdBlockStatus, Offset: 1 << 20, Length: size - 1<<20})
	wantStatus(t, a, map[uint32]extents{1: {{size - 1<<20, 3}}})
	c.wantErrno(0, wire.Request{Type: wire.CmdTrim, Offset: 512, Length: size - 512})
	c.wantErrno(0, wire.Request{Type: wire.CmdWriteZeroes, Offset: 0, Length: size, Flags: wire.CmdFlagFastZero | wire.CmdFlagFUA})
	if want := [][2]int64{{512, size - 512}, {0, size}}; !slices.Equal(d.ranges, want) {
		t.Errorf("%v, want %v", d.ranges, want)
	}
	c.wantErrno(wire.EINVAL, wire.Request{Type: wire.CmdTrim, Offset: 512, Length: size})
	c.wantErrno(wire.EINVAL, wire.Request{Type: wire.CmdTrim, Offset: 1, Length: 1<<64 - 1})
	c.wantErrno(wire.EINVAL, wire.Request{Type: wire.CmdRead, Length: 1 << 33})
	c.wantErrno(wire.EINVAL, wire.Request{Type: wire.CmdCache, Length: 1 << 33})
	// A write needs the flag, and no other command may have it.
	c.wantErrno(wire.EINVAL, wire.Request{Type: wire.CmdWrite, Length: 512})
	c.wantErrno(wire.EINVAL, wire.Request{Type: wire.CmdTrim, Length: 4}, 1, 2, 3, 4)
	c.wantErrno(wire.EINVAL, wire.Request{Type: wire.CmdRead, Length: 1 << 20}, make([]byte, 1<<20)...)
	c.wantErrno(wire.EINVAL, wire.Request{Type: 99, Length: 4}, 1, 2, 3, 4)
	c.wantErrno(0, wire.Request{Type: wire.CmdFlush})
}

// hugeDevice is large and empty. It records what is zeroed or discarded.
type hugeDevice struct {
	size   int64
	ranges [][2]int64
}

func (d *hugeDevice) ReadAt(p []byte, _ int64) (int, error)  { clear(p); return len(p), nil }
func (d *hugeDevice) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (d *hugeDevice) Size() int64                            { return d.size }
func (d *hugeDevice) Flush(context.Context) error            { return nil }
func (d *hugeDevice) Discard(_ context.Context, off, n int64) error {
	d.ranges = append(d.ranges, [2]int64{off, n})
	return nil
}
func (d *hugeDevice) WriteZeroes(ctx context.Context, off, n int64) error {
	return d.Discard(ctx, off, n)
}
func (d *hugeDevice) Extents(_ context.Context, off, n int64, yield func(int64, bool) bool) error {
	for n > 0 && yield(min(n, 1<<30), false) {
		n -= min(n, 1<<30)
	}
	return nil
}
