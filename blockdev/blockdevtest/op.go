package blockdevtest

import (
	"fmt"
	"strings"
)

// OpKind is a kind of operation.
type OpKind uint8

// The operations. Those on data use LUN, Off and Len of an Op.
const (
	OpWrite OpKind = iota
	OpFUA          // a write, then a flush
	OpDiscard
	OpWriteZeroes
	OpFlush
	OpRead // reads everything and compares
	OpCreateLUN
	OpResize // grows LUN by Len
	OpRenameLUN
	OpDeleteLUN
	OpSnapshot // of LUN, with Group also of the next one
	OpRevert   // LUN to its snapshot Snap
	OpClone
	OpDeleteSnapshot
	OpRenameSnapshot
	OpSettle
	OpCompact    // merges the segments of layers that have too many
	OpReopen     // closes the pool and opens it
	OpConcurrent // Parts at the same time
	OpFill       // others use up the disk, but for Len bytes
	OpRoom       // the disk has no limit any more
)

var opNames = [...]string{"OpWrite", "OpFUA", "OpDiscard", "OpWriteZeroes", "OpFlush", "OpRead",
	"OpCreateLUN", "OpResize", "OpRenameLUN", "OpDeleteLUN", "OpSnapshot", "OpRevert", "OpClone",
	"OpDeleteSnapshot", "OpRenameSnapshot", "OpSettle", "OpCompact", "OpReopen", "OpConcurrent", "OpFill", "OpRoom"}

func (k OpKind) String() string {
	if int(k) < len(opNames) {
		return opNames[k]
	}
	return fmt.Sprintf("OpKind(%d)", k)
}

// Op is an operation on whatever there is when its turn comes. One that
// cannot be done then is passed over.
type Op struct {
	Kind OpKind
	// LUN numbers the LUNs from the oldest, Snap a LUN's snapshots from the
	// newest, both going round.
	LUN, Snap int
	// Off and Len are in bytes; what lies past the end of the LUN is cut off.
	Off, Len int64
	Group    bool // OpSnapshot
	Force    bool // OpDeleteLUN, OpRevert: though the LUN is open
	// Parts of OpConcurrent are operations on data, no two of them on one
	// sector, OpSettle, OpCompact, and at most one of OpSnapshot, OpDeleteSnapshot and
	// OpClone.
	Parts []Op
}

// String writes the operation as a composite literal of Go, without the type.
func (o Op) String() string {
	s := []string{"Kind: blockdevtest." + o.Kind.String()}
	add := func(name string, n int64) {
		if n != 0 {
			s = append(s, fmt.Sprintf("%s: %d", name, n))
		}
	}
	add("LUN", int64(o.LUN))
	add("Snap", int64(o.Snap))
	add("Off", o.Off)
	add("Len", o.Len)
	if o.Group {
		s = append(s, "Group: true")
	}
	if o.Force {
		s = append(s, "Force: true")
	}
	if len(o.Parts) > 0 {
		var parts []string
		for _, p := range o.Parts {
			parts = append(parts, p.String())
		}
		s = append(s, "Parts: []blockdevtest.Op{"+strings.Join(parts, ", ")+"}")
	}
	return "{" + strings.Join(s, ", ") + "}"
}

// Config is what a run starts from.
type Config struct {
	// LUNs is how many LUNs there are at first, 2 if 0, of Blocks blocks of
	// 4 KiB each, 16 if 0.
	LUNs   int
	Blocks int64
	// MaxLUNs, 4 if 0, and MaxSnapshots of a LUN, 6 if 0: what would make
	// more is passed over. A LUN grows to twice its size at most.
	MaxLUNs, MaxSnapshots int
	Disk                  DiskOptions
}

func (c Config) withDefaults() Config {
	set := func(n *int, to int) {
		if *n == 0 {
			*n = to
		}
	}
	set(&c.LUNs, 2)
	set(&c.MaxLUNs, max(4, c.LUNs))
	set(&c.MaxSnapshots, 6)
	if c.Blocks == 0 {
		c.Blocks = 16
	}
	return c
}

// bytes is the size of a new LUN.
func (c Config) bytes() int64 { return c.Blocks * pageSize }

// Crash is a way to end a round.
type Crash struct {
	// Call is the mutating call to stop at, from 1, counted from the start of
	// the round or, for the second crash of a round and later ones, of the
	// recovery. If there are fewer calls, or Call is 0, the first crash comes
	// after the last operation, and a later one not at all.
	Call int64
	Kind Kind
	Seed uint64
	// Faults are injected in the recovery, which may then fail; if it does, the
	// process dies and the next recovery is without.
	Faults []Fault
}

// Round is a list of operations, then crashes: the first in the operations,
// each further one in the recovery from the one before. Without crashes the
// pool stays open for the next round.
type Round struct {
	Ops     []Op
	Crashes []Crash
	// Faults are injected at the start, Nth counting from there, and end with
	// the round. Operations may then fail, but not by halves.
	Faults []Fault
}

// Case is a run that a test can repeat. Every round begins and ends with
// everything being compared with the model.
type Case struct {
	Config Config
	Rounds []Round
}

// String writes the case in Go.
func (c Case) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "blockdevtest.Case{\n\tConfig: %s,\n\tRounds: []blockdevtest.Round{\n", c.Config.literal())
	for _, r := range c.Rounds {
		b.WriteString("\t\t{\n")
		if len(r.Ops) > 0 {
			b.WriteString("\t\t\tOps: []blockdevtest.Op{\n")
			for _, o := range r.Ops {
				fmt.Fprintf(&b, "\t\t\t\t%v,\n", o)
			}
			b.WriteString("\t\t\t},\n")
		}
		if len(r.Crashes) > 0 {
			b.WriteString("\t\t\tCrashes: []blockdevtest.Crash{")
			for i, x := range r.Crashes {
				if i > 0 {
					b.WriteString(", ")
				}
				fmt.Fprintf(&b, "{Call: %d, Kind: blockdevtest.%v, Seed: %d%s}", x.Call, x.Kind, x.Seed, faultsLiteral(", Faults: ", x.Faults))
			}
			b.WriteString("},\n")
		}
		if len(r.Faults) > 0 {
			fmt.Fprintf(&b, "\t\t\t%s, // %v: %v\n", faultsLiteral("Faults: ", r.Faults), r.Faults[0].Classes, r.Faults[0].Err)
		}
		b.WriteString("\t\t},\n")
	}
	b.WriteString("\t},\n}")
	return b.String()
}

// faultsLiteral writes faults in Go after a prefix, "" for none.
func faultsLiteral(prefix string, faults []Fault) string {
	var s []string
	for _, f := range faults {
		s = append(s, fmt.Sprintf("{Classes: %d, Nth: %d, Forever: %v, Err: syscall.Errno(%d)}", f.Classes, f.Nth, f.Forever, f.Err))
	}
	if len(s) == 0 {
		return ""
	}
	return prefix + "[]blockdevtest.Fault{" + strings.Join(s, ", ") + "}"
}

func (c Config) literal() string {
	s := []string{}
	add := func(name string, n int64) {
		if n != 0 {
			s = append(s, fmt.Sprintf("%s: %d", name, n))
		}
	}
	add("LUNs", int64(c.LUNs))
	add("Blocks", c.Blocks)
	add("MaxLUNs", int64(c.MaxLUNs))
	add("MaxSnapshots", int64(c.MaxSnapshots))
	if d := c.Disk; d != (DiskOptions{}) {
		s = append(s, fmt.Sprintf("Disk: blockdevtest.DiskOptions{Seed: %d, CapacityBytes: %d, TryRead: %d, Yield: %v}", d.Seed, d.CapacityBytes, d.TryRead, d.Yield))
	}
	return "blockdevtest.Config{" + strings.Join(s, ", ") + "}"
}
