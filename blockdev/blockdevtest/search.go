package blockdevtest

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// Search is a search for a crash that an engine does not survive.
type Search struct {
	Target Target
	Config Config
	// Setup is done before anything is crashed.
	Setup []Op
	// Crashes are the ways to crash at each call; Call is not used.
	Crashes []Crash
	// Again are the ways to crash at each call of the recovery from each of
	// them; nil for no second crash.
	Again []Crash
	// Faults are the ways in which FailEverywhere makes each call fail; Nth is
	// not used.
	Faults []Fault
	// After is done after each recovery, to see that the pool is well; nil for
	// flushes and a power cut, then a few writes and a snapshot.
	After []Round
	// Deadline ends the search early, unless zero.
	Deadline time.Time
}

// Tried counts what a search tried.
type Tried struct {
	Sequences int // lists of operations
	Points    int // calls that a crash was tried at, or that were made to fail
	Again     int // calls of recoveries that another crash was tried at
	Crashes   int // recoveries that were compared with the model
}

// Add adds to the counts.
func (n *Tried) Add(m Tried) {
	n.Sequences += m.Sequences
	n.Points += m.Points
	n.Again += m.Again
	n.Crashes += m.Crashes
}

func (n Tried) String() string {
	return fmt.Sprintf("%d sequences, %d crash points and %d in recoveries, %d recoveries", n.Sequences, n.Points, n.Again, n.Crashes)
}

// AllKinds are the ways to crash that a search should try: by name, and by
// a few seeds.
func AllKinds(seeds int) []Crash {
	c := []Crash{{Kind: PowerCutLoseAll}, {Kind: PowerCutKeepAll}}
	for i := range seeds {
		c = append(c, Crash{Kind: Kill, Seed: uint64(i)}, Crash{Kind: PowerCut, Seed: uint64(i)})
	}
	return c
}

func (s *Search) after() []Round {
	if s.After != nil {
		return s.After
	}
	flush := Round{Crashes: []Crash{{Kind: PowerCutLoseAll}}}
	for i := range s.Config.withDefaults().LUNs + 1 {
		flush.Ops = append(flush.Ops, Op{Kind: OpFlush, LUN: i})
	}
	return []Round{flush, {Ops: []Op{
		{Kind: OpWrite, Off: 3*pageSize + 512, Len: pageSize},
		{Kind: OpSnapshot},
		{Kind: OpWrite, Off: 3 * pageSize, Len: pageSize},
	}}}
}

func (s *Search) late() bool { return !s.Deadline.IsZero() && time.Now().After(s.Deadline) }

// CrashEverywhere does the operations, crashes at each call in each way, and
// compares. The error is a *Failure.
func (s *Search) CrashEverywhere(ops []Op) (Tried, error) { return s.crashIn(ops, 0) }

// crashIn crashes at each call from operation first on: what comes before has
// been tried where it stood alone.
func (s *Search) crashIn(ops []Op, first int) (Tried, error) {
	tried := Tried{Sequences: 1}
	done, passed, err := s.uncrashed(ops, first)
	if err != nil {
		return tried, err
	}
	if passed {
		return Tried{}, nil // the same as a shorter list
	}
	// Where the engine has goroutines the number of calls may vary, so the
	// end is where no crash came about.
	for call := done + 1; !s.late(); call++ {
		n, more, err := s.crashAt(ops, call)
		tried.Add(n)
		if err != nil || !more {
			return tried, err
		}
	}
	return tried, nil
}

// uncrashed does the operations without a crash. It returns the number of
// calls before operation first, and whether any operation was passed over.
func (s *Search) uncrashed(ops []Op, first int) (calls int64, passed bool, err error) {
	c := Case{Config: s.Config, Rounds: []Round{{Ops: s.Setup}, {Ops: ops[:first]}, {Ops: ops[first:]}}}
	c.Rounds = append(c.Rounds, s.after()...)
	rep, err := Run(s.Target, c)
	if err != nil {
		return 0, false, err
	}
	return rep.Calls[1], rep.Skipped[1]+rep.Skipped[2] > 0, nil
}

// caseOf returns the case that crashes the operations in a way.
func (s *Search) caseOf(ops []Op, crashes ...Crash) Case {
	rounds := []Round{{Ops: s.Setup}, {Ops: ops, Crashes: crashes}}
	return Case{Config: s.Config, Rounds: append(rounds, s.after()...)}
}

// crashAt does the operations up to one call, and tries every outcome of a
// crash there. more is false if the operations ended before: then the crash
// came after them.
func (s *Search) crashAt(ops []Op, call int64) (tried Tried, more bool, err error) {
	r, err := newRun(s.Target, s.caseOf(ops, Crash{Call: call}))
	if err != nil {
		return tried, false, err
	}
	defer func() { err = errors.Join(err, r.abandon()) }()
	if _, err := r.operate(Round{Ops: s.Setup}, 0); err != nil {
		return tried, false, r.failure("setup", err)
	}
	r.at = 1
	if _, err := r.operate(Round{Ops: ops}, call); err != nil {
		return tried, false, r.failure("operations", err)
	}
	more = r.stopped()
	tried.Points++
	for _, crash := range s.Crashes {
		crash.Call = call
		n, err := s.outcomes(r, ops, crash)
		tried.Add(n)
		if err != nil {
			return tried, more, err
		}
	}
	return tried, more, nil
}

// outcomes tries one way of a crash, and every call of the recovery from it.
func (s *Search) outcomes(r *run, ops []Op, crash Crash) (Tried, error) {
	tried := Tried{Crashes: 1}
	if _, err := s.recover(r, s.caseOf(ops, crash)); err != nil {
		return tried, err
	}
	for _, second := range s.Again {
		for second.Call = 1; ; second.Call++ {
			crashed, err := s.recover(r, s.caseOf(ops, crash, second))
			tried.Crashes++
			if err != nil {
				return tried, err
			}
			if !crashed {
				break
			}
			tried.Again++
		}
	}
	return tried, nil
}

// recover ends a copy of a stopped run with the crashes of its case. again
// tells whether the second crash came about.
func (s *Search) recover(stopped *run, c Case) (again bool, err error) {
	r := stopped.fork(c)
	r.at = 1
	round := c.Rounds[1]
	for j, crash := range round.Crashes {
		next := int64(0)
		if j+1 < len(round.Crashes) {
			next = round.Crashes[j+1].Call
		}
		opened, err := r.crash(crash, next)
		if err != nil {
			return false, errors.Join(r.failure(fmt.Sprintf("crash %d", j), err), r.abandon())
		}
		if opened {
			break
		}
		again = true
	}
	for i := 2; i < len(c.Rounds); i++ {
		if _, err := r.round(i, c.Rounds[i]); err != nil {
			return again, errors.Join(err, r.abandon())
		}
	}
	if err := r.finish(); err != nil {
		return again, errors.Join(r.failure("after the last round", err), r.abandon())
	}
	return again, nil
}

// fork copies a stopped run, without its pool.
func (r *run) fork(c Case) *run {
	f := &run{c: c, stops: append([]string{}, r.stops...)}
	f.target, f.config, f.faults = r.target, r.config, r.faults
	f.disk, f.model = r.disk.Clone(), r.model.Clone()
	f.stamp, f.stamps = r.stamp, append([]string{}, r.stamps...)
	return f
}

// Exhaustive crashes every sequence of up to length of the operations in a
// list, or every nth of them beginning with first.
func (s *Search) Exhaustive(ops []Op, length, first, nth int) (Tried, error) {
	return s.each(ops, length, first, nth, func(ops []Op) (Tried, error) { return s.crashIn(ops, len(ops)-1) })
}

// ExhaustiveFaults does FailEverywhere with the sequences that Exhaustive
// would crash.
func (s *Search) ExhaustiveFaults(ops []Op, length, first, nth int) (Tried, error) {
	return s.each(ops, length, first, nth, func(ops []Op) (Tried, error) { return s.failIn(ops, len(ops)-1) })
}

// Sequences is how many sequences of up to length there are of so many
// operations.
func Sequences(ops, length int) int {
	total, count := 0, 1
	for range length {
		count *= ops
		total += count
	}
	return total
}

// each calls try for every nth sequence of up to length, beginning with first.
func (s *Search) each(ops []Op, length, first, nth int, try func(ops []Op) (Tried, error)) (Tried, error) {
	var tried Tried
	for k := first % nth; k < Sequences(len(ops), length) && !s.late(); k += nth {
		n, err := try(sequence(ops, k))
		tried.Add(n)
		if err != nil {
			return tried, err
		}
	}
	return tried, nil
}

// sequence returns the kth sequence, the short ones first.
func sequence(ops []Op, k int) []Op {
	count := len(ops)
	length := 1
	for ; k >= count; length++ {
		k -= count
		count *= len(ops)
	}
	s := make([]Op, length)
	for i := range s {
		s[i] = ops[k%len(ops)]
		k /= len(ops)
	}
	return s
}

// Report fails a test with an error of a search, reduced, or logs what was
// tried.
func (s *Search) Report(tb testing.TB, tried Tried, err error) {
	tb.Helper()
	if err != nil {
		s.Fail(tb, tried, err)
	}
	tb.Log(tried)
}

// Fail fails a test with an error of a search, reduced.
func (s *Search) Fail(tb testing.TB, tried Tried, err error) {
	tb.Helper()
	var f *Failure
	if errors.As(err, &f) {
		err = Shrink(s.Target, f, 20*time.Second)
	}
	tb.Fatalf("after %v: %v", tried, err)
}
