package wire

import "encoding/binary"

// Sizes in bytes of the header of a request.
const (
	RequestSize         = 28
	ExtendedRequestSize = 32
)

// A request, sent by the client. With extended headers the length has 8 bytes
// and the magic is another:
//
//	 0  4  0x25609513, extended 0x21e41c71
//	 4  2  command flags
//	 6  2  command
//	 8  8  cookie
//	16  8  offset
//	24  4  length, extended 8
//	       payload

// Request is the header of a request.
type Request struct {
	Flags  uint16
	Type   Command
	Cookie uint64
	Offset uint64
	// Length is that of the payload if there is one, else the number of bytes
	// that the command is about.
	Length uint64
}

// RequestBytes is the length of a request's header.
func RequestBytes(extended bool) int {
	if extended {
		return ExtendedRequestSize
	}
	return RequestSize
}

// ParseRequest decodes the header at the start of b, which holds at least
// RequestBytes(extended) bytes.
func ParseRequest(b []byte, extended bool) (Request, error) {
	if len(b) < RequestBytes(extended) {
		return Request{}, malformed("a request header of %d bytes", len(b))
	}
	r := Request{
		Flags:  binary.BigEndian.Uint16(b[4:]),
		Type:   Command(binary.BigEndian.Uint16(b[6:])),
		Cookie: binary.BigEndian.Uint64(b[8:]),
		Offset: binary.BigEndian.Uint64(b[16:]),
	}
	want := MagicRequest
	if extended {
		want = MagicExtendedRequest
		r.Length = binary.BigEndian.Uint64(b[24:])
	} else {
		r.Length = uint64(binary.BigEndian.Uint32(b[24:]))
	}
	if magic := binary.BigEndian.Uint32(b); magic != want {
		return Request{}, malformed("request magic %#x", magic)
	}
	return r, nil
}

// AppendRequest appends the header. Without extended headers Length must fit
// into 32 bits.
func AppendRequest(b []byte, r Request, extended bool) []byte {
	magic := MagicRequest
	if extended {
		magic = MagicExtendedRequest
	}
	b = binary.BigEndian.AppendUint32(b, magic)
	b = binary.BigEndian.AppendUint16(b, r.Flags)
	b = binary.BigEndian.AppendUint16(b, uint16(r.Type))
	b = binary.BigEndian.AppendUint64(b, r.Cookie)
	b = binary.BigEndian.AppendUint64(b, r.Offset)
	if extended {
		return binary.BigEndian.AppendUint64(b, r.Length)
	}
	return binary.BigEndian.AppendUint32(b, uint32(r.Length))
}

// PayloadBytes is the length of the payload that follows the header.
func (r *Request) PayloadBytes(extended bool) uint64 {
	if extended && r.Flags&CmdFlagPayloadLen != 0 || !extended && r.Type == CmdWrite {
		return r.Length
	}
	return 0
}

// The payload of NBD_CMD_BLOCK_STATUS with NBD_CMD_FLAG_PAYLOAD_LEN: the
// length that the command is about in 8 bytes, then one or more ids of
// metadata contexts in 4 bytes each.

// ParseStatusPayload decodes it. It returns ErrTooMany for more than maxIDs
// ids.
func ParseStatusPayload(b []byte, maxIDs int) (length uint64, ids []uint32, err error) {
	if len(b) < 12 || len(b)%4 != 0 {
		return 0, nil, malformed("a block status payload of %d bytes", len(b))
	}
	length, b = binary.BigEndian.Uint64(b), b[8:]
	if len(b)/4 > maxIDs {
		return 0, nil, malformed("%w context ids: %d", ErrTooMany, len(b)/4)
	}
	ids = make([]uint32, len(b)/4)
	for i := range ids {
		ids[i] = binary.BigEndian.Uint32(b[4*i:])
	}
	return length, ids, nil
}
