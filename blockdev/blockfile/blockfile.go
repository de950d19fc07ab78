// Package blockfile is the seam between the engine and the files that hold
// a pool. Everything that the engine does to a disk goes through FS and File,
// so that a simulated disk can stand in for the operating system.
//
// Two implementations exist: OS, a directory of the host, and
// blockdevtest.Disk, a crashable disk in memory with fault injection.
//
// Durability follows POSIX: what File.WriteAt wrote survives the death of the
// process at once, and a power cut only after File.Sync; the name of a new or
// renamed file survives a power cut only after FS.SyncDir of its directory.
package blockfile

import (
	"errors"
	"io"
)

// ErrWouldBlock is returned by File.TryReadAt when the range is not wholly in
// the page cache, or when the file cannot tell.
var ErrWouldBlock = errors.New("blockfile: read would block")

// FS is a tree of files. Names are slash-separated and relative to its root;
// "." is the root. Errors match fs.ErrNotExist and fs.ErrExist where these
// apply, and wrap a syscall.Errno (ENOSPC, EIO, …) where the system gave one.
// An FS is safe for concurrent use.
type FS interface {
	// Open opens a file. flag is a combination of os.O_RDONLY or os.O_RDWR
	// with os.O_CREATE and os.O_EXCL.
	Open(name string, flag int) (File, error)
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// Rename replaces newName by oldName atomically. It is durable after
	// SyncDir of both directories.
	Rename(oldName, newName string) error
	// Mkdir makes one directory; it is an error if the name exists.
	Mkdir(name string) error
	// ReadDir returns the names in a directory, sorted.
	ReadDir(name string) ([]string, error)
	// SyncDir makes the names in a directory durable: creations, renames
	// and removals done before the call.
	SyncDir(name string) error
	// OpenTable opens, creating it if need be, a transactional table. The error
	// is ErrDamaged if what is there is none.
	OpenTable(name string) (Table, error)
	// Lock takes an exclusive lock on a file, creating it if need be, without
	// waiting: ErrLocked if another process holds it. Close releases it, and
	// so does the end of the process.
	Lock(name string) (io.Closer, error)
	// Space returns the bytes that the filesystem below has in all and those
	// that this process may still use.
	Space() (totalBytes, freeBytes int64, err error)
}

// ErrLocked is returned by FS.Lock when another process holds the lock.
var ErrLocked = errors.New("blockfile: locked by another process")

// File is an open file. It is safe for concurrent use; overlapping concurrent
// writes leave each byte as one of the writers wrote it.
type File interface {
	// ReadAt is io.ReaderAt: reads past the end return io.EOF. A hole reads
	// as zeros.
	io.ReaderAt
	// WriteAt is io.WriterAt. A file grows as needed.
	io.WriterAt
	io.Closer
	// TryReadAt fills p from the page cache without waiting for a disk. It
	// returns ErrWouldBlock, with p in any state, unless all of p was read.
	TryReadAt(p []byte, off int64) error
	// Sync makes the file's data, and the metadata needed to read it back,
	// durable (fdatasync). After an error the file's unsynced data must be
	// taken as lost; calling again proves nothing.
	Sync() error
	// Size returns the length of the file in bytes.
	Size() (int64, error)
	// Truncate sets the length of the file in bytes.
	Truncate(sizeBytes int64) error
	// PunchHole gives the space of a range back. The range reads as zeros
	// afterwards; the file keeps its length.
	PunchHole(off, n int64) error
	// Allocated returns the bytes of disk space the file takes.
	Allocated() (int64, error)
}

// DataSeeker is implemented by files that can tell where they may hold data.
// It is a hint for finding space to give back, never the truth about content.
type DataSeeker interface {
	// NextData returns the first range at or after off that takes space in
	// the file, io.EOF if there is none.
	NextData(off int64) (start, end int64, err error)
}

// Allocator is implemented by files that can take space without writing to it.
type Allocator interface {
	// Allocate takes the space of a range, which reads as before, and makes the
	// file long enough. After an error part of it may be taken.
	Allocate(off, n int64) error
}

// DirectOpener is implemented by trees that can read what is on the disk rather
// than in the page cache.
type DirectOpener interface {
	// OpenDirect opens a file for reads past the page cache, where the
	// filesystem below can do that. Buffers, offsets and lengths have to be
	// multiples of 4096 bytes.
	OpenDirect(name string) (File, error)
}

// Table is a set of buckets of key-value pairs with atomic, durable updates.
type Table interface {
	// View runs fn on a consistent state. Byte slices handed out are valid
	// only until fn returns.
	View(fn func(tx Tx) error) error
	// Update runs fn and, if it returns nil, commits all its changes
	// atomically and durably. If fn or the commit fails, nothing is changed.
	Update(fn func(tx Tx) error) error
	Close() error
}

// Tx is a transaction on a Table. Buckets come into being when first written.
type Tx interface {
	// Get returns the value of a key, nil if there is none.
	Get(bucket string, key []byte) []byte
	// Put sets the value of a key. Only valid in Update.
	Put(bucket string, key, value []byte) error
	// Delete removes a key; a missing key is no error. Only valid in Update.
	Delete(bucket string, key []byte) error
	// ForEach calls fn for each key of a bucket in byte order until fn
	// returns an error, which it returns. fn must not change the bucket.
	ForEach(bucket string, fn func(key, value []byte) error) error
}
