package wire

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestRequestRoundTrip(t *testing.T) {
	for _, test := range []struct {
		extended bool
		req      Request
		want     string
	}{
		{false, Request{CmdFlagFUA, CmdWrite, 0x1122334455667788, 0x99, 0x1000},
			"25609513" + "0001" + "0001" + "1122334455667788" + "0000000000000099" + "00001000"},
		{true, Request{CmdFlagNoHole, CmdWriteZeroes, 1, 2, 1 << 40},
			"21e41c71" + "0002" + "0006" + "0000000000000001" + "0000000000000002" + "0000010000000000"},
	} {
		b := AppendRequest(nil, test.req, test.extended)
		if got := hex.EncodeToString(b); got != test.want {
			t.Errorf("%s, want %s", got, test.want)
		}
		if got, err := ParseRequest(b, test.extended); got != test.req || err != nil {
			t.Errorf("%v, %v; want %v", got, err, test.req)
		}
		if _, err := ParseRequest(b, !test.extended); !errors.Is(err, ErrMalformed) {
			t.Errorf("in the other style: %v", err)
		}
		if _, err := ParseRequest(b[:len(b)-1], test.extended); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut short: %v", err)
		}
	}
}

func TestPayloadBytes(t *testing.T) {
	for _, test := range []struct {
		extended bool
		req      Request
		want     uint64
	}{
		{false, Request{Type: CmdWrite, Length: 5}, 5},
		{false, Request{Type: CmdRead, Length: 5}, 0},
		{false, Request{Type: CmdRead, Length: 5, Flags: CmdFlagPayloadLen}, 0},
		{true, Request{Type: CmdWrite, Length: 5}, 0},
		{true, Request{Type: CmdWrite, Length: 5, Flags: CmdFlagPayloadLen}, 5},
		{true, Request{Type: 99, Length: 1 << 40, Flags: CmdFlagPayloadLen}, 1 << 40},
	} {
		if got := test.req.PayloadBytes(test.extended); got != test.want {
			t.Errorf("%+v: %d", test, got)
		}
	}
}

func TestStatusPayload(t *testing.T) {
	b := []byte("\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x08")
	n, ids, err := ParseStatusPayload(b, 2)
	if n != 1<<32 || !slices.Equal(ids, []uint32{7, 8}) || err != nil {
		t.Errorf("%d %v %v", n, ids, err)
	}
	if _, _, err := ParseStatusPayload(b, 1); !errors.Is(err, ErrTooMany) {
		t.Errorf("too many: %v", err)
	}
	for _, n := range []int{0, 7, 8, 11, 13, 15} {
		if _, _, err := ParseStatusPayload(b[:n], 2); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
}

func TestReplyHeaders(t *testing.T) {
	chunk := Chunk{Flags: ChunkFlagDone, Type: ChunkOffsetData, Cookie: 0x0102030405060708, Offset: 0x99, Length: 0x1008}
	b := make([]byte, SimpleReplySize)
	PutSimpleReply(b, chunk.Cookie, ENOSPC)
	if got, want := hex.EncodeToString(b), "67446698"+"0000001c"+"0102030405060708"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for _, s := range []Style{Simple, Structured} {
		r, err := ParseReply(b, s)
		if want := (Reply{Simple: true, Errno: ENOSPC, Chunk: Chunk{Cookie: chunk.Cookie}}); r != want || err != nil {
			t.Errorf("%v, %v; want %v", r, err, want)
		}
	}
	if _, err := ParseReply(b, Extended); !errors.Is(err, ErrMalformed) {
		t.Errorf("a simple reply with extended headers: %v", err)
	}
	for s, want := range map[Style]string{
		Structured: "668e33ef" + "0001" + "0001" + "0102030405060708" + "00001008",
		Extended:   "6e8a278c" + "0001" + "0001" + "0102030405060708" + "0000000000000099" + "0000000000001008",
	} {
		b := make([]byte, s.ChunkBytes())
		PutChunk(b, chunk, s)
		if got := hex.EncodeToString(b); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		wantChunk := chunk
		if s == Structured {
			wantChunk.Offset = 0
		}
		if r, err := ParseReply(b, s); err != nil || r != (Reply{Chunk: wantChunk}) {
			t.Errorf("%v, %v", r, err)
		}
		for n := range len(b) {
			if _, err := ParseReply(b[:n], s); !errors.Is(err, ErrMalformed) {
				t.Errorf("cut to %d bytes: %v", n, err)
			}
		}
		if _, err := ParseReply(b, Simple); !errors.Is(err, ErrMalformed) {
			t.Errorf("a chunk where none was negotiated: %v", err)
		}
	}
}

func TestHole(t *testing.T) {
	b := make([]byte, HoleSize)
	PutHole(b, 1<<33, 4096)
	if off, n, err := ParseHole(b); off != 1<<33 || n != 4096 || err != nil {
		t.Errorf("%d %d %v", off, n, err)
	}
	PutHole(b, 0, 0)
	for _, bad := range [][]byte{b, b[:11], append(b, 0)} {
		if _, _, err := ParseHole(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestErrorChunk(t *testing.T) {
	b := AppendError(nil, EINVAL, "no")
	if want := "\x00\x00\x00\x16\x00\x02no"; string(b) != want {
		t.Errorf("%q, want %q", b, want)
	}
	// Of an NBD_REPLY_TYPE_ERROR_OFFSET the start is the same.
	if errno, text, err := ParseError(append(b, 1, 2, 3, 4, 5, 6, 7, 8)); errno != EINVAL || text != "no" || err != nil {
		t.Errorf("%d %q %v", errno, text, err)
	}
	for n := range len(b) {
		if _, _, err := ParseError(b[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	if _, _, err := ParseError(AppendError(nil, 0, "")); !errors.Is(err, ErrMalformed) {
		t.Errorf("an error that is none: %v", err)
	}
	long := AppendError(nil, EIO, strings.Repeat("ü", MaxString))
	if _, text, err := ParseError(long); err != nil || len(text) != MaxString {
		t.Errorf("a long message: %d bytes, %v", len(text), err)
	}
}

func TestBlockStatus(t *testing.T) {
	extents := []StatusExtent{{4096, 3}, {1 << 20, 0}}
	for s, test := range map[Style]struct {
		t    ChunkType
		want string
	}{
		Structured: {ChunkBlockStatus, "00000007" + "00001000" + "00000003" + "00100000" + "00000000"},
		Extended: {ChunkBlockStatusExt, "00000007" + "00000002" +
			"0000000000001000" + "0000000000000003" + "0000000000100000" + "0000000000000000"},
	} {
		b := AppendStatusHead(nil, 7, len(extents), s)
		for _, e := range extents {
			b = AppendStatusExtent(b, e, s)
		}
		if got := hex.EncodeToString(b); got != test.want || len(b) != s.StatusBytes(len(extents)) {
			t.Errorf("%s, want %s", got, test.want)
		}
		if id, got, err := ParseStatus(b, test.t); id != 7 || !slices.Equal(got, extents) || err != nil {
			t.Errorf("%d %v %v", id, got, err)
		}
		for n := range len(b) {
			if _, got, err := ParseStatus(b[:n], test.t); err == nil && n != s.StatusBytes(len(got)) {
				t.Errorf("cut to %d bytes: %v", n, got)
			}
		}
		empty := AppendStatusExtent(AppendStatusHead(nil, 7, 0, s), StatusExtent{0, 1}, s)
		if _, _, err := ParseStatus(empty, test.t); !errors.Is(err, ErrMalformed) {
			t.Errorf("an empty extent: %v", err)
		}
	}
	miscounted := AppendStatusExtent(AppendStatusHead(nil, 7, 2, Extended), StatusExtent{1, 1}, Extended)
	if _, _, err := ParseStatus(miscounted, ChunkBlockStatusExt); !errors.Is(err, ErrMalformed) {
		t.Errorf("a wrong count: %v", err)
	}
}

func TestErrno(t *testing.T) {
	for err, want := range map[error]Errno{
		nil: 0, syscall.Errno(0): 0,
		syscall.EPERM: EPERM, syscall.EACCES: EPERM, syscall.EROFS: EPERM,
		syscall.EIO: EIO, syscall.ESTALE: EIO, syscall.EUCLEAN: EIO, syscall.EBUSY: EIO,
		syscall.ENOMEM: ENOMEM, syscall.EINVAL: EINVAL,
		syscall.ENOSPC: ENOSPC, syscall.EDQUOT: ENOSPC, syscall.EFBIG: ENOSPC,
		syscall.EOVERFLOW: EOVERFLOW, syscall.ENOTSUP: ENOTSUP, syscall.ESHUTDOWN: ESHUTDOWN,
		errors.New("any"): EIO, context.Canceled: ESHUTDOWN, context.DeadlineExceeded: EIO,
	} {
		if got := FromError(err); got != want {
			t.Errorf("%v: %d, want %d", err, got, want)
		}
		if err == nil {
			continue
		}
		if got := FromError(fmt.Errorf("wrapped: %w", err)); got != want {
			t.Errorf("wrapped %v: %d, want %d", err, got, want)
		}
	}
	for _, e := range []Errno{0, EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN} {
		if e.Errno() != syscall.Errno(e) {
			t.Errorf("%d is %v on this system", e, e.Errno())
		}
	}
	if Errno(99).Errno() != syscall.EINVAL {
		t.Error("an unknown error is not taken for EINVAL")
	}
}

func TestCommandNames(t *testing.T) {
	if CmdRead.String() != "read" || CmdBlockStatus.String() != "block status" || Command(99).String() != "command 0x63" {
		t.Error("commands have wrong names")
	}
}
