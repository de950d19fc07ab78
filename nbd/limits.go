package nbd

import (
	"time"

	"github.com/rowan-storage/rowan/nbd/wire"
)

// Limits bounds what clients may take up. A field that is 0 has its default.
type Limits struct {
	// MaxConnections is how many clients may be connected (256). One more is
	// disconnected at once. An eighth of them is kept for unix sockets, and of
	// each listener's no more than a quarter, or 16, may be in the handshake.
	MaxConnections int
	// HandshakeTimeout is how long a client may take until the transmission
	// phase (30 s).
	HandshakeTimeout time.Duration
	// MaxOptions is how many options a client may send in one handshake (512).
	MaxOptions int
	// MaxInFlight is how many requests of a connection may be under way beside
	// those that are served at once (256). No more are read from it until one
	// is done.
	MaxInFlight int
	// Workers is how many of a connection's requests are carried out at the
	// same time (16).
	Workers int
	// ConnMemoryBytes and TotalMemoryBytes bound the payloads that are held
	// for one connection and for all (64 MiB, 256 MiB), beside the fixed
	// buffers of each connection. At the bound no more is read until some are
	// done. Each is at least a payload of maximum size. Beside them each
	// connection may hold 520 KiB for requests of up to 256 KiB, so that these
	// wait for nobody else.
	ConnMemoryBytes, TotalMemoryBytes int64
	// StallTimeout is how long a client may take nothing of a reply or give
	// nothing of a payload, while the server holds memory for it, before it is
	// disconnected (2 min). A client that is slow but moves 64 KiB/s is safe.
	// While others wait for memory it is an eighth of that, and 1 MiB/s.
	StallTimeout time.Duration
}

const (
	// maxOptionBytes is the length of the longest data of an option: a client
	// that announces more is disconnected.
	maxOptionBytes = 64 << 10
	// maxMetaQueries is how many queries one option may hold, maxContexts how
	// many metadata contexts may be selected at a time.
	maxMetaQueries = 64
	maxContexts    = 16
	// slowestBytesPerSecond is the rate that a payload must keep up with, the
	// StallTimeout apart.
	slowestBytesPerSecond = 64 << 10
	// hurriedBytesPerSecond and a part of the StallTimeout, one in hurry, count
	// while others wait for memory.
	hurriedBytesPerSecond = 1 << 20
	hurry                 = 8
)

// withDefaults fills in the fields that are 0 and lifts those that are too low
// to serve any request.
func (l Limits) withDefaults() Limits {
	orInt := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	orInt(&l.MaxConnections, 256)
	orInt(&l.MaxOptions, 512)
	orInt(&l.MaxInFlight, 256)
	orInt(&l.Workers, 16)
	if l.HandshakeTimeout <= 0 {
		l.HandshakeTimeout = 30 * time.Second
	}
	if l.StallTimeout <= 0 {
		l.StallTimeout = 2 * time.Minute
	}
	if l.ConnMemoryBytes <= 0 {
		l.ConnMemoryBytes = 64 << 20
	}
	if l.TotalMemoryBytes <= 0 {
		l.TotalMemoryBytes = 256 << 20
	}
	l.ConnMemoryBytes = max(l.ConnMemoryBytes, bufferBytes(wire.MaxPayload))
	l.TotalMemoryBytes = max(l.TotalMemoryBytes, l.ConnMemoryBytes)
	return l
}
