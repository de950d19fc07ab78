package snapfs

import (
	"context"
	"io"
	"time"
)

// Source says which snapshots there are and opens their images. Errors that
// match fs.ErrNotExist mean that a LUN or snapshot is not there (any more); all
// others that it cannot be said now.
type Source interface {
	// LUNs lists the names of all LUNs.
	LUNs(ctx context.Context) ([]string, error)
	// Snapshots lists the snapshots of a LUN, oldest first.
	Snapshots(ctx context.Context, lun string) ([]Snapshot, error)
	// Open opens the image of a snapshot.
	Open(ctx context.Context, lun, snapshot string) (Image, error)
}

// Image is the content of a snapshot, which never changes. Its methods are safe
// for concurrent use. An Image of which a read has failed is closed and opened
// anew. Close ends the calls that are under way, which fail.
type Image interface {
	io.ReaderAt
	io.Closer
	Size() int64 // bytes
}

// Extenter is an Image, or the content of a file, that knows where it holds
// data. Extents covers [off, off+n) in order with ranges of more than 0 bytes
// and stops when yield returns false. A range that is not data reads as zeros.
type Extenter interface {
	Extents(ctx context.Context, off, n int64, yield func(lengthBytes int64, data bool) bool) error
}

// Snapshot describes a snapshot.
type Snapshot struct {
	Name        string
	ID          uint64 // stays the same when the snapshot is renamed
	Created     time.Time
	SizeBytes   int64
	Consistency string
	// MappedBytes is how much of the image holds data. 0 if not known.
	MappedBytes int64
	// Info is shown in info.json as it is: values that encoding/json takes.
	Info map[string]any
}
