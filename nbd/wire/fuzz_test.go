package wire

import (
	"bytes"
	"testing"
)

func FuzzParseInfoRequest(f *testing.F) {
	f.Add(AppendInfoRequest(nil, "web", InfoName, InfoBlockSize))
	f.Add(AppendInfoRequest(nil, ""))
	f.Add([]byte("\xff\xff\xff\xff\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		name, infos, err := ParseInfoRequest(b)
		if err == nil && !bytes.Equal(AppendInfoRequest(nil, name, infos...), b) {
			t.Errorf("%q parses as %q %v", b, name, infos)
		}
	})
}

func FuzzParseMetaRequest(f *testing.F) {
	f.Add(AppendMetaRequest(nil, "web", "base:allocation", "qemu:dirty-bitmap:monday"))
	f.Add(AppendMetaRequest(nil, "", make([]string, 20)...))
	f.Add([]byte("\x00\x00\x00\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		name, queries, err := ParseMetaRequest(b, 16)
		if err == nil && (len(queries) > 16 || !bytes.Equal(AppendMetaRequest(nil, name, queries...), b)) {
			t.Errorf("%q parses as %q %q", b, name, queries)
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	f.Add(AppendRequest(nil, Request{Type: CmdWrite, Length: 512}, false), false)
	f.Add(AppendRequest(nil, Request{Flags: CmdFlagPayloadLen, Type: CmdWrite, Length: 1 << 40}, true), true)
	f.Fuzz(func(t *testing.T, b []byte, extended bool) {
		r, err := ParseRequest(b, extended)
		if err == nil && !bytes.HasPrefix(b, AppendRequest(nil, r, extended)) {
			t.Errorf("%q parses as %v", b, r)
		}
	})
}

func FuzzParseStatusPayload(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x07"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, ids, err := ParseStatusPayload(b, 4); err == nil && (len(ids) > 4 || len(b) != 8+4*len(ids)) {
			t.Errorf("%q parses as %v", b, ids)
		}
	})
}

// FuzzServerReplies feeds a client's decoders what a server may send.
func FuzzServerReplies(f *testing.F) {
	f.Add(AppendGreeting(nil, 3))
	f.Add(AppendOptionReply(nil, OptGo, RepInfo, nil))
	f.Add(AppendExportInfo(nil, 1<<30, 1))
	f.Add(AppendBlockSizeInfo(nil, BlockSizes{1, 4096, 1 << 25}))
	f.Add(AppendMetaContext(nil, 1, "base:allocation"))
	f.Add(AppendError(nil, EIO, "text"))
	for _, s := range []Style{Structured, Extended} {
		b := make([]byte, s.ChunkBytes())
		PutChunk(b, Chunk{Type: ChunkOffsetHole, Length: HoleSize}, s)
		f.Add(b)
		f.Add(AppendStatusExtent(AppendStatusHead(nil, 1, 1, s), StatusExtent{1, 2}, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ParseGreeting(b)
		ParseOptionReply(b)
		ParseInfoType(b)
		if size, _, err := ParseExportInfo(b); err == nil && size < 0 {
			t.Errorf("size %d", size)
		}
		if s, err := ParseBlockSizeInfo(b); err == nil && (s.Minimum == 0 || s.Maximum < s.Minimum) {
			t.Errorf("block sizes %v", s)
		}
		if _, name, err := ParseMetaContext(b); err == nil && len(name) != len(b)-4 {
			t.Errorf("context %q", name)
		}
		for _, s := range []Style{Simple, Structured, Extended} {
			ParseReply(b, s)
		}
		if errno, text, err := ParseError(b); err == nil && (errno == 0 || len(text) > 3*MaxString) {
			t.Errorf("error %d %q", errno, text)
		}
		if _, n, err := ParseHole(b); err == nil && n == 0 {
			t.Error("an empty hole")
		}
		ParseDataOffset(b)
		for _, c := range []ChunkType{ChunkBlockStatus, ChunkBlockStatusExt} {
			if _, extents, err := ParseStatus(b, c); err == nil && len(extents)*8 > len(b) {
				t.Errorf("%d extents of %d bytes", len(extents), len(b))
			}
		}
	})
}
