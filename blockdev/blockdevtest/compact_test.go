package blockdevtest_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/rowan-storage/rowan/blockdev/blockdevtest"
)

// crowded makes a search begin with snapshots of which each holds something of
// its own, sums included, so that deleting one gives a layer or head the segments
// of another. After it maintenance does what a crash left, and the power fails
// before anything more is flushed.
func crowded(s *blockdevtest.Search) *blockdevtest.Search {
	s.Setup = []blockdevtest.Op{
		{Kind: blockdevtest.OpFUA, Off: 5 * block, Len: 4 * block},
		{Kind: blockdevtest.OpSnapshot},
		{Kind: blockdevtest.OpWrite, Off: 6 * block, Len: block},
		{Kind: blockdevtest.OpWrite, Off: 9 * block, Len: 2 * block},
		{Kind: blockdevtest.OpDiscard, Off: 5 * block, Len: block},
		{Kind: blockdevtest.OpSnapshot},
		{Kind: blockdevtest.OpWrite, Off: 7 * block, Len: block},
		{Kind: blockdevtest.OpWrite, Off: 1 * block, Len: block},
		{Kind: blockdevtest.OpSnapshot},
		{Kind: blockdevtest.OpWrite, Off: 2 * block, Len: block},
		{Kind: blockdevtest.OpSettle},
	}
	s.After = []blockdevtest.Round{
		{Ops: []blockdevtest.Op{{Kind: blockdevtest.OpSettle}}, Crashes: []blockdevtest.Crash{{Kind: blockdevtest.PowerCutLoseAll}}},
		{Ops: []blockdevtest.Op{
			{Kind: blockdevtest.OpWrite, Off: 7*block + 512, Len: block},
			{Kind: blockdevtest.OpSnapshot},
			{Kind: blockdevtest.OpSettle},
		}},
	}
	return s
}

// crowdedOperations are those whose sequences are searched from there.
func crowdedOperations() []blockdevtest.Op {
	return []blockdevtest.Op{
		{Kind: blockdevtest.OpWrite, Off: 6*block + 512, Len: 2 * block},
		{Kind: blockdevtest.OpWrite, Off: 8 * block, Len: block, LUN: 2}, // the clone
		{Kind: blockdevtest.OpDiscard, Off: 6 * block, Len: block},
		{Kind: blockdevtest.OpFlush},
		{Kind: blockdevtest.OpSnapshot},
		{Kind: blockdevtest.OpRevert, Snap: 1, Force: true},
		{Kind: blockdevtest.OpClone, Snap: 1},
		{Kind: blockdevtest.OpDeleteSnapshot},
		{Kind: blockdevtest.OpDeleteSnapshot, Snap: 1},
		{Kind: blockdevtest.OpDeleteSnapshot, Snap: 2},
		{Kind: blockdevtest.OpDeleteLUN, Force: true},
		{Kind: blockdevtest.OpResize, Len: 2 * block},
		{Kind: blockdevtest.OpCompact},
		{Kind: blockdevtest.OpReopen},
	}
}

// compactions are sequences that merge segments, each in another way.
func compactions() map[string][]blockdevtest.Op {
	remove := func(snap int) blockdevtest.Op {
		return blockdevtest.Op{Kind: blockdevtest.OpDeleteSnapshot, Snap: snap}
	}
	compact := blockdevtest.Op{Kind: blockdevtest.OpCompact}
	return map[string][]blockdevtest.Op{
		"of a snapshot":             {remove(2), compact},
		"of a head":                 {remove(0), remove(0), compact},
		"of a head that is written": {remove(0), compact, {Kind: blockdevtest.OpWrite, Off: 9 * block, Len: block}, remove(0), compact},
		"of what a clone stands on": {{Kind: blockdevtest.OpClone, Snap: 1}, remove(2), remove(1), compact},
		"of a layer without a name": {{Kind: blockdevtest.OpClone, Snap: 1}, remove(1), remove(1), compact},
	}
}

// shareCrowded searches some of the compactions and every nth of the sequences.
func shareCrowded(t *testing.T, s *blockdevtest.Search, names []string, nth int, one func(ops []blockdevtest.Op) (blockdevtest.Tried, error),
	exhaustive func(ops []blockdevtest.Op, length, first, nth int) (blockdevtest.Tried, error)) {
	t.Helper()
	var tried blockdevtest.Tried
	for _, name := range names {
		n, err := one(compactions()[name])
		tried.Add(n)
		if err != nil {
			t.Log(name)
			s.Fail(t, tried, err)
		}
		if raceDetector {
			break
		}
	}
	nth *= 16 / int(seeds(16))
	n, err := exhaustive(crowdedOperations(), sequenceLength, nth-1, nth)
	tried.Add(n)
	s.Report(t, tried, err)
}

// TestEngineCompactionCrashed crashes compaction at every call.
func TestEngineCompactionCrashed(t *testing.T) {
	t.Parallel()
	s := crowded(search())
	shareCrowded(t, s, slices.Sorted(maps.Keys(compactions())), 401, s.CrashEverywhere, s.Exhaustive)
}

// TestEngineCompactionCrashedAgain also crashes at every call of the recovery.
func TestEngineCompactionCrashedAgain(t *testing.T) {
	t.Parallel()
	s := crowded(searchAgain())
	s.After = s.After[:1]
	shareCrowded(t, s, nil, 1201, s.CrashEverywhere, s.Exhaustive)
	if raceDetector {
		return
	}
	ops := compactions()["of a snapshot"]
	last := len(ops) - 1
	s.Setup = append(s.Setup, ops[:last]...)
	tried, err := s.CrashEverywhere(ops[last:])
	s.Report(t, tried, err)
}

// TestEngineCompactionFaults has every call of compaction fail.
func TestEngineCompactionFaults(t *testing.T) {
	t.Parallel()
	s := crowded(searchFaults())
	s.After = nil
	shareCrowded(t, s, []string{"of a snapshot", "of a head", "of a layer without a name"}, 1201, s.FailEverywhere, s.ExhaustiveFaults)
}
