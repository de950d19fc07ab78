package blockdevtest_test

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

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

// random runs the cases of seeds.
func random(t *testing.T, manual, concurrent bool, first, count uint64) {
	t.Helper()
	randomOn(t, engine(manual), concurrent, first, count)
}

func randomOn(t *testing.T, target blockdevtest.Target, concurrent bool, first, count uint64) {
	t.Helper()
	x := blockdevtest.Random{
		Config: blockdevtest.Config{Blocks: 24, Disk: blockdevtest.DiskOptions{Yield: concurrent, TryRead: blockdevtest.TryReadRandom}},
		Rounds: 12, Ops: 15, Concurrent: concurrent,
	}
	for seed := first; seed < first+count; seed++ {
		x.Config.Disk.Seed = seed
		_, err := blockdevtest.Run(target, x.Case(seed))
		var f *blockdevtest.Failure
		if errors.As(err, &f) {
			t.Fatalf("seed %d: %v\nat first: %s: %v", seed, blockdevtest.Shrink(target, f, 20*time.Second), f.Step, f.Err)
		}
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func TestEngineRandomOperations(t *testing.T) {
	t.Parallel()
	random(t, true, false, 0, seeds(40))
}

// TestEngineRandomConcurrentOperations also has maintenance run by itself.
func TestEngineRandomConcurrentOperations(t *testing.T) {
	t.Parallel()
	random(t, false, true, 0, seeds(40))
}

// TestEngineFlushBesideCheckpoint has a flush and a checkpoint meet, in which the
// flush must not rely on a sync that is still under way.
func TestEngineFlushBesideCheckpoint(t *testing.T) {
	t.Parallel()
	for seed := range seeds(16) {
		s := search()
		s.Config.Disk = blockdevtest.DiskOptions{Seed: seed, Yield: true}
		s.Setup = []blockdevtest.Op{
			{Kind: blockdevtest.OpFUA, Len: 12 * block},
			{Kind: blockdevtest.OpDiscard, Off: 3 * block, Len: block},
			{Kind: blockdevtest.OpFlush},
			{Kind: blockdevtest.OpWrite, Len: block},
		}
		s.Crashes = []blockdevtest.Crash{{Kind: blockdevtest.PowerCutLoseAll}}
		s.After = []blockdevtest.Round{}
		parts := []blockdevtest.Op{{Kind: blockdevtest.OpSettle}}
		for i := range int64(5) {
			parts = append(parts, blockdevtest.Op{Kind: blockdevtest.OpFUA, Off: (4 + i) * block, Len: block})
		}
		tried, err := s.CrashEverywhere([]blockdevtest.Op{{Kind: blockdevtest.OpConcurrent, Parts: parts}})
		if err != nil {
			t.Fatalf("seed %d: after %v: %v", seed, tried, err)
		}
	}
}

// TestEngineReclaimBesideFreeze has maintenance give space back, as it does
// after a crash, while the head that it looks at becomes a snapshot.
func TestEngineReclaimBesideFreeze(t *testing.T) {
	t.Parallel()
	for seed := range seeds(160) {
		freeze := []blockdevtest.OpKind{blockdevtest.OpSnapshot, blockdevtest.OpRevert}[seed%2]
		c := blockdevtest.Case{
			Config: blockdevtest.Config{Blocks: 12, Disk: blockdevtest.DiskOptions{Seed: seed, Yield: true}},
			Rounds: []blockdevtest.Round{
				{
					Ops:     []blockdevtest.Op{{Kind: blockdevtest.OpSnapshot}, {Kind: blockdevtest.OpWrite, Len: 8 * block}},
					Crashes: []blockdevtest.Crash{{Kind: blockdevtest.Kill}},
				},
				{Ops: []blockdevtest.Op{
					{Kind: blockdevtest.OpWrite, Off: 8 * block, Len: block},
					{Kind: blockdevtest.OpWrite, Off: 9 * block, Len: block},
					{Kind: blockdevtest.OpWrite, Off: 10 * block, Len: block},
					{Kind: freeze},
					{Kind: blockdevtest.OpWrite, Off: 8 * block, Len: 4 * block},
					{Kind: blockdevtest.OpSettle},
				}},
			},
		}
		if _, err := blockdevtest.Run(engine(false), c); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// TestEngineFlushBesideFreeze has flushes meet a freeze and the sealing of the
// old head.
func TestEngineFlushBesideFreeze(t *testing.T) {
	t.Parallel()
	parts := []blockdevtest.Op{{Kind: blockdevtest.OpSnapshot}}
	for i := range int64(8) {
		parts = append(parts, blockdevtest.Op{Kind: blockdevtest.OpFUA, Off: i * block, Len: block})
	}
	both := blockdevtest.Op{Kind: blockdevtest.OpConcurrent, Parts: parts}
	for seed := range seeds(48) {
		c := blockdevtest.Case{
			Config: blockdevtest.Config{Blocks: 12, Disk: blockdevtest.DiskOptions{Seed: seed, Yield: true}},
			Rounds: []blockdevtest.Round{{Ops: []blockdevtest.Op{both, both, both, both}}},
		}
		if _, err := blockdevtest.Run(engine(false), c); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// faulty is a case whose second round has a call fail, and whose third ends
// with a power cut.
func faulty(seed uint64, nth int64, errno syscall.Errno) blockdevtest.Case {
	x := blockdevtest.Random{Config: blockdevtest.Config{Blocks: 24}, Rounds: 2, Ops: 10}
	c := x.Case(seed)
	c.Rounds[1].Faults = []blockdevtest.Fault{{Nth: nth, Err: errno}}
	c.Rounds = append(c.Rounds, blockdevtest.Round{Crashes: []blockdevtest.Crash{{Kind: blockdevtest.PowerCut, Seed: seed}}})
	return c
}

// TestEngineFaults has the nth call fail in random cases.
func TestEngineFaults(t *testing.T) {
	t.Parallel()
	for seed := range seeds(12) {
		for nth := int64(1 + seed%4); nth < 50; nth += 4 {
			for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
				if _, err := blockdevtest.Run(engine(true), faulty(seed, nth, errno)); err != nil {
					t.Fatalf("seed %d, call %d, %v: %v", seed, nth, errno, err)
				}
			}
		}
	}
}

// TestEngineSpillsRandomOperations has all maps in the spill file that are not in
// use at the moment.
func TestEngineSpillsRandomOperations(t *testing.T) {
	t.Parallel()
	randomOn(t, spilling(true), false, 1000, seeds(16))
	randomOn(t, spilling(false), true, 1000, seeds(16))
}

// TestEngineSpillsFaults has the nth call fail in random cases, and the nth read.
func TestEngineSpillsFaults(t *testing.T) {
	t.Parallel()
	for seed := range seeds(8) {
		for nth := int64(1 + seed%4); nth < 60; nth += 4 {
			for _, f := range []blockdevtest.Fault{{Err: syscall.EIO}, {Err: syscall.ENOSPC}, {Err: syscall.EIO, Classes: blockdevtest.ReadAt}} {
				c := faulty(seed, nth, syscall.EIO)
				f.Nth = nth
				c.Rounds[1].Faults = []blockdevtest.Fault{f}
				if _, err := blockdevtest.Run(spilling(true), c); err != nil {
					t.Fatalf("seed %d, call %d, %v: %v", seed, nth, f, err)
				}
			}
		}
	}
}

// TestSoakRandomOperations runs random cases on by seed.
func TestSoakRandomOperations(t *testing.T) {
	budget, err := time.ParseDuration(os.Getenv("ROWAN_SOAK"))
	if err != nil {
		t.Skip("ROWAN_SOAK does not say how long, such as 10m")
	}
	start := time.Now()
	for seed := uint64(start.UnixNano()); time.Since(start) < budget; seed += 100 {
		t.Logf("seeds from %d", seed)
		random(t, true, false, seed, 100)
		random(t, false, true, seed, 100)
		randomOn(t, spilling(true), false, seed, 20)
		randomOn(t, spilling(false), true, seed, 20)
	}
}
