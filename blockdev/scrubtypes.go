package blockdev

import "time"

// ScrubState is how far a scrub is.
type ScrubState string

// The states of a scrub.
const (
	ScrubRunning ScrubState = "running" // or to be gone on with when the pool is opened
	ScrubDone    ScrubState = "done"    // everything was read
	ScrubStopped ScrubState = "stopped" // somebody stopped it
)

// ScrubInfo describes a scrub: the reading of all that snapshots hold, to
// compare it with the sums.
type ScrubInfo struct {
	LUN        string     `json:"lun,omitempty"`      // "" for the whole pool
	Snapshot   string     `json:"snapshot,omitempty"` // "" for all
	State      ScrubState `json:"state"`
	Started    time.Time  `json:"started"`
	Finished   *time.Time `json:"finished,omitempty"`
	TotalBytes int64      `json:"total_bytes"` // what there was to read when it began
	DoneBytes  int64      `json:"done_bytes"`
	// UnsummedBytes were read, but had no sums yet.
	UnsummedBytes int64          `json:"unsummed_bytes"`
	Findings      []ScrubFinding `json:"findings"`
	// MoreFindings were found beyond those listed.
	MoreFindings int `json:"more_findings,omitempty"`
	// Snapshots is the result for each of them, once all is done.
	Snapshots []ScrubResult `json:"snapshots"`
}

// Damaged tells whether anything was found.
func (i ScrubInfo) Damaged() bool { return len(i.Findings) > 0 || i.MoreFindings > 0 }

// ScrubFinding is something damaged.
type ScrubFinding struct {
	// Snapshots that show it, as lun@name, and LUNs.
	Snapshots []string `json:"snapshots,omitempty"`
	LUNs      []string `json:"luns,omitempty"`
	// OffsetBytes and LengthBytes say where on the LUN; 0 and 0 for a file of
	// the engine's own.
	OffsetBytes int64 `json:"offset_bytes"`
	LengthBytes int64 `json:"length_bytes"`
	// File of the pool, and where in it.
	File            string `json:"file"`
	FileOffsetBytes int64  `json:"file_offset_bytes"`
	What            string `json:"what"`
}

// Verdict is the result of a scrub for a snapshot.
type Verdict string

// The verdicts.
const (
	Intact     Verdict = "intact"     // every block is what its sum says
	Unverified Verdict = "unverified" // some blocks have no sum yet, nothing is wrong with the others
	Damaged    Verdict = "damaged"
)

// ScrubResult is what a scrub says of a snapshot.
type ScrubResult struct {
	LUN      string  `json:"lun"`
	Snapshot string  `json:"snapshot"`
	Verdict  Verdict `json:"verdict"`
	Findings int     `json:"findings"`
}

// scrubRecord is the last scrub, in the catalogue: also what to go on with
// after a restart.
type scrubRecord struct {
	ScrubInfo
	// Layer and Leaf are where to go on; layers from Limit on came later.
	Layer uint32 `json:"layer"`
	Leaf  uint64 `json:"leaf"`
	Limit uint32 `json:"limit"`
	// Unsummed holds the layers with blocks that had no sums.
	Unsummed []uint32 `json:"unsummed,omitempty"`
}

const (
	maxFindings      = 256
	maxFindingsNames = 16
)
