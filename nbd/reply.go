package nbd

import (
	"errors"
	"syscall"

	"github.com/rowan-storage/rowan/nbd/wire"
)

// maxHeadBytes is the length of the longest reply without data: the header of
// a chunk and an error with its message.
const (
	maxMessageBytes = 128
	maxHeadBytes    = wire.ExtendedReplySize + wire.ErrorSize + maxMessageBytes
)

// refusal is why a request was not carried out.
type refusal struct {
	errno   syscall.Errno
	message string
}

func (r *refusal) Error() string { return "nbd: " + r.message }
func (r *refusal) Unwrap() error { return r.errno }

// appendResult appends the whole reply to a request that returns no data, or
// that failed. b has room for maxHeadBytes.
func (s *session) appendResult(b []byte, req *wire.Request, errno wire.Errno, failed error) []byte {
	// Simple replies are shorter and allowed for all but reads.
	if s.style == wire.Simple || s.style == wire.Structured && errno == 0 && req.Type != wire.CmdRead {
		b = b[:wire.SimpleReplySize]
		wire.PutSimpleReply(b, req.Cookie, errno)
		return b
	}
	head := s.style.ChunkBytes()
	c := wire.Chunk{Flags: wire.ChunkFlagDone, Cookie: req.Cookie, Offset: req.Offset}
	b = b[:head]
	if errno != 0 {
		c.Type = wire.ChunkError
		b = wire.AppendError(b, errno, message(errno, failed))
		c.Length = uint64(len(b) - head)
	}
	wire.PutChunk(b, c, s.style)
	return b
}

// message is what a client is told beside the errno. What a device says stays
// on this side: it may name what the client does not have to know.
func message(errno wire.Errno, failed error) string {
	text := errno.Errno().Error()
	if r, ok := errors.AsType[*refusal](failed); ok {
		text = r.message
	}
	return text[:min(len(text), maxMessageBytes)]
}

// dataHeadBytes is the length of what precedes the data of a read.
func (s *session) dataHeadBytes() int {
	if s.style == wire.Simple {
		return wire.SimpleReplySize
	}
	return s.style.ChunkBytes() + wire.DataOffsetSize
}

// putDataHead writes what precedes n bytes of data from offset, which answer
// all of req or, other than in simple style, a part of it.
func (s *session) putDataHead(b []byte, req *wire.Request, offset uint64, n int, flags uint16) {
	if s.style == wire.Simple {
		wire.PutSimpleReply(b, req.Cookie, 0)
		return
	}
	wire.PutChunk(b, wire.Chunk{
		Flags: flags, Type: wire.ChunkOffsetData, Cookie: req.Cookie,
		Offset: req.Offset, Length: uint64(wire.DataOffsetSize + n),
	}, s.style)
	wire.PutDataOffset(b[s.style.ChunkBytes():], offset)
}
