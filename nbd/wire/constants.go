package wire

import "github.com/pojntfx/go-nbd/pkg/protocol"

// Limits of the specification.
const (
	// MaxString is the length in bytes of the longest name, description or
	// message ("Conventions").
	MaxString = 4096
	// MaxPayload is the length in bytes of the largest payload that every
	// implementation should take ("Block size constraints").
	MaxPayload = 32 << 20
)

// The magic numbers of the handshake.
const (
	MagicInit        = protocol.NEGOTIATION_MAGIC_OLDSTYLE
	MagicOption      = protocol.NEGOTIATION_MAGIC_OPTION
	MagicOptionReply = protocol.NEGOTIATION_MAGIC_REPLY
)

// The magic numbers of the transmission phase.
const (
	MagicRequest         = protocol.TRANSMISSION_MAGIC_REQUEST
	MagicExtendedRequest = uint32(0x21e41c71)
	MagicSimpleReply     = protocol.TRANSMISSION_MAGIC_REPLY
	MagicStructuredReply = uint32(0x668e33ef)
	MagicExtendedReply   = uint32(0x6e8a278c)
)

// Handshake flags, sent by the server. The client flags have the same values
// in 32 bits.
const (
	FlagFixedNewstyle = protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE
	FlagNoZeroes      = uint16(1 << 1)
)

// Option is a request of the handshake.
type Option uint32

// The options.
const (
	OptExportName      Option = 1
	OptAbort                  = Option(protocol.NEGOTIATION_ID_OPTION_ABORT)
	OptList                   = Option(protocol.NEGOTIATION_ID_OPTION_LIST)
	OptStartTLS        Option = 5
	OptInfo                   = Option(protocol.NEGOTIATION_ID_OPTION_INFO)
	OptGo                     = Option(protocol.NEGOTIATION_ID_OPTION_GO)
	OptStructuredReply Option = 8
	OptListMetaContext Option = 9
	OptSetMetaContext  Option = 10
	OptExtendedHeaders Option = 11
)

// ReplyType is the type of a reply to an option.
type ReplyType uint32

// The types of replies to options.
const (
	RepAck         = ReplyType(protocol.NEGOTIATION_TYPE_REPLY_ACK)
	RepServer      = ReplyType(protocol.NEGOTIATION_TYPE_REPLY_SERVER)
	RepInfo        = ReplyType(protocol.NEGOTIATION_TYPE_REPLY_INFO)
	RepMetaContext = ReplyType(4)

	RepErrUnsup         = ReplyType(protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED)
	RepErrPolicy        = repError | 2
	RepErrInvalid       = repError | 3
	RepErrPlatform      = repError | 4
	RepErrTLSReqd       = repError | 5
	RepErrUnknown       = ReplyType(protocol.NEGOTIATION_TYPE_REPLY_ERR_UNKNOWN)
	RepErrShutdown      = repError | 7
	RepErrBlockSizeReqd = repError | 8
	RepErrTooBig        = repError | 9
	RepErrExtHeaderReqd = repError | 10
	repError            = ReplyType(1 << 31)
)

// IsError tells whether the type is one of the error types.
func (t ReplyType) IsError() bool { return t&repError != 0 }

func (t ReplyType) String() string {
	names := [...]string{
		"the server does not know the option", "forbidden by the server's policy",
		"the server finds the option invalid", "not supported on the server's platform",
		"the server requires TLS", "no such export", "the server is shutting down",
		"the server requires block sizes to be asked for", "too big for the server",
		"the server requires extended headers",
	}
	if i := int(t &^ repError); t.IsError() && i >= 1 && i <= len(names) {
		return names[i-1]
	}
	return "option reply type " + hexadecimal(uint64(t))
}

// InfoType is a kind of information about an export.
type InfoType uint16

// The kinds of information.
const (
	InfoExport      = InfoType(protocol.NEGOTIATION_TYPE_INFO_EXPORT)
	InfoName        = InfoType(protocol.NEGOTIATION_TYPE_INFO_NAME)
	InfoDescription = InfoType(protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION)
	InfoBlockSize   = InfoType(protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE)
)

// Transmission flags, which say what an export can do.
const (
	FlagHasFlags           = protocol.NEGOTIATION_REPLY_FLAGS_HAS_FLAGS
	FlagReadOnly           = uint16(1 << 1)
	FlagSendFlush          = uint16(1 << 2)
	FlagSendFUA            = uint16(1 << 3)
	FlagRotational         = uint16(1 << 4)
	FlagSendTrim           = uint16(1 << 5)
	FlagSendWriteZeroes    = uint16(1 << 6)
	FlagSendDF             = uint16(1 << 7)
	FlagCanMultiConn       = protocol.NEGOTIATION_REPLY_FLAGS_CAN_MULTI_CONN
	FlagSendResize         = uint16(1 << 9)
	FlagSendCache          = uint16(1 << 10)
	FlagSendFastZero       = uint16(1 << 11)
	FlagBlockStatusPayload = uint16(1 << 12)
)

// Command is the type of a request of the transmission phase.
type Command uint16

// The commands.
const (
	CmdRead                = Command(protocol.TRANSMISSION_TYPE_REQUEST_READ)
	CmdWrite               = Command(protocol.TRANSMISSION_TYPE_REQUEST_WRITE)
	CmdDisc                = Command(protocol.TRANSMISSION_TYPE_REQUEST_DISC)
	CmdFlush       Command = 3
	CmdTrim        Command = 4
	CmdCache       Command = 5
	CmdWriteZeroes Command = 6
	CmdBlockStatus Command = 7
)

func (c Command) String() string {
	names := [...]string{"read", "write", "disconnect", "flush", "trim", "cache", "write zeroes", "block status"}
	if int(c) < len(names) {
		return names[c]
	}
	return "command " + hexadecimal(uint64(c))
}

// Command flags.
const (
	CmdFlagFUA        = uint16(1 << 0)
	CmdFlagNoHole     = uint16(1 << 1)
	CmdFlagDF         = uint16(1 << 2)
	CmdFlagReqOne     = uint16(1 << 3)
	CmdFlagFastZero   = uint16(1 << 4)
	CmdFlagPayloadLen = uint16(1 << 5)
)

// ChunkFlagDone marks the last chunk of a reply (NBD_REPLY_FLAG_DONE).
const ChunkFlagDone = uint16(1)

// ChunkType is the type of a chunk of a structured or extended reply.
type ChunkType uint16

// The types of chunks.
const (
	ChunkNone           ChunkType = 0
	ChunkOffsetData     ChunkType = 1
	ChunkOffsetHole     ChunkType = 2
	ChunkBlockStatus    ChunkType = 5
	ChunkBlockStatusExt ChunkType = 6
	ChunkError          ChunkType = 1<<15 | 1
	ChunkErrorOffset    ChunkType = 1<<15 | 2
)

// IsError tells whether the type is one of the error types, known or not.
func (t ChunkType) IsError() bool { return t&(1<<15) != 0 }

// The status flags of the contexts.
const (
	// StateHole and StateZero belong to base:allocation.
	StateHole = uint32(1 << 0)
	StateZero = uint32(1 << 1)
	// StateDirty belongs to qemu:dirty-bitmap, as docs/interop/nbd.txt of QEMU
	// defines it, and to rowan:changed-since.
	StateDirty = uint32(1 << 0)
)
