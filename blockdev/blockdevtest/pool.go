package blockdevtest

import (
	"context"
	"io"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// Target is the engine under test.
type Target struct {
	// Open opens the pool that fills fs, or makes one where fs is empty.
	// bootID names the time since the last power cut.
	Open func(fs blockfile.FS, bootID string) (Pool, error)
	// Check examines the files of a pool, as a crash would leave them; nil for
	// no such test.
	Check func(fs blockfile.FS) error
	// CheckSpace looks for space that the files of a pool take for nothing; it
	// is asked after OpSettle and a clean end. nil for no such test.
	CheckSpace func(fs blockfile.FS) error
}

// Pool is an open pool of the engine under test. A Pool may also be a Differ and
// a MapChecker.
type Pool interface {
	// State lists what there is.
	State() ([]LUNState, error)
	// Do does an action: all of it or, if it returns an error, nothing.
	Do(ctx context.Context, a Action) error
	OpenLUN(name string) (Volume, error)
	OpenSnapshot(lun, name string) (Volume, error)
	// Close makes everything durable and closes the pool. It is also called
	// after a crash, to end what goroutines the engine has.
	Close() error
}

// LUNState is a LUN and its snapshots, in any order.
type LUNState struct {
	Name      string
	SizeBytes int64
	Snapshots []SnapshotState
	// Failed: the engine says that the LUN lost data that was not flushed.
	Failed bool
}

// SnapshotState is a snapshot.
type SnapshotState struct {
	Name      string
	SizeBytes int64
}

// Volume is an open LUN or snapshot. It may also be an Extenter.
type Volume interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Flusher
	Zeroer
}

// Flusher makes durable what was acknowledged.
type Flusher interface {
	Flush(ctx context.Context) error
}

// Zeroer makes ranges read as zeros.
type Zeroer interface {
	Discard(ctx context.Context, off, n int64) error
	WriteZeroes(ctx context.Context, off, n int64) error
}

// Extenter tells which ranges hold data; the others read as zeros.
type Extenter interface {
	Extents(ctx context.Context, off, n int64, yield func(length int64, data bool) bool) error
}

// Differ compares two snapshots of a LUN. An empty to is the LUN now.
type Differ interface {
	Diff(ctx context.Context, lun, from, to string, off, n int64, yield func(length int64, d Difference) bool) error
}

// MapChecker compares what the engine has in memory of where data lies with
// the same rebuilt from the disk.
type MapChecker interface {
	CheckMaps(ctx context.Context) error
}

// Difference is what a range differs by from an earlier state.
type Difference uint8

// The kinds of difference.
const (
	Same    Difference = iota // equal
	Changed                   // may differ
	Zeroed                    // may differ, and reads as zeros now
)
