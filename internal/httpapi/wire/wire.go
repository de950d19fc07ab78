package wire

import (
	"encoding/json"
	"time"
)

// Prefix is the path of the API's first version.
const Prefix = "/v1"

// BlockBytes is what the size of a LUN is a multiple of.
const BlockBytes = 4096

// MaxNameBytes bounds the name of a LUN or a snapshot.
const MaxNameBytes = 64

// Status tells how the appliance is.
type Status struct {
	Version string    `json:"version" doc:"Version of the daemon"`
	Started time.Time `json:"started" doc:"When the daemon started"`
	PID     int       `json:"pid" doc:"Process id of the daemon"`
	API     string    `json:"api" doc:"Path of the API's socket"`
	Pool    Pool      `json:"pool"`
	NBD     []NBD     `json:"nbd" doc:"Where NBD is served" nullable:"false"`
	Scrub   *Scrub    `json:"scrub,omitempty" doc:"The scrub that is running, or the last one; absent if there was none"`
	// Failures are at most 64.
	Failures     []Failure `json:"failures" nullable:"false" doc:"LUNs and snapshots that are known not to be usable"`
	MoreFailures int       `json:"more_failures,omitempty" doc:"How many more there are"`
}

// Failure is a LUN that takes no writes any more or cannot be opened, or a
// snapshot that cannot be read.
type Failure struct {
	Name string `json:"name" doc:"lun, or lun@snapshot"`
	Why  string `json:"why"`
}

// Pool tells how the pool is.
type Pool struct {
	UUID       string `json:"uuid"`
	Dir        string `json:"dir" doc:"Directory of the pool"`
	LUNs       int    `json:"luns" doc:"Number of LUNs"`
	Snapshots  int    `json:"snapshots" doc:"Number of snapshots"`
	TotalBytes int64  `json:"total_bytes" doc:"Size of the filesystem that the pool is on"`
	FreeBytes  int64  `json:"free_bytes" doc:"What is free there for data"`
	// Space is one of the constants below.
	Space         string `json:"space" enum:"ok,low,full" doc:"low: less than warn_bytes are free; full: writes that need new space are refused, or soon will be"`
	WarnBytes     int64  `json:"warn_bytes" doc:"What must be free for space to be ok"`
	ReserveBytes  int64  `json:"reserve_bytes" doc:"What is to be held back for metadata"`
	ReservedBytes int64  `json:"reserved_bytes" doc:"What of that is there: while it is less, writes that need new space are refused"`
	Pending       int    `json:"pending" doc:"Maintenance steps not yet done, such as giving back deleted blocks"`
}

// How much room a pool has.
const (
	SpaceOK   = "ok"
	SpaceLow  = "low"
	SpaceFull = "full"
)

// NBD is an address that NBD is served on.
type NBD struct {
	Network string `json:"network" enum:"unix,tcp"`
	Address string `json:"address" doc:"Absolute path of a socket, or HOST:PORT"`
	TLS     bool   `json:"tls" doc:"Whether TLS with a client certificate is demanded"`
}

// LUN describes a LUN.
type LUN struct {
	ID          uint64    `json:"id"`
	UUID        string    `json:"uuid"`
	Name        string    `json:"name"`
	SizeBytes   int64     `json:"size_bytes"`
	Created     time.Time `json:"created"`
	Failed      string    `json:"failed,omitempty" doc:"Why the LUN takes no writes any more or cannot be opened, absent while it does"`
	Clients     int       `json:"clients" doc:"Number of connections that have it open"`
	Snapshots   int       `json:"snapshots" doc:"Number of its snapshots"`
	Origin      string    `json:"origin,omitempty" doc:"Snapshot that the LUN was cloned from, as lun@name"`
	MappedBytes int64     `json:"mapped_bytes" doc:"What it holds as data, wherever that is stored"`
	UniqueBytes int64     `json:"unique_bytes" doc:"What only its present state holds: data written since its last snapshot"`
	NBDURIs     []string  `json:"nbd_uris" nullable:"false" doc:"NBD URIs that clients can open"`
}

// Snapshot describes a snapshot.
type Snapshot struct {
	ID          uint64          `json:"id"`
	LUN         string          `json:"lun"`
	Name        string          `json:"name"`
	Created     time.Time       `json:"created"`
	SizeBytes   int64           `json:"size_bytes" doc:"Size of the LUN when frozen"`
	Group       string          `json:"group,omitempty" doc:"Shared by the snapshots of one freeze of several LUNs"`
	CreatedBy   string          `json:"created_by,omitempty"`
	Comment     string          `json:"comment,omitempty"`
	Consistency string          `json:"consistency" doc:"The level that was earned: crash, filesystem or application"`
	Evidence    json.RawMessage `json:"evidence,omitempty" doc:"What the level rests on"`
	Locked      bool            `json:"locked"`
	LockedUntil *time.Time      `json:"locked_until,omitempty" doc:"When the lock ends by itself, absent for one that does not"`
	Clients     int             `json:"clients" doc:"Number of connections that have it open"`
	Failed      string          `json:"failed,omitempty" doc:"Why the snapshot cannot be read, absent if it can"`
	MappedBytes int64           `json:"mapped_bytes" doc:"What it holds as data, wherever that is stored"`
	UniqueBytes int64           `json:"unique_bytes" doc:"What deleting it would give back"`
	NBDURIs     []string        `json:"nbd_uris" nullable:"false" doc:"NBD URIs that clients can open, read-only"`
}

// Ref is how users write a snapshot: lun@name.
func (s Snapshot) Ref() string { return s.LUN + "@" + s.Name }

// CreateLUN asks for a new LUN.
type CreateLUN struct {
	Name      string `json:"name" minLength:"1" maxLength:"64" doc:"Letters, digits, '.', '_' and '-', a letter or digit first"`
	SizeBytes int64  `json:"size_bytes" minimum:"1" doc:"A multiple of 4096"`
}

// ChangeLUN asks for a new name, a larger size, or both, the name first.
type ChangeLUN struct {
	Name      *string `json:"name,omitempty" minLength:"1" maxLength:"64"`
	SizeBytes *int64  `json:"size_bytes,omitempty" minimum:"1" doc:"A multiple of 4096, not below the present size"`
}

// CreateSnapshots asks for snapshots of a group of LUNs in one point of time:
// all of them or none.
type CreateSnapshots struct {
	Items   []SnapshotItem `json:"items" minItems:"1" maxItems:"1000" nullable:"false"`
	Comment string         `json:"comment,omitempty" maxLength:"1024"`
}

// SnapshotItem names one snapshot to make.
type SnapshotItem struct {
	LUN  string `json:"lun" minLength:"1" maxLength:"64"`
	Name string `json:"name,omitempty" maxLength:"64" doc:"Made from the time if absent"`
}

// ChangeSnapshot asks for a new name.
type ChangeSnapshot struct {
	Name string `json:"name" minLength:"1" maxLength:"64"`
}

// Lock asks for a snapshot to be kept from deletion.
type Lock struct {
	Until *time.Time `json:"until,omitempty" doc:"When the lock ends by itself; never if absent"`
}

// Revert asks for a LUN to be brought back to a snapshot.
type Revert struct {
	Force     bool   `json:"force,omitempty" doc:"Even while clients are connected; they see the content change under them"`
	SavedName string `json:"saved_name,omitempty" maxLength:"64" doc:"Name of the snapshot that keeps the present state; made from the time if absent"`
}

// Reverted tells what a revert did.
type Reverted struct {
	Saved Snapshot `json:"saved" doc:"The snapshot that keeps the state from before"`
}

// Clone asks for a new LUN that begins as a snapshot.
type Clone struct {
	Name string `json:"name" minLength:"1" maxLength:"64" doc:"Name of the new LUN"`
}

// LUNs is the answer to a list of LUNs.
type LUNs struct {
	LUNs []LUN `json:"luns" nullable:"false"`
}

// Snapshots is the answer to a list of snapshots.
type Snapshots struct {
	Snapshots []Snapshot `json:"snapshots" nullable:"false"`
}

// The kinds of a Range.
const (
	Data = "data" // holds data that the earlier state does not
	Zero = "zero" // reads as zeros where the earlier state held data
)

// Range is a part of a LUN that differs from an earlier state.
type Range struct {
	OffsetBytes int64  `json:"offset_bytes"`
	LengthBytes int64  `json:"length_bytes"`
	Kind        string `json:"kind" enum:"data,zero" doc:"data: written since; zero: reads as zeros where there was data"`
}

// Diff is a page of the ranges that differ, in order.
type Diff struct {
	Ranges []Range `json:"ranges" nullable:"false"`
	// NextOffsetBytes is where to ask on, nil after the last page.
	NextOffsetBytes *int64 `json:"next_offset_bytes,omitempty" doc:"Where the next page begins, absent after the last"`
	SizeBytes       int64  `json:"size_bytes" doc:"Size of the state that was compared"`
}

// MaxDiffRanges is the largest page of a diff.
const MaxDiffRanges = 10000
