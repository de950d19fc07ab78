package wire

import (
	"encoding/binary"
	"strings"
)

// Sizes in bytes of the headers of replies.
const (
	SimpleReplySize     = 16
	StructuredReplySize = 20
	ExtendedReplySize   = 32
)

// Style is how the server replies, as the handshake settled it.
type Style uint8

// The styles.
const (
	Simple     Style = iota // simple replies only
	Structured              // NBD_OPT_STRUCTURED_REPLY
	Extended                // NBD_OPT_EXTENDED_HEADERS
)

// A simple reply:
//
//	 0  4  0x67446698
//	 4  4  error
//	 8  8  cookie
//	       data, if a read succeeded

// PutSimpleReply writes SimpleReplySize bytes to the start of b.
func PutSimpleReply(b []byte, cookie uint64, errno Errno) {
	binary.BigEndian.PutUint32(b, MagicSimpleReply)
	binary.BigEndian.PutUint32(b[4:], uint32(errno))
	binary.BigEndian.PutUint64(b[8:], cookie)
}

// A chunk of a structured reply, and of an extended one:
//
//	 0  4  0x668e33ef         0  4  0x6e8a278c
//	 4  2  flags              4  2  flags
//	 6  2  type               6  2  type
//	 8  8  cookie             8  8  cookie
//	16  4  length            16  8  offset, as in the request
//	20  …  payload           24  8  length
//	                         32  …  payload

// Chunk is the header of a chunk of a reply.
type Chunk struct {
	Flags  uint16
	Type   ChunkType
	Cookie uint64
	Offset uint64 // that of the request; extended only
	Length uint64 // bytes of payload
}

// ChunkBytes is the length of a chunk's header in a style other than Simple.
func (s Style) ChunkBytes() int {
	if s == Extended {
		return ExtendedReplySize
	}
	return StructuredReplySize
}

// PutChunk writes s.ChunkBytes() bytes to the start of b.
func PutChunk(b []byte, c Chunk, s Style) {
	binary.BigEndian.PutUint16(b[4:], c.Flags)
	binary.BigEndian.PutUint16(b[6:], uint16(c.Type))
	binary.BigEndian.PutUint64(b[8:], c.Cookie)
	if s == Extended {
		binary.BigEndian.PutUint32(b, MagicExtendedReply)
		binary.BigEndian.PutUint64(b[16:], c.Offset)
		binary.BigEndian.PutUint64(b[24:], c.Length)
		return
	}
	binary.BigEndian.PutUint32(b, MagicStructuredReply)
	binary.BigEndian.PutUint32(b[16:], uint32(c.Length))
}

// Reply is the header of a reply as a client sees it: a simple one or a chunk.
type Reply struct {
	Simple bool
	Errno  Errno // simple only
	Chunk
}

// ReplyBytes returns the length of the header that starts with the magic in
// b[:4], which must be one that a server may use in this style.
func (s Style) ReplyBytes(b []byte) (int, error) {
	if len(b) < 4 {
		return 0, malformed("a reply header of %d bytes", len(b))
	}
	switch magic := binary.BigEndian.Uint32(b); {
	case magic == MagicSimpleReply && s != Extended:
		return SimpleReplySize, nil
	case magic == MagicStructuredReply && s == Structured:
		return StructuredReplySize, nil
	case magic == MagicExtendedReply && s == Extended:
		return ExtendedReplySize, nil
	default:
		return 0, malformed("reply magic %#x", magic)
	}
}

// ParseReply decodes the header of a reply at the start of b.
func ParseReply(b []byte, s Style) (Reply, error) {
	n, err := s.ReplyBytes(b)
	if err != nil {
		return Reply{}, err
	}
	if len(b) < n {
		return Reply{}, malformed("a reply header of %d bytes", len(b))
	}
	var r Reply
	r.Cookie = binary.BigEndian.Uint64(b[8:])
	if n == SimpleReplySize {
		r.Simple = true
		r.Errno = Errno(binary.BigEndian.Uint32(b[4:]))
		return r, nil
	}
	r.Flags = binary.BigEndian.Uint16(b[4:])
	r.Type = ChunkType(binary.BigEndian.Uint16(b[6:]))
	if n == ExtendedReplySize {
		r.Offset = binary.BigEndian.Uint64(b[16:])
		r.Length = binary.BigEndian.Uint64(b[24:])
	} else {
		r.Length = uint64(binary.BigEndian.Uint32(b[16:]))
	}
	return r, nil
}

// Sizes in bytes of what precedes or makes up the payloads of chunks.
const (
	DataOffsetSize = 8  // NBD_REPLY_TYPE_OFFSET_DATA: offset, then the data
	HoleSize       = 12 // NBD_REPLY_TYPE_OFFSET_HOLE: offset, then length
	ErrorSize      = 6  // NBD_REPLY_TYPE_ERROR: error, length of the message
)

// PutDataOffset writes what precedes the data of NBD_REPLY_TYPE_OFFSET_DATA.
func PutDataOffset(b []byte, offset uint64) { binary.BigEndian.PutUint64(b, offset) }

// ParseDataOffset decodes what precedes the data of
// NBD_REPLY_TYPE_OFFSET_DATA.
func ParseDataOffset(b []byte) (uint64, error) {
	if len(b) < DataOffsetSize {
		return 0, malformed("a data chunk of %d bytes", len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

// PutHole writes the payload of NBD_REPLY_TYPE_OFFSET_HOLE, HoleSize bytes.
func PutHole(b []byte, offset uint64, length uint32) {
	binary.BigEndian.PutUint64(b, offset)
	binary.BigEndian.PutUint32(b[8:], length)
}

// ParseHole decodes the payload of NBD_REPLY_TYPE_OFFSET_HOLE.
func ParseHole(b []byte) (offset, length uint64, err error) {
	if len(b) != HoleSize {
		return 0, 0, malformed("a hole of %d bytes", len(b))
	}
	offset, length = binary.BigEndian.Uint64(b), uint64(binary.BigEndian.Uint32(b[8:]))
	if length == 0 {
		return 0, 0, malformed("an empty hole")
	}
	return offset, length, nil
}

// AppendError appends the payload of NBD_REPLY_TYPE_ERROR. A message longer
// than a string may be is cut.
func AppendError(b []byte, errno Errno, message string) []byte {
	message = strings.ToValidUTF8(message[:min(len(message), MaxString)], "")
	b = binary.BigEndian.AppendUint32(b, uint32(errno))
	b = binary.BigEndian.AppendUint16(b, uint16(len(message)))
	return append(b, message...)
}

// ParseError decodes the start of the payload of any error chunk.
func ParseError(b []byte) (errno Errno, message string, err error) {
	if len(b) < ErrorSize {
		return 0, "", malformed("an error of %d bytes", len(b))
	}
	errno = Errno(binary.BigEndian.Uint32(b))
	n := int(binary.BigEndian.Uint16(b[4:]))
	if n > len(b)-ErrorSize || n > MaxString {
		return 0, "", malformed("an error message of %d bytes in %d", n, len(b)-ErrorSize)
	}
	if errno == 0 {
		return 0, "", malformed("an error chunk without an error")
	}
	return errno, strings.ToValidUTF8(string(b[ErrorSize:ErrorSize+n]), "\uFFFD"), nil
}

// The payload of NBD_REPLY_TYPE_BLOCK_STATUS, and with extended headers
// NBD_REPLY_TYPE_BLOCK_STATUS_EXT:
//
//	0  4  context id         0  4  context id
//	                         4  4  number of extents, or 0
//	      for each extent          for each extent
//	   4  length                8  length
//	   4  status flags          8  status flags

// StatusBytes is the length of a block status payload with n extents.
func (s Style) StatusBytes(n int) int {
	if s == Extended {
		return 8 + 16*n
	}
	return 4 + 8*n
}

// StatusExtent is one extent of a block status.
type StatusExtent struct {
	Length uint64
	Flags  uint64
}

// AppendStatusHead appends what precedes the extents of a context; count is
// how many follow.
func AppendStatusHead(b []byte, contextID uint32, count int, s Style) []byte {
	b = binary.BigEndian.AppendUint32(b, contextID)
	if s == Extended {
		b = binary.BigEndian.AppendUint32(b, uint32(count))
	}
	return b
}

// AppendStatusExtent appends an extent. Length and flags must fit into 32 bits
// unless the style is Extended.
func AppendStatusExtent(b []byte, e StatusExtent, s Style) []byte {
	if s == Extended {
		b = binary.BigEndian.AppendUint64(b, e.Length)
		return binary.BigEndian.AppendUint64(b, e.Flags)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(e.Length))
	return binary.BigEndian.AppendUint32(b, uint32(e.Flags))
}

// ParseStatus decodes the payload of a chunk of type t, ChunkBlockStatus or
// ChunkBlockStatusExt.
func ParseStatus(b []byte, t ChunkType) (contextID uint32, extents []StatusExtent, err error) {
	head, size := 4, 8
	if t == ChunkBlockStatusExt {
		head, size = 8, 16
	}
	if len(b) < head+size || (len(b)-head)%size != 0 {
		return 0, nil, malformed("a block status of %d bytes", len(b))
	}
	contextID = binary.BigEndian.Uint32(b)
	n := (len(b) - head) / size
	if t == ChunkBlockStatusExt {
		if count := binary.BigEndian.Uint32(b[4:]); count != 0 && uint64(count) != uint64(n) {
			return 0, nil, malformed("a block status of %d extents that holds %d", count, n)
		}
	}
	extents = make([]StatusExtent, n)
	for i := range extents {
		e := b[head+i*size:]
		if t == ChunkBlockStatusExt {
			extents[i] = StatusExtent{binary.BigEndian.Uint64(e), binary.BigEndian.Uint64(e[8:])}
		} else {
			extents[i] = StatusExtent{uint64(binary.BigEndian.Uint32(e)), uint64(binary.BigEndian.Uint32(e[4:]))}
		}
		if extents[i].Length == 0 {
			return 0, nil, malformed("a block status with an empty extent")
		}
	}
	return contextID, extents, nil
}
