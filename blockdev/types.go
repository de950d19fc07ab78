package blockdev

import (
	"encoding/json"
	"time"
)

// BlockSize is the unit of mapping in bytes. The size of a LUN is a multiple
// of it.
const BlockSize = 4096

// MaxLUNBytes is the size of the largest LUN: 100 TiB.
const MaxLUNBytes = 100 << 40

// Consistency is the level that a snapshot earned.
type Consistency string

// The levels of consistency, from the weakest.
const (
	// Crash: what a power cut would have left; nobody was asked to rest.
	Crash Consistency = "crash"
	// Filesystem: the filesystems were frozen throughout.
	Filesystem Consistency = "filesystem"
	// Application: the applications were frozen throughout.
	Application Consistency = "application"
)

// LUNInfo describes a LUN.
type LUNInfo struct {
	ID        uint64    `json:"id"`
	UUID      string    `json:"uuid"` // RFC 9562 version 4; a clone has its own
	Name      string    `json:"name"`
	SizeBytes int64     `json:"size_bytes"`
	Created   time.Time `json:"created"`
	// Failed says why the LUN takes no writes any more, or cannot be opened at
	// all, "" while it does.
	Failed string `json:"failed,omitempty"`
	// Clients is the number of open handles.
	Clients   int `json:"clients"`
	Snapshots int `json:"snapshots"`
	// Origin is the snapshot ("lun@name") that the LUN was cloned from, "" if
	// none. The snapshot may have been renamed or deleted since.
	Origin string `json:"origin,omitempty"`
	// MappedBytes is what the LUN holds as data, wherever it is stored.
	MappedBytes int64 `json:"mapped_bytes"`
	// UniqueBytes is what only the LUN's present state holds: data written
	// since its last snapshot.
	UniqueBytes int64 `json:"unique_bytes"`
}

// SnapshotName is what a snapshot is known by, which costs nothing to tell.
type SnapshotName struct {
	ID          uint64 // rises with time
	LUN, Name   string
	Created     time.Time
	Consistency Consistency
}

// SnapshotInfo describes a snapshot.
type SnapshotInfo struct {
	ID        uint64    `json:"id"`
	LUN       string    `json:"lun"`
	Name      string    `json:"name"`
	Created   time.Time `json:"created"`
	SizeBytes int64     `json:"size_bytes"` // of the LUN when frozen
	// Group is shared by the snapshots of one freeze, "" for a freeze of one.
	Group       string          `json:"group,omitempty"`
	CreatedBy   string          `json:"created_by,omitempty"`
	Comment     string          `json:"comment,omitempty"`
	Consistency Consistency     `json:"consistency"`
	Evidence    json.RawMessage `json:"evidence,omitempty"`
	Locked      bool            `json:"locked"`
	// LockedUntil is when the lock ends by itself, nil for one that does not.
	LockedUntil *time.Time `json:"locked_until,omitempty"`
	Clients     int        `json:"clients"`
	// Failed says why the snapshot cannot be read, "" if it can.
	Failed string `json:"failed,omitempty"`
	// MappedBytes is what the snapshot holds as data, wherever it is stored.
	MappedBytes int64 `json:"mapped_bytes"`
	// UniqueBytes is what deleting the snapshot would give back.
	UniqueBytes int64 `json:"unique_bytes"`
}

// SnapshotRequest asks for a snapshot of a group of LUNs in one point of time.
type SnapshotRequest struct {
	Items       []SnapshotItem
	CreatedBy   string
	Comment     string
	Consistency Consistency // what the caller has evidence of; Crash if ""
	Evidence    json.RawMessage
}

// SnapshotItem names one snapshot to make.
type SnapshotItem struct {
	LUN  string
	Name string // "" for a name made from the time: 20060102T150405Z
}

// DeleteLUNOptions says how far DeleteLUN may go.
type DeleteLUNOptions struct {
	// WithSnapshots also deletes the LUN's snapshots. Without it a LUN that
	// has any is not deleted. Locked snapshots are never deleted.
	WithSnapshots bool
	// Force deletes the LUN though clients are connected: their handles get
	// ErrStale.
	Force bool
}

// RevertOptions says how far Revert may go.
type RevertOptions struct {
	// Force reverts though clients are connected. They see the content change
	// under them.
	Force bool
	// SavedName names the snapshot of the present state, "" for
	// "before-revert-" and the time.
	SavedName string
	CreatedBy string
}

// PoolInfo describes a pool.
type PoolInfo struct {
	UUID       string `json:"uuid"`
	Dir        string `json:"dir"`
	LUNs       int    `json:"luns"`
	Snapshots  int    `json:"snapshots"`
	TotalBytes int64  `json:"total_bytes"` // of the filesystem below
	FreeBytes  int64  `json:"free_bytes"`  // for data, without ReservedBytes
	// Space says whether that is enough.
	Space SpaceState `json:"space"`
	// WarnBytes is what must be free for Space to be SpaceOK.
	WarnBytes int64 `json:"warn_bytes"`
	// ReserveBytes is what the pool holds back for metadata, ReservedBytes what
	// of that is there at present: while it is less, writes that need new space
	// get ErrNoSpace.
	ReserveBytes  int64 `json:"reserve_bytes"`
	ReservedBytes int64 `json:"reserved_bytes"`
	// Pending is the number of maintenance steps not yet done, such as giving
	// back the blocks of deleted snapshots.
	Pending int `json:"pending"`
	// Failures are LUNs and snapshots that are known not to be usable, at most
	// maxFailures, and MoreFailures how many more there are.
	Failures     []Failure `json:"failures,omitempty"`
	MoreFailures int       `json:"more_failures,omitempty"`
}

// Failure is a LUN that takes no writes any more or cannot be opened, or a
// snapshot that cannot be read.
type Failure struct {
	Name string `json:"name"` // lun or lun@snapshot
	Why  string `json:"why"`
}

// Change is what a range differs by from an earlier state.
type Change uint8

// The kinds of change.
const (
	Same    Change = iota // equal
	Written               // holds data that the earlier state does not
	Zeroed                // reads as zeros where the earlier state held data
)
