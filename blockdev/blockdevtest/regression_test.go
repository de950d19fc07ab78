package blockdevtest_test

import (
	"syscall"
	"testing"

	"github.com/rowan-storage/rowan/blockdev/blockdevtest"
)

// TestEngineRegressions repeats what once went wrong.
func TestEngineRegressions(t *testing.T) {
	config := blockdevtest.Config{Blocks: 12}
	write := blockdevtest.Op{Kind: blockdevtest.OpWrite, Len: block}
	lost := []blockdevtest.Crash{{Kind: blockdevtest.PowerCutLoseAll}}
	noSpaceToSync := []blockdevtest.Fault{{Classes: blockdevtest.Sync, Nth: 1, Err: syscall.ENOSPC}}
	for _, tt := range []struct {
		name   string
		rounds []blockdevtest.Round
	}{
		{"a flush covers what a killed process wrote in place", []blockdevtest.Round{
			{Ops: []blockdevtest.Op{write, {Kind: blockdevtest.OpReopen}}},
			{Ops: []blockdevtest.Op{write}, Crashes: []blockdevtest.Crash{{Kind: blockdevtest.Kill}}},
			{Ops: []blockdevtest.Op{{Kind: blockdevtest.OpFlush}}, Crashes: lost},
		}},
		{"a flush covers the segment that a killed process made", []blockdevtest.Round{
			{Ops: []blockdevtest.Op{write}, Crashes: []blockdevtest.Crash{{Call: 2, Kind: blockdevtest.Kill}}},
			{Ops: []blockdevtest.Op{{Kind: blockdevtest.OpFUA, Len: block}}, Crashes: lost},
		}},
		{"a presence map renamed by a killed process is made durable", []blockdevtest.Round{
			{Ops: []blockdevtest.Op{{Kind: blockdevtest.OpSnapshot}}},
			{Ops: []blockdevtest.Op{{Kind: blockdevtest.OpSettle}}, Crashes: []blockdevtest.Crash{{Call: 6, Kind: blockdevtest.Kill}}},
			{Crashes: lost},
		}},
		{"snapshots are listed while the only clone of one is being removed", []blockdevtest.Round{
			{Ops: []blockdevtest.Op{
				{Kind: blockdevtest.OpSnapshot},
				{Kind: blockdevtest.OpRevert},
				{Kind: blockdevtest.OpClone},
				{Kind: blockdevtest.OpDeleteLUN, LUN: 2},
			}},
		}},
		{"a sync that finds no space when a killed pool is opened is final", []blockdevtest.Round{
			{Ops: []blockdevtest.Op{write}, Crashes: []blockdevtest.Crash{{Kind: blockdevtest.Kill, Faults: noSpaceToSync}}},
			{Ops: []blockdevtest.Op{{Kind: blockdevtest.OpFlush}}, Crashes: lost},
		}},
		{"a journal file that cannot be removed costs nothing", []blockdevtest.Round{
			{
				Ops:    []blockdevtest.Op{write, {Kind: blockdevtest.OpReopen}},
				Faults: []blockdevtest.Fault{{Classes: blockdevtest.Remove, Nth: 1, Err: syscall.ENOSPC}},
			},
			{Ops: []blockdevtest.Op{write, {Kind: blockdevtest.OpFlush}}, Crashes: lost},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			blockdevtest.Replay(t, engine(true), blockdevtest.Case{Config: config, Rounds: tt.rounds})
		})
	}
}

// TestEngineSpaceAfterACrash: blocks that a crash leaves with nothing to map
// them are given back.
func TestEngineSpaceAfterACrash(t *testing.T) {
	t.Parallel()
	discard := blockdevtest.Op{Kind: blockdevtest.OpDiscard, Off: 6 * block, Len: block}
	settle := blockdevtest.Op{Kind: blockdevtest.OpSettle}
	for _, tt := range []struct {
		name string
		ops  []blockdevtest.Op
	}{
		{"data whose record was lost", []blockdevtest.Op{{Kind: blockdevtest.OpWrite, Off: 9 * block, Len: block}}},
		{"a discard that a checkpoint holds", []blockdevtest.Op{discard, settle}},
		{"a discard in a layer that is sealed", []blockdevtest.Op{discard, {Kind: blockdevtest.OpSnapshot}, settle}},
		{"holes that were not synced", []blockdevtest.Op{{Kind: blockdevtest.OpDeleteSnapshot}, settle}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := search()
			tried, err := s.CrashEverywhere(tt.ops)
			s.Report(t, tried, err)
		})
	}
}

// TestEngineSpaceAfterTwoCrashes: what a process that was killed removed does not
// come back with a power cut, after nobody remembers it.
func TestEngineSpaceAfterTwoCrashes(t *testing.T) {
	t.Parallel()
	s := search()
	s.Crashes = []blockdevtest.Crash{{Kind: blockdevtest.Kill}}
	s.After = []blockdevtest.Round{{
		Ops:     []blockdevtest.Op{{Kind: blockdevtest.OpSettle}},
		Crashes: []blockdevtest.Crash{{Kind: blockdevtest.PowerCutLoseAll}},
	}}
	tried, err := s.CrashEverywhere([]blockdevtest.Op{{Kind: blockdevtest.OpDeleteLUN, Force: true}, {Kind: blockdevtest.OpSettle}})
	s.Report(t, tried, err)
}

// TestEngineSpaceAfterAFault: what an operation took that failed is given
// back.
func TestEngineSpaceAfterAFault(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		ops  []blockdevtest.Op
	}{
		{"a write", []blockdevtest.Op{{Kind: blockdevtest.OpWrite, Off: 9 * block, Len: 2 * block}}},
		{"a discard whose checkpoint failed", []blockdevtest.Op{
			{Kind: blockdevtest.OpDiscard, Off: 6 * block, Len: block},
			{Kind: blockdevtest.OpSettle},
		}},
		{"a snapshot", []blockdevtest.Op{{Kind: blockdevtest.OpSnapshot, Group: true}}},
		{"a clone", []blockdevtest.Op{{Kind: blockdevtest.OpClone}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := searchFaults()
			s.Crashes = nil
			s.After = []blockdevtest.Round{}
			tried, err := s.FailEverywhere(tt.ops)
			s.Report(t, tried, err)
		})
	}
}

// TestEngineDeletedLUNNeedsNoSync: the pool opens though what a deleted LUN left
// cannot be synced, and does not take it for durable.
func TestEngineDeletedLUNNeedsNoSync(t *testing.T) {
	t.Parallel()
	s := searchFaults()
	s.Faults = []blockdevtest.Fault{{Classes: blockdevtest.Sync, Err: syscall.EIO}}
	tried, err := s.FailEverywhere([]blockdevtest.Op{{Kind: blockdevtest.OpDeleteLUN, Force: true}})
	s.Report(t, tried, err)
}
