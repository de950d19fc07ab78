package nbd

import (
	"sync"
	"syscall"
	"testing"

	"github.com/rowan-storage/rowan/nbd/wire"
)

// writtenPieces records the pieces in which d is written.
type writtenPieces struct {
	mu     sync.Mutex
	pieces [][2]int64 // offset, length
}

func (w *writtenPieces) record(off int64, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pieces = append(w.pieces, [2]int64{off, int64(n)})
}

func (w *writtenPieces) get() [][2]int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pieces
}

// TestLargeWriteInPieces: whatever the client's pace, a large payload is
// written once, in order, in pieces that end at block boundaries.
func TestLargeWriteInPieces(t *testing.T) {
	const off, n = 4096*3 + 512, 1<<20 + 1000
	for _, step := range []int{777, 4096, 100 << 10, n} {
		d := newMemDevice(2 << 20)
		var w writtenPieces
		d.onWrite = func(off int64, n int) error { w.record(off, n); return nil }
		c := entered(t, serveDevice(t, d), wire.Simple)
		payload := make([]byte, n)
		for i := range payload {
			payload[i] = byte(i * 31 >> 3)
		}
		req := wire.Request{Type: wire.CmdWrite, Cookie: 9, Offset: off, Length: n}
		c.request(req)
		for p := payload; len(p) > 0; p = p[min(step, len(p)):] {
			c.send(p[:min(step, len(p))])
		}
		if a := c.read(req); a.errno != 0 {
			t.Fatalf("in steps of %d: %v", step, a.errno)
		}
		wantEqual(t, d.bytes(off, n), payload)
		at := int64(off)
		for _, p := range w.get() {
			if p[0] != at {
				t.Fatalf("in steps of %d: a piece at %d, want %d", step, p[0], at)
			}
			at += p[1]
			if last := at == off+n; !last && (at%pieceAlign != 0 || p[1] < minPieceBytes-pieceAlign) {
				t.Errorf("in steps of %d: a piece of %d bytes at %d", step, p[1], p[0])
			}
		}
		if at != off+n {
			t.Errorf("in steps of %d: written up to %d, want %d", step, at, off+n)
		}
	}
}

// TestLargeWriteThatFails: the rest of the payload is taken, the error is
// answered once, and the connection goes on.
func TestLargeWriteThatFails(t *testing.T) {
	d := newMemDevice(2 << 20)
	var w writtenPieces
	d.onWrite = func(off int64, n int) error {
		w.record(off, n)
		if off > 0 {
			return syscall.ENOSPC
		}
		return nil
	}
	c := entered(t, serveDevice(t, d), wire.Structured)
	req := wire.Request{Type: wire.CmdWrite, Cookie: 3, Length: 1 << 20}
	c.wantErrno(wire.ENOSPC, req, make([]byte, 1<<20)...)
	if got := len(w.get()); got != 2 {
		t.Errorf("%d pieces were tried, want 2: none after the one that failed", got)
	}
	c.wantErrno(0, wire.Request{Type: wire.CmdRead, Cookie: 4, Length: 4096})
}

// TestLargeWriteBreaksOff: what arrived of a payload may be written, nothing
// else is.
func TestLargeWriteBreaksOff(t *testing.T) {
	d := newMemDevice(2 << 20)
	s := serveDevice(t, d)
	c := entered(t, s, wire.Simple)
	c.request(wire.Request{Type: wire.CmdWrite, Length: 1 << 20})
	payload := make([]byte, 300<<10)
	for i := range payload {
		payload[i] = 0xa5
	}
	c.send(payload)
	c.Close()
	eventually(t, "the connection is gone", func() bool { return s.clients() == 0 })
	for i, b := range d.bytes(0, 2<<20) {
		if b != 0 && (b != 0xa5 || i >= len(payload)) {
			t.Fatalf("byte %d is %#x", i, b)
		}
	}
}
