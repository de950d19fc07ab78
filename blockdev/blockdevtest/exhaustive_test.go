package blockdevtest_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/blockdev/blockdevtest"
)

// sequenceLength is how long the sequences are that are searched through.
const sequenceLength = 3

// operations are those whose sequences are searched. Block 7 and 8 are in
// different shards.
func operations() []blockdevtest.Op {
	return []blockdevtest.Op{
		{Kind: blockdevtest.OpWrite, Off: 7 * block, Len: block},
		{Kind: blockdevtest.OpWrite, Off: 7*block + 512, Len: 512},
		{Kind: blockdevtest.OpWrite, Off: 6*block + 100, Len: 3 * block},
		{Kind: blockdevtest.OpWrite, Off: 6 * block, Len: 2 * block, LUN: 2}, // the clone, if there is one
		{Kind: blockdevtest.OpFUA, Off: 7 * block, Len: block},
		{Kind: blockdevtest.OpDiscard, Off: 7 * block, Len: block},
		{Kind: blockdevtest.OpDiscard, Off: 5*block + 512, Len: 4 * block},
		{Kind: blockdevtest.OpWriteZeroes, Off: 7*block + 1000, Len: 100},
		{Kind: blockdevtest.OpFlush},
		{Kind: blockdevtest.OpSnapshot},
		{Kind: blockdevtest.OpSnapshot, Group: true},
		{Kind: blockdevtest.OpRevert},
		{Kind: blockdevtest.OpRevert, Snap: 1, Force: true},
		{Kind: blockdevtest.OpClone},
		{Kind: blockdevtest.OpDeleteSnapshot},
		{Kind: blockdevtest.OpDeleteLUN, Force: true},
		{Kind: blockdevtest.OpResize, Len: 2 * block},
		{Kind: blockdevtest.OpRenameLUN},
		{Kind: blockdevtest.OpSettle},
		{Kind: blockdevtest.OpCompact},
		{Kind: blockdevtest.OpReopen},
	}
}

// search starts from LUNs of which one has data on disk, in a snapshot and in
// its head. It crashes in all ways.
func search() *blockdevtest.Search {
	return &blockdevtest.Search{
		Target: engine(true),
		Config: blockdevtest.Config{Blocks: 12},
		Setup: []blockdevtest.Op{
			{Kind: blockdevtest.OpFUA, Off: 5 * block, Len: 4 * block},
			{Kind: blockdevtest.OpSnapshot},
			{Kind: blockdevtest.OpWrite, Off: 6 * block, Len: block},
		},
		Crashes: blockdevtest.AllKinds(1),
	}
}

// searchAgain crashes in one way, and again in the recovery.
func searchAgain() *blockdevtest.Search {
	s := search()
	s.Crashes = []blockdevtest.Crash{{Kind: blockdevtest.PowerCut, Seed: 1}}
	s.Again = []blockdevtest.Crash{{Kind: blockdevtest.PowerCut, Seed: 2}}
	s.After = []blockdevtest.Round{}
	return s
}

// searchFaults has calls fail, in the operations and in the recovery after the
// process died.
func searchFaults() *blockdevtest.Search {
	s := search()
	s.Faults = []blockdevtest.Fault{{Err: syscall.EIO}, {Err: syscall.ENOSPC}, {Err: syscall.EIO, Classes: blockdevtest.ReadAt}}
	s.Crashes = []blockdevtest.Crash{{Kind: blockdevtest.Kill}}
	return s
}

// share searches all single operations and every nth of the sequences, under
// the race detector fewer.
func share(t *testing.T, s *blockdevtest.Search, nth int, exhaustive func(ops []blockdevtest.Op, length, first, nth int) (blockdevtest.Tried, error)) {
	t.Helper()
	start := time.Now()
	var tried blockdevtest.Tried
	for _, part := range []struct{ length, nth int }{{1, 16 / int(seeds(16))}, {sequenceLength, nth * 16 / int(seeds(16))}} {
		n, err := exhaustive(operations(), part.length, part.nth-1, part.nth)
		tried.Add(n)
		if err != nil {
			s.Fail(t, tried, err)
		}
	}
	t.Logf("%v in %v", tried, time.Since(start).Round(time.Second))
}

// TestEngineCrashAtEveryCall crashes every operation and a share of the
// sequences of up to three at every call.
func TestEngineCrashAtEveryCall(t *testing.T) {
	t.Parallel()
	s := search()
	share(t, s, 101, s.Exhaustive)
}

// TestEngineSpillsCrashAtEveryCall does the same to an engine whose maps are in
// the spill file, calls on which are crashed, too.
func TestEngineSpillsCrashAtEveryCall(t *testing.T) {
	t.Parallel()
	s := search()
	s.Target = spilling(true)
	share(t, s, 701, s.Exhaustive)
}

// TestEngineSpillsFaultAtEveryCall has every call fail, and every read.
func TestEngineSpillsFaultAtEveryCall(t *testing.T) {
	t.Parallel()
	s := searchFaults()
	s.Target = spilling(true)
	share(t, s, 1201, s.ExhaustiveFaults)
}

// TestEngineCrashInRecovery also crashes every call of the recovery.
func TestEngineCrashInRecovery(t *testing.T) {
	t.Parallel()
	s := searchAgain()
	share(t, s, 401, s.Exhaustive)
}

// TestEngineFaultAtEveryCall has every call fail, with EIO and ENOSPC.
func TestEngineFaultAtEveryCall(t *testing.T) {
	t.Parallel()
	s := searchFaults()
	share(t, s, 401, s.ExhaustiveFaults)
}

// soakSequences goes through the sequences of up to three operations, in an
// order that mixes them, until ROWAN_SOAK is over or all were tried.
// ROWAN_SOAK_FROM is the number to begin with, by chance if it is not set;
// ROWAN_SOAK_SHARD, such as 2/8, passes over all but one in so many.
func soakSequences(t *testing.T, s *blockdevtest.Search, exhaustive func(ops []blockdevtest.Op, length, first, nth int) (blockdevtest.Tried, error)) {
	t.Helper()
	budget, err := time.ParseDuration(os.Getenv("ROWAN_SOAK"))
	if err != nil {
		t.Skip("ROWAN_SOAK does not say how long, such as 10m")
	}
	ops := operations()
	total := blockdevtest.Sequences(len(ops), sequenceLength)
	from, shard, shards := rand.IntN(total), 1, 1
	if v := os.Getenv("ROWAN_SOAK_FROM"); v != "" {
		if from, err = strconv.Atoi(v); err != nil {
			t.Fatalf("ROWAN_SOAK_FROM: %v", err)
		}
	}
	if v := os.Getenv("ROWAN_SOAK_SHARD"); v != "" {
		if n, err := fmt.Sscanf(v, "%d/%d", &shard, &shards); n != 2 || shard < 1 || shard > shards {
			t.Fatalf("ROWAN_SOAK_SHARD: %q is not such as 2/8: %v", v, err)
		}
	}
	const mix = 7919 // a prime that does not divide any total
	var tried blockdevtest.Tried
	start, told := time.Now(), time.Now()
	i := 0
	for ; i < total && time.Since(start) < budget; i++ {
		at := (from + i) % total
		if at%shards != shard-1 {
			continue
		}
		n, err := exhaustive(ops, sequenceLength, at*mix%total, total)
		tried.Add(n)
		if err != nil {
			t.Logf("repeat with ROWAN_SOAK_FROM=%d", at)
			s.Fail(t, tried, err)
		}
		if time.Since(told) > time.Minute {
			told = time.Now()
			t.Logf("%d of %d from %d, shard %d of %d: %v", i+1, total, from, shard, shards, tried)
		}
	}
	t.Logf("%d of %d from %d, shard %d of %d: %v in %v; go on with ROWAN_SOAK_FROM=%d",
		i, total, from, shard, shards, tried, time.Since(start).Round(time.Second), (from+i)%total)
}

func TestSoakSequencesCrashed(t *testing.T) {
	s := search()
	s.Crashes = blockdevtest.AllKinds(3)
	soakSequences(t, s, s.Exhaustive)
}

func TestSoakSequencesCrashedAgain(t *testing.T) {
	s := searchAgain()
	s.Crashes = append(s.Crashes, blockdevtest.Crash{Kind: blockdevtest.Kill})
	s.Again = append(s.Again, blockdevtest.Crash{Kind: blockdevtest.PowerCutLoseAll}, blockdevtest.Crash{Kind: blockdevtest.Kill})
	soakSequences(t, s, s.Exhaustive)
}

func TestSoakSequencesWithFaults(t *testing.T) {
	s := searchFaults()
	s.Crashes = append(s.Crashes, blockdevtest.Crash{Kind: blockdevtest.PowerCutLoseAll})
	soakSequences(t, s, s.ExhaustiveFaults)
}
