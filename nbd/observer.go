package nbd

import (
	"time"

	"github.com/rowan-storage/rowan/nbd/wire"
)

// Observer is told what a Server does, for metrics. Its methods are called
// concurrently and on the data path: they must be quick and must not block.
type Observer interface {
	// ConnectionOpened is called for every client that is served,
	// ConnectionClosed once for each of them, when it is gone.
	ConnectionOpened()
	ConnectionClosed()
	// RequestDone is called for every request of the transmission phase, when
	// its reply is made.
	RequestDone(r RequestStats)
}

// RequestStats describes a request that was served.
type RequestStats struct {
	Export string
	Kind   wire.Command
	// Bytes is the length that the request was about.
	Bytes    uint64
	Duration time.Duration // from when it was received to when its reply was made
	Errno    wire.Errno    // 0 for success
}
