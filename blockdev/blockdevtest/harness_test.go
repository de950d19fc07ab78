package blockdevtest

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// toyOps are operations that between them show every bug of the toy.
func toyOps() []Op {
	return []Op{
		{Kind: OpWrite, Off: pageSize, Len: pageSize},
		{Kind: OpWrite, Off: 2*pageSize - 512, Len: 1024},
		{Kind: OpWrite, Off: pageSize + 7, Len: 700},
		{Kind: OpFUA, Off: pageSize, Len: 2 * pageSize},
		{Kind: OpDiscard, Off: 512, Len: 2 * pageSize},
		{Kind: OpWriteZeroes, Off: pageSize, Len: 100},
		{Kind: OpFlush},
		{Kind: OpSnapshot, Group: true},
		{Kind: OpRevert},
		{Kind: OpRevert, Snap: 1, Force: true},
		{Kind: OpClone},
		{Kind: OpDeleteSnapshot},
		{Kind: OpDeleteLUN, Force: true},
		{Kind: OpResize, Len: pageSize},
		{Kind: OpRenameLUN},
		{Kind: OpRenameSnapshot},
		{Kind: OpSettle},
		{Kind: OpReopen},
	}
}

func toySearch(b bug) *Search {
	return &Search{
		Target: toyTarget(b),
		Config: Config{Blocks: 4},
		Setup: []Op{
			{Kind: OpFUA, Off: 0, Len: 4 * pageSize},
			{Kind: OpSnapshot},
			{Kind: OpWrite, Off: 0, Len: 2 * pageSize},
		},
		Crashes: AllKinds(3),
	}
}

func TestSearchOfARightEngine(t *testing.T) {
	t.Parallel()
	s := toySearch(none)
	tried, err := s.Exhaustive(toyOps(), 2, 0, 23)
	s.Report(t, tried, err)
	if tried.Sequences < 10 || tried.Points < 50 || tried.Crashes < 8*tried.Points {
		t.Errorf("only %v", tried)
	}
}

func TestSearchOfRecovery(t *testing.T) {
	s := toySearch(none)
	s.Crashes = []Crash{{Kind: Kill}, {Kind: PowerCut, Seed: 1}}
	s.Again = []Crash{{Kind: PowerCut, Seed: 2}}
	tried, err := s.Exhaustive(toyOps(), 1, 0, 1)
	s.Report(t, tried, err)
	if tried.Crashes < 4*tried.Points {
		t.Errorf("only %v", tried)
	}
}

// TestRandomOfARightEngine also has concurrent operations.
func TestRandomOfARightEngine(t *testing.T) {
	x := Random{Config: Config{Blocks: 8}, Rounds: 10, Ops: 12, Concurrent: true}
	var skipped, calls int
	for seed := range uint64(25) {
		rep, err := Run(toyTarget(none), x.Case(seed))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for i, n := range rep.Calls {
			calls += int(n)
			skipped += rep.Skipped[i]
		}
	}
	if calls < 5000 || skipped > 500 {
		t.Errorf("%d calls, %d operations passed over", calls, skipped)
	}
}

// TestBugsAreFound shows that the harness can fail: each bug of the toy is
// found, by short sequences or by random ones.
func TestBugsAreFound(t *testing.T) {
	for _, b := range []bug{
		buffersWrites, noSyncDir, noSyncOfCopies, flushNoSync, sharesSnapshot, punchesFirst, fillsWithZeros,
		groupInSteps, revertInSteps, revertSavesWrong, ignoresErrors, removesFirst, leaksFiles,
		diffLies, discardsMore, missesAWrite,
	} {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			s := toySearch(b)
			tried, err := s.Exhaustive(toyOps(), 2, 0, 1)
			wantFailure(t, s.Target, err)
			t.Log(tried)
		})
	}
}

func TestBugsAreFoundByRandomCases(t *testing.T) {
	for _, b := range []bug{mixesWrites, twoCopies, flushNoSync, noSyncDir, sharesSnapshot, buffersWrites} {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			x := Random{Config: Config{Blocks: 8}, Rounds: 10, Ops: 12, Concurrent: true}
			for seed := range uint64(40) {
				if _, err := Run(toyTarget(b), x.Case(seed)); err != nil {
					return
				}
			}
			t.Error("not found")
		})
	}
}

// wantFailure checks that an error is a failure that can be reduced to a few
// operations, which fail when repeated.
func wantFailure(t *testing.T, target Target, err error) {
	t.Helper()
	var f *Failure
	if !errors.As(err, &f) {
		t.Fatalf("not found: %v", err)
	}
	small := Shrink(target, f, 5*time.Second)
	ops := 0
	for _, r := range small.Case.Rounds {
		ops += len(r.Ops)
	}
	if ops > 5 {
		t.Errorf("%d operations are left:\n%v", ops, small)
	}
	if _, err := Run(target, small.Case); err == nil {
		t.Errorf("the reduced case does not fail:\n%v", small)
	}
	if testing.Verbose() {
		t.Log(small)
	}
}

// faultCase makes every nth call of a case fail, then crashes.
func faultCase(n int64, errno syscall.Errno, kind Kind) Case {
	return Case{Config: Config{Blocks: 4}, Rounds: []Round{{
		Ops: []Op{
			{Kind: OpWrite, Len: pageSize},
			{Kind: OpFlush},
			{Kind: OpWrite, Off: 512, Len: pageSize},
			{Kind: OpFlush},
			{Kind: OpSnapshot, Group: true},
			{Kind: OpFlush},
			{Kind: OpWrite, Len: 3 * pageSize},
			{Kind: OpRevert},
			{Kind: OpDeleteSnapshot},
			{Kind: OpReopen},
			{Kind: OpFUA, Off: 100, Len: pageSize},
			{Kind: OpRead},
		},
		Faults:  []Fault{{Nth: n, Err: errno}},
		Crashes: []Crash{{Kind: kind, Seed: uint64(n)}},
	}}}
}

func TestFaults(t *testing.T) {
	for n := int64(1); n < 60; n++ {
		for _, kind := range []Kind{Kill, PowerCutLoseAll, PowerCut} {
			if _, err := Run(toyTarget(none), faultCase(n, syscall.EIO, kind)); err != nil {
				t.Fatalf("call %d: %v", n, err)
			}
		}
	}
}

func TestFaultsFindASyncTriedAgain(t *testing.T) {
	for n := int64(1); n < 60; n++ {
		if _, err := Run(toyTarget(syncsAgain), faultCase(n, syscall.EIO, PowerCutLoseAll)); err != nil {
			return
		}
	}
	t.Error("not found")
}

func TestCasesRunTheSameWayTwice(t *testing.T) {
	x := Random{Config: Config{Blocks: 8}, Rounds: 6, Ops: 12}
	for seed := range uint64(5) {
		c := x.Case(seed)
		a, errA := Run(toyTarget(none), c)
		b, errB := Run(toyTarget(none), c)
		if fmt.Sprint(a, errA) != fmt.Sprint(b, errB) {
			t.Fatalf("seed %d: %v, %v and %v, %v", seed, a, errA, b, errB)
		}
	}
}

func TestCaseString(t *testing.T) {
	c := Case{
		Config: Config{LUNs: 1, Blocks: 4, Disk: DiskOptions{Seed: 3}},
		Rounds: []Round{{
			Ops: []Op{
				{Kind: OpWrite, LUN: 1, Off: 512, Len: 1024},
				{Kind: OpConcurrent, Parts: []Op{{Kind: OpFlush}, {Kind: OpSnapshot, Group: true}}},
				{Kind: OpRevert, Snap: 2, Force: true},
			},
			Crashes: []Crash{{Call: 7, Kind: PowerCutLoseAll, Seed: 9}, {Call: 1}},
			Faults:  []Fault{{Nth: 1, Classes: Sync, Err: syscall.EIO}},
		}},
	}
	const want = `blockdevtest.Case{
	Config: blockdevtest.Config{LUNs: 1, Blocks: 4, Disk: blockdevtest.DiskOptions{Seed: 3, CapacityBytes: 0, TryRead: 0, Yield: false}},
	Rounds: []blockdevtest.Round{
		{
			Ops: []blockdevtest.Op{
				{Kind: blockdevtest.OpWrite, LUN: 1, Off: 512, Len: 1024},
				{Kind: blockdevtest.OpConcurrent, Parts: []blockdevtest.Op{{Kind: blockdevtest.OpFlush}, {Kind: blockdevtest.OpSnapshot, Group: true}}},
				{Kind: blockdevtest.OpRevert, Snap: 2, Force: true},
			},
			Crashes: []blockdevtest.Crash{{Call: 7, Kind: blockdevtest.PowerCutLoseAll, Seed: 9}, {Call: 1, Kind: blockdevtest.Kill, Seed: 0}},
			Faults: []blockdevtest.Fault{{Classes: 2, Nth: 1, Forever: false, Err: syscall.Errno(5)}}, // sync: input/output error
		},
	},
}`
	if got := c.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if strings.Count(OpKind(200).String()+Kind(200).String(), "200") != 2 {
		t.Error("unknown kinds are not named by number")
	}
}
