package nbd

import (
	"fmt"
	"slices"
	"syscall"

	"github.com/rowan-storage/rowan/nbd/wire"
)

const (
	// statusContextBytes bounds what a block status tells about one context.
	// A client asks again for what did not fit.
	statusContextBytes = 64 << 10
	// statusOneBytes is enough for one extent.
	statusOneBytes = 128
)

// statusBytes is the size of the buffer that a block status needs.
func (s *session) statusBytes(req *wire.Request) int {
	if req.Flags&wire.CmdFlagReqOne != 0 {
		return statusOneBytes * len(s.contexts)
	}
	return statusContextBytes * len(s.contexts)
}

// blockStatus answers with one chunk for each context.
func (s *session) blockStatus(x *exchange) (made bool, err error) {
	contexts, length := s.contexts, x.Length
	if x.Flags&wire.CmdFlagPayloadLen != 0 {
		if contexts, length, err = s.statusPayload(x); err != nil {
			return false, err
		}
	}
	each := s.statusBytes(&x.Request) / len(s.contexts)
	for i, c := range contexts {
		room := x.buf.payload((i + 1) * each)[i*each:]
		b, err := s.appendStatus(room[:0], x, c, length)
		if err != nil {
			return false, err
		}
		var flags uint16
		if i == len(contexts)-1 {
			flags = wire.ChunkFlagDone
		}
		s.putStatusHead(b, x, flags)
		x.out = append(x.out, b)
	}
	return true, nil
}

// statusPayload returns what the payload of a block status asks for. The
// contexts must be selected ones, each named once.
func (s *session) statusPayload(x *exchange) (contexts []metaContext, length uint64, err error) {
	length, ids, err := wire.ParseStatusPayload(x.in, len(s.contexts))
	if err != nil || length == 0 {
		return nil, 0, &refusal{syscall.EINVAL, "a block status with a payload that makes no sense"}
	}
	for _, id := range ids {
		has := func(c metaContext) bool { return c.id == id }
		i := slices.IndexFunc(s.contexts, has)
		if i < 0 || slices.ContainsFunc(contexts, has) {
			return nil, 0, &refusal{syscall.EINVAL, "a metadata context that was not selected, or twice the same"}
		}
		contexts = append(contexts, s.contexts[i])
	}
	return contexts, length, s.checkRange(x.Type, x.Offset, length)
}

// statusChunkType is the type of chunk that a block status is sent in.
func (s *session) statusChunkType() wire.ChunkType {
	if s.style == wire.Extended {
		return wire.ChunkBlockStatusExt
	}
	return wire.ChunkBlockStatus
}

// putStatusHead completes the chunk b, whose payload appendStatus wrote.
func (s *session) putStatusHead(b []byte, x *exchange, flags uint16) {
	wire.PutChunk(b, wire.Chunk{
		Flags: flags, Type: s.statusChunkType(), Cookie: x.Cookie,
		Offset: x.Offset, Length: uint64(len(b) - s.style.ChunkBytes()),
	}, s.style)
}

// appendStatus appends room for the header of a chunk and what context c says
// of length bytes from where x starts: as many extents as b has room for, at
// least one, at most one if that is what was asked for.
func (s *session) appendStatus(b []byte, x *exchange, c metaContext, length uint64) ([]byte, error) {
	limit := cap(b)
	start := s.style.ChunkBytes()
	b = wire.AppendStatusHead(b[:start], c.id, 0, s.style)
	extent := s.style.StatusBytes(1) - s.style.StatusBytes(0)
	var last wire.StatusExtent
	full := false
	add := func(n int64, flags uint32) bool {
		if n <= 0 || length == 0 {
			return false
		}
		part := min(uint64(n), length)
		if last.Length != 0 && last.Flags != uint64(flags) {
			// The last extent is complete. The next needs room as well.
			b = wire.AppendStatusExtent(b, last, s.style)
			last = wire.StatusExtent{}
			if full = x.Flags&wire.CmdFlagReqOne != 0 || len(b)+extent > limit; full {
				return false
			}
		}
		last.Length += part
		last.Flags = uint64(flags)
		length -= part
		return length > 0
	}
	if err := s.query(x, c, length, add); err != nil {
		return nil, err
	}
	if !full {
		if last.Length == 0 {
			return nil, fmt.Errorf("nbd: no block status of %s: %w", c.name, syscall.EIO)
		}
		b = wire.AppendStatusExtent(b, last, s.style)
	}
	count := (len(b) - start - s.style.StatusBytes(0)) / extent
	wire.AppendStatusHead(b[start:start], c.id, count, s.style)
	return b, nil
}

// query asks the device what context c says of length bytes from where x
// starts.
func (s *session) query(x *exchange, c metaContext, length uint64, add func(n int64, flags uint32) bool) error {
	off, n := int64(x.Offset), int64(length)
	if c.name == contextAllocation {
		return s.export.Device.(extenter).Extents(s.ctx, off, n, func(n int64, data bool) bool {
			if data {
				return add(n, 0)
			}
			return add(n, wire.StateHole|wire.StateZero)
		})
	}
	return s.export.Device.(changer).Changes(s.ctx, c.since, off, n, func(n int64, changed bool) bool {
		if changed {
			return add(n, wire.StateDirty)
		}
		return add(n, 0)
	})
}
