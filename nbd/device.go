package nbd

import (
	"context"
	"io"
)

// Device is what an export serves. Offsets and lengths are in bytes, of any
// alignment. All methods may be called concurrently.
//
// An error that carries a syscall.Errno (found with errors.As) is told to the
// client by that number, any other as EIO.
type Device interface {
	io.ReaderAt
	io.WriterAt
	// Size returns the length in bytes. It may grow while the device is
	// exported and is asked for with every request, so it must be cheap.
	Size() int64
	// Flush returns once every write that was acknowledged before is durable.
	Flush(ctx context.Context) error
	// Discard says that the range is not needed any more.
	Discard(ctx context.Context, off, n int64) error
	// WriteZeroes makes the range read as zeros, faster than writing them.
	// Where it cannot it returns ENOTSUP and changes nothing.
	WriteZeroes(ctx context.Context, off, n int64) error
}

// tryReader is what a Device may also offer, and should, for speed: a read
// that never waits.
type tryReader interface {
	// TryReadAt reads all of p without waiting for a disk or another request,
	// or returns an error, whereupon ReadAt is called.
	TryReadAt(p []byte, off int64) error
}

// extenter is what a Device may also offer: it is served as base:allocation.
type extenter interface {
	// Extents calls yield for consecutive extents that cover [off, off+n),
	// until yield returns false. An extent that is not data reads as zeros and
	// takes up no space.
	Extents(ctx context.Context, off, n int64, yield func(length int64, data bool) bool) error
}

// changer is what a Device may also offer: it is served as the change contexts
// that Export.ChangeContexts names.
type changer interface {
	// Changes calls yield for consecutive extents that cover [off, off+n),
	// until yield returns false. Where changed is false the content is what it
	// was in the snapshot since.
	Changes(ctx context.Context, since string, off, n int64, yield func(length int64, changed bool) bool) error
}

// Export is a device opened for one client.
type Export struct {
	Device
	// Name is the canonical name of at most 4096 bytes, Description says what
	// is exported to a person, or is "".
	Name, Description string
	ReadOnly          bool
	// ChangeContexts names the snapshots since which a client may ask for the
	// changed blocks.
	ChangeContexts []string
	// Close is called once, when the client is gone and none of its requests
	// runs any more. It may be nil.
	Close func() error
}

// ExportInfo is an entry of the list of exports.
type ExportInfo struct {
	Name, Description string
}

// Exports is where a Server finds what to export. Its methods may be called
// concurrently.
type Exports interface {
	// List returns what a client is shown that asks for a list.
	List(ctx context.Context) ([]ExportInfo, error)
	// Open opens the export with this name, "" being the default one. client
	// describes who asks, for logs and listings. An error that is
	// fs.ErrNotExist, fs.ErrPermission or ESHUTDOWN is told apart to the
	// client.
	Open(ctx context.Context, name, client string) (*Export, error)
}
