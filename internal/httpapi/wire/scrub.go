package wire

import "time"

// The states of a Scrub.
const (
	ScrubRunning = "running"
	ScrubDone    = "done"
	ScrubStopped = "stopped"
)

// StartScrub asks for a scrub of the whole pool, a LUN, or one snapshot.
type StartScrub struct {
	LUN      string `json:"lun,omitempty" maxLength:"64" doc:"All if absent"`
	Snapshot string `json:"snapshot,omitempty" maxLength:"64" doc:"All of the LUN if absent"`
}

// Scrub describes a scrub: the reading of all that snapshots hold, to compare
// it with the checksums.
type Scrub struct {
	LUN           string         `json:"lun,omitempty" doc:"The LUN whose snapshots are read, absent for the whole pool"`
	Snapshot      string         `json:"snapshot,omitempty" doc:"The one snapshot that is read"`
	State         string         `json:"state" enum:"running,done,stopped"`
	Started       time.Time      `json:"started"`
	Finished      *time.Time     `json:"finished,omitempty"`
	TotalBytes    int64          `json:"total_bytes" doc:"What there was to read when it began"`
	DoneBytes     int64          `json:"done_bytes" doc:"What was read until now"`
	UnsummedBytes int64          `json:"unsummed_bytes" doc:"What was read, but has no checksums yet"`
	Findings      []ScrubFinding `json:"findings" nullable:"false"`
	MoreFindings  int            `json:"more_findings,omitempty" doc:"Found beyond those listed"`
	Snapshots     []ScrubResult  `json:"snapshots" nullable:"false" doc:"The result for each snapshot, once all is read"`
}

// ScrubFinding is something damaged.
type ScrubFinding struct {
	Snapshots       []string `json:"snapshots" nullable:"false" doc:"Snapshots that show it, as lun@name"`
	LUNs            []string `json:"luns" nullable:"false" doc:"LUNs that show it now"`
	OffsetBytes     int64    `json:"offset_bytes" doc:"Where on the LUN"`
	LengthBytes     int64    `json:"length_bytes" doc:"0 where a file of the engine itself is damaged"`
	File            string   `json:"file" doc:"File of the pool"`
	FileOffsetBytes int64    `json:"file_offset_bytes"`
	What            string   `json:"what" doc:"What is wrong"`
}

// ScrubResult is what a scrub says of a snapshot.
type ScrubResult struct {
	LUN      string `json:"lun"`
	Snapshot string `json:"snapshot"`
	Verdict  string `json:"verdict" enum:"intact,unverified,damaged" doc:"unverified: some blocks have no checksum yet, nothing is wrong with the others"`
	Findings int    `json:"findings"`
}
