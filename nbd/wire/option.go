package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// Sizes in bytes of the fixed parts of the handshake.
const (
	GreetingSize     = 18
	ClientFlagsSize  = 4
	OptionHeaderSize = 16
	ReplyHeaderSize  = 20
	// ExportNameZeroes is the padding of the reply to NBD_OPT_EXPORT_NAME.
	ExportNameZeroes = 124
)

// ErrMalformed is the class of every error about bytes that do not have the
// form that the specification asks for.
var ErrMalformed = errors.New("malformed")

// ErrTooMany is returned for a list that is longer than the reader takes.
var ErrTooMany = errors.New("too many")

func malformed(format string, args ...any) error {
	return fmt.Errorf("nbd: %w: "+format, append([]any{ErrMalformed}, args...)...)
}

// The greeting of a newstyle server:
//
//	 0  8  "NBDMAGIC"
//	 8  8  "IHAVEOPT"
//	16  2  handshake flags

// AppendGreeting appends the greeting of a server with these flags.
func AppendGreeting(b []byte, flags uint16) []byte {
	return appendStruct(b, protocol.NegotiationNewstyleHeader{
		OldstyleMagic: MagicInit, OptionMagic: MagicOption, HandshakeFlags: flags,
	})
}

// ParseGreeting returns the handshake flags of a server's greeting, which is
// GreetingSize bytes long.
func ParseGreeting(b []byte) (flags uint16, err error) {
	var h protocol.NegotiationNewstyleHeader
	if err := decodeStruct(b, &h); err != nil {
		return 0, err
	}
	if h.OldstyleMagic != MagicInit {
		return 0, malformed("the greeting starts with %#x", h.OldstyleMagic)
	}
	if h.OptionMagic != MagicOption {
		return 0, malformed("not a newstyle server: second magic %#x", h.OptionMagic)
	}
	return h.HandshakeFlags, nil
}

// An option, sent by the client:
//
//	 0  8  "IHAVEOPT"
//	 8  4  option
//	12  4  length of the data
//	16  …  data

// AppendOption appends an option with its data.
func AppendOption(b []byte, o Option, data []byte) []byte {
	b = appendStruct(b, protocol.NegotiationOptionHeader{
		OptionMagic: MagicOption, ID: uint32(o), Length: uint32(len(data)),
	})
	return append(b, data...)
}

// ParseOptionHeader returns the option and the length of its data from
// OptionHeaderSize bytes.
func ParseOptionHeader(b []byte) (o Option, dataBytes uint32, err error) {
	var h protocol.NegotiationOptionHeader
	if err := decodeStruct(b, &h); err != nil {
		return 0, 0, err
	}
	if h.OptionMagic != MagicOption {
		return 0, 0, malformed("option magic %#x", h.OptionMagic)
	}
	return Option(h.ID), h.Length, nil
}

// A reply to an option, sent by the server:
//
//	 0  8  0x3e889045565a9
//	 8  4  option
//	12  4  type
//	16  4  length of the data
//	20  …  data

// OptionReply is the header of a reply to an option.
type OptionReply struct {
	Option    Option
	Type      ReplyType
	DataBytes uint32
}

// AppendOptionReply appends a reply to an option with its data.
func AppendOptionReply(b []byte, o Option, t ReplyType, data []byte) []byte {
	b = appendStruct(b, protocol.NegotiationReplyHeader{
		ReplyMagic: MagicOptionReply, ID: uint32(o), Type: uint32(t), Length: uint32(len(data)),
	})
	return append(b, data...)
}

// ParseOptionReply decodes ReplyHeaderSize bytes.
func ParseOptionReply(b []byte) (OptionReply, error) {
	var h protocol.NegotiationReplyHeader
	if err := decodeStruct(b, &h); err != nil {
		return OptionReply{}, err
	}
	if h.ReplyMagic != MagicOptionReply {
		return OptionReply{}, malformed("option reply magic %#x", h.ReplyMagic)
	}
	return OptionReply{Option(h.ID), ReplyType(h.Type), h.Length}, nil
}

// The data of NBD_OPT_INFO and NBD_OPT_GO:
//
//	0  4  length of the name
//	4  n  name
//	   2  number of information requests
//	   2  information type, for each of them

// AppendInfoRequest appends the data of NBD_OPT_INFO or NBD_OPT_GO.
func AppendInfoRequest(b []byte, name string, infos ...InfoType) []byte {
	b = appendString(b, name)
	b = binary.BigEndian.AppendUint16(b, uint16(len(infos)))
	for _, i := range infos {
		b = binary.BigEndian.AppendUint16(b, uint16(i))
	}
	return b
}

// ParseInfoRequest decodes the data of NBD_OPT_INFO or NBD_OPT_GO.
func ParseInfoRequest(data []byte) (name string, infos []InfoType, err error) {
	name, rest, err := cutString(data, "export name")
	if err != nil {
		return "", nil, err
	}
	if len(rest) < 2 {
		return "", nil, malformed("%d bytes where the number of information requests should be", len(rest))
	}
	n := int(binary.BigEndian.Uint16(rest))
	rest = rest[2:]
	if len(rest) != 2*n {
		return "", nil, malformed("%d bytes of information requests, not %d", len(rest), 2*n)
	}
	infos = make([]InfoType, n)
	for i := range infos {
		infos[i] = InfoType(binary.BigEndian.Uint16(rest[2*i:]))
	}
	return name, infos, nil
}

// The data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT:
//
//	0  4  length of the export's name
//	4  n  name
//	   4  number of queries
//	      for each of them
//	   4  length
//	   n  query

// AppendMetaRequest appends the data of NBD_OPT_LIST_META_CONTEXT or
// NBD_OPT_SET_META_CONTEXT.
func AppendMetaRequest(b []byte, name string, queries ...string) []byte {
	b = appendString(b, name)
	b = binary.BigEndian.AppendUint32(b, uint32(len(queries)))
	for _, q := range queries {
		b = appendString(b, q)
	}
	return b
}

// ParseMetaRequest decodes the data of NBD_OPT_LIST_META_CONTEXT or
// NBD_OPT_SET_META_CONTEXT. It returns ErrTooMany for more than maxQueries
// queries.
func ParseMetaRequest(data []byte, maxQueries int) (name string, queries []string, err error) {
	name, rest, err := cutString(data, "export name")
	if err != nil {
		return "", nil, err
	}
	if len(rest) < 4 {
		return "", nil, malformed("%d bytes where the number of queries should be", len(rest))
	}
	n := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	if uint64(n)*4 > uint64(len(rest)) {
		return "", nil, malformed("%d queries in %d bytes", n, len(rest))
	}
	if uint64(n) > uint64(maxQueries) {
		return "", nil, fmt.Errorf("nbd: %w queries: %d", ErrTooMany, n)
	}
	queries = make([]string, n)
	for i := range queries {
		if queries[i], rest, err = cutString(rest, "query"); err != nil {
			return "", nil, err
		}
	}
	if len(rest) != 0 {
		return "", nil, malformed("%d bytes after the last query", len(rest))
	}
	return name, queries, nil
}

// AppendServer appends the data of NBD_REP_SERVER: the length of the name in
// 4 bytes, the name, the description.
func AppendServer(b []byte, name, description string) []byte {
	return append(appendString(b, name), description...)
}

// AppendMetaContext appends the data of NBD_REP_META_CONTEXT: the id in 4
// bytes, the name.
func AppendMetaContext(b []byte, id uint32, name string) []byte {
	return append(binary.BigEndian.AppendUint32(b, id), name...)
}

// ParseMetaContext decodes the data of NBD_REP_META_CONTEXT.
func ParseMetaContext(data []byte) (id uint32, name string, err error) {
	if len(data) < 4 {
		return 0, "", malformed("%d bytes for a metadata context", len(data))
	}
	if name, err = checkString(data[4:], "metadata context"); err != nil {
		return 0, "", err
	}
	return binary.BigEndian.Uint32(data), name, nil
}

// The data of NBD_REP_INFO: the type in 2 bytes, then
//
//	NBD_INFO_EXPORT       8 size in bytes, 2 transmission flags
//	NBD_INFO_NAME         the name
//	NBD_INFO_DESCRIPTION  the description
//	NBD_INFO_BLOCK_SIZE   4 minimum, 4 preferred, 4 maximum

// AppendExportInfo appends NBD_INFO_EXPORT.
func AppendExportInfo(b []byte, sizeBytes uint64, flags uint16) []byte {
	return appendStruct(b, protocol.NegotiationReplyInfo{
		Type: uint16(InfoExport), Size: sizeBytes, TransmissionFlags: flags,
	})
}

// AppendStringInfo appends NBD_INFO_NAME or NBD_INFO_DESCRIPTION.
func AppendStringInfo(b []byte, t InfoType, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(t)), s...)
}

// BlockSizes are the constraints of an export in bytes ("Block size
// constraints").
type BlockSizes struct {
	Minimum, Preferred, Maximum uint32
}

// AppendBlockSizeInfo appends NBD_INFO_BLOCK_SIZE.
func AppendBlockSizeInfo(b []byte, s BlockSizes) []byte {
	return appendStruct(b, protocol.NegotiationReplyBlockSize{
		Type: uint16(InfoBlockSize), MinimumBlockSize: s.Minimum,
		PreferredBlockSize: s.Preferred, MaximumBlockSize: s.Maximum,
	})
}

// ParseInfoType returns the type of an NBD_REP_INFO.
func ParseInfoType(data []byte) (InfoType, error) {
	if len(data) < 2 {
		return 0, malformed("%d bytes of information", len(data))
	}
	return InfoType(binary.BigEndian.Uint16(data)), nil
}

// ParseExportInfo decodes an NBD_REP_INFO of type NBD_INFO_EXPORT.
func ParseExportInfo(data []byte) (sizeBytes int64, flags uint16, err error) {
	var h protocol.NegotiationReplyInfo
	if err := decodeStruct(data, &h); err != nil {
		return 0, 0, err
	}
	if int64(h.Size) < 0 {
		return 0, 0, malformed("an export of %d bytes", h.Size)
	}
	return int64(h.Size), h.TransmissionFlags, nil
}

// ParseBlockSizeInfo decodes an NBD_REP_INFO of type NBD_INFO_BLOCK_SIZE and
// checks what the specification says about the sizes.
func ParseBlockSizeInfo(data []byte) (BlockSizes, error) {
	var h protocol.NegotiationReplyBlockSize
	if err := decodeStruct(data, &h); err != nil {
		return BlockSizes{}, err
	}
	s := BlockSizes{h.MinimumBlockSize, h.PreferredBlockSize, h.MaximumBlockSize}
	switch {
	case !powerOfTwo(s.Minimum) || s.Minimum > 1<<16:
		return BlockSizes{}, malformed("minimum block size %d", s.Minimum)
	case !powerOfTwo(s.Preferred) || s.Preferred < max(s.Minimum, 512):
		return BlockSizes{}, malformed("preferred block size %d", s.Preferred)
	case s.Maximum < s.Minimum || s.Maximum != 1<<32-1 && s.Maximum%s.Minimum != 0:
		return BlockSizes{}, malformed("maximum block size %d", s.Maximum)
	}
	return s, nil
}

func powerOfTwo(n uint32) bool { return n != 0 && n&(n-1) == 0 }

// ParseExportName checks the data of NBD_OPT_EXPORT_NAME, which is the name.
func ParseExportName(data []byte) (string, error) { return checkString(data, "export name") }

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// cutString takes a string and the 4 bytes of its length off data.
func cutString(data []byte, what string) (s string, rest []byte, err error) {
	if len(data) < 4 {
		return "", nil, malformed("%d bytes where the length of the %s should be", len(data), what)
	}
	n := binary.BigEndian.Uint32(data)
	data = data[4:]
	if uint64(n) > uint64(len(data)) {
		return "", nil, malformed("%s of %d bytes in %d bytes", what, n, len(data))
	}
	s, err = checkString(data[:n], what)
	return s, data[n:], err
}

// checkString checks what the specification says of every string
// ("Conventions").
func checkString(b []byte, what string) (string, error) {
	if len(b) > MaxString {
		return "", malformed("%s of %d bytes, the longest has %d", what, len(b), MaxString)
	}
	s := string(b)
	if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
		return "", malformed("%s that is not text: %.40q", what, s)
	}
	return s, nil
}

// appendStruct appends a structure of fixed size.
func appendStruct(b []byte, s any) []byte {
	b, err := binary.Append(b, binary.BigEndian, s)
	if err != nil {
		panic("nbd: " + err.Error()) // not a structure of fixed size
	}
	return b
}

// decodeStruct decodes a structure of fixed size that is all of b.
func decodeStruct(b []byte, s any) error {
	if len(b) != binary.Size(s) {
		return malformed("%d bytes, not %d", len(b), binary.Size(s))
	}
	_, err := binary.Decode(b, binary.BigEndian, s)
	return err
}
