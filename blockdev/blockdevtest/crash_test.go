package blockdevtest_test

import (
	"testing"

	"github.com/rowan-storage/rowan/blockdev/blockdevtest"
)

const block = 4096

// seeds returns how many seeds to try, of n: fewer under the race detector.
func seeds(n uint64) uint64 {
	if raceDetector {
		return max(n/8, 1)
	}
	return n
}

// operations are those whose sequences are searched. Block 7 and 8 are in
// different shards.
func operations() []blockdevtest.Op {
	return []blockdevtest.Op{
		{Kind: blockdevtest.OpWrite, Off: 7 * block, Len: block},
		{Kind: blockdevtest.OpWrite, Off: 7*block + 512, Len: 512},
		{Kind: blockdevtest.OpWrite, Off: 6*block + 100, Len: 3 * block},
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
		{Kind: blockdevtest.OpReopen},
	}
}

// search starts from LUNs of which one has data on disk, in a snapshot and in
// its head.
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
		After: []blockdevtest.Round{{Ops: []blockdevtest.Op{
			{Kind: blockdevtest.OpWrite, Off: 3*block + 512, Len: block},
			{Kind: blockdevtest.OpSnapshot},
			{Kind: blockdevtest.OpWrite, Off: 3 * block, Len: block},
			{Kind: blockdevtest.OpFlush},
		}}},
	}
}

// TestEngineCrashAtEveryCall crashes every operation, and a share of the sequences
// of two.
func TestEngineCrashAtEveryCall(t *testing.T) {
	t.Parallel()
	s := search()
	tried, err := s.Exhaustive(operations(), 1, 0, 16/int(seeds(16)))
	s.Report(t, tried, err)
	tried, err = s.Exhaustive(operations(), 2, 3, 361/int(seeds(16)))
	s.Report(t, tried, err)
}

// TestEngineCrashOfANewPool crashes the making of the pool and its first LUN.
func TestEngineCrashOfANewPool(t *testing.T) {
	t.Parallel()
	target := engine(true)
	for _, kind := range []blockdevtest.Kind{blockdevtest.Kill, blockdevtest.PowerCutLoseAll, blockdevtest.PowerCut} {
		for call := int64(1); ; call++ {
			disk := blockdevtest.NewDisk(blockdevtest.DiskOptions{})
			disk.StopAt(call)
			p, err := target.Open(disk.Session(), disk.BootID())
			_, stopped := disk.Stopped()
			if !stopped && err != nil {
				t.Fatal(err)
			}
			crashed := disk.Clone()
			if p != nil {
				_ = p.Close() // fails where the disk has stopped
			}
			crashed.Crash(kind, uint64(call))
			if p, err = target.Open(crashed.Session(), crashed.BootID()); err != nil {
				t.Fatalf("%v at call %d: %v", kind, call, err)
			}
			if err := p.Close(); err != nil {
				t.Fatalf("%v at call %d: close: %v", kind, call, err)
			}
			if err := target.Check(crashed.Session()); err != nil {
				t.Fatalf("%v at call %d: %v", kind, call, err)
			}
			if !stopped {
				break
			}
		}
	}
}
