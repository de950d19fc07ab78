package blockdevtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// Failure is what a run found wrong with the engine.
type Failure struct {
	Case   Case
	Round  int      // the round it was found in or after
	Step   string   // what was being done
	Stops  []string // the calls that the disk stopped at
	Stamps []string // what each write wrote
	Err    error
}

// Error describes the failure with a Case to repeat it.
func (f *Failure) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %v\n", f.Step, f.Err)
	for _, s := range f.Stops {
		fmt.Fprintf(&b, "stopped at %s\n", s)
	}
	stamps := f.Stamps
	if len(stamps) > 40 {
		fmt.Fprintf(&b, "(%d earlier writes)\n", len(stamps)-40)
		stamps = stamps[len(stamps)-40:]
	}
	for _, s := range stamps {
		fmt.Fprintf(&b, "%s\n", s)
	}
	fmt.Fprintf(&b, "repeat with\n%v", f.Case)
	return b.String()
}

// Unwrap returns what was wrong.
func (f *Failure) Unwrap() error { return f.Err }

// Report is what a run did.
type Report struct {
	Calls   []int64 // mutating calls in each round, until its crash
	Skipped []int   // operations passed over in each round
	Failed  int64   // calls that faults made fail
}

// run is a Case on its way.
type run struct {
	runner
	c     Case
	at    int // the round
	stops []string
	// failed counts the calls that faults made fail in the round.
	failed int64
}

// newRun makes the disk and the pool, with the LUNs that the Case begins with.
func newRun(t Target, c Case) (*run, error) {
	r := &run{c: c}
	r.target, r.config, r.ctx = t, c.Config.withDefaults(), context.Background()
	r.disk, r.model = NewDisk(c.Config.Disk), NewModel()
	if err := r.openPool(); err != nil {
		return nil, r.failure("first open", err)
	}
	for range r.config.LUNs {
		if err := r.do(Op{Kind: OpCreateLUN}); err != nil {
			return nil, errors.Join(r.failure("first LUNs", err), r.abandon())
		}
	}
	return r, nil
}

func (r *run) failure(step string, err error) *Failure {
	return &Failure{Case: r.c, Round: r.at, Step: step, Stops: r.stops, Stamps: r.stamps, Err: err}
}

// abandon ends the pool's goroutines after a crash or failure. The disk that
// it was open on must not be in use any more.
func (r *run) abandon() error {
	if r.pool == nil {
		return nil
	}
	pool := r.pool
	r.pool = nil
	r.disk.StopAt(r.disk.Calls() + 1)
	_ = pool.Close() // fails, as it must
	return nil
}

// Run runs a case. The error is a *Failure.
func Run(t Target, c Case) (Report, error) {
	var rep Report
	r, err := newRun(t, c)
	if err != nil {
		return rep, err
	}
	for i, round := range c.Rounds {
		r.skipped = 0
		calls, err := r.round(i, round)
		rep.Calls, rep.Skipped = append(rep.Calls, calls), append(rep.Skipped, r.skipped)
		rep.Failed += r.failed
		if err != nil {
			return rep, errors.Join(err, r.abandon())
		}
	}
	if err := r.finish(); err != nil {
		return rep, errors.Join(r.failure("after the last round", err), r.abandon())
	}
	return rep, nil
}

// round does one round, and returns the number of calls in its operations.
func (r *run) round(i int, round Round) (int64, error) {
	r.at, r.failed = i, 0
	step := fmt.Sprintf("round %d", i)
	var call int64
	if len(round.Crashes) > 0 {
		call = round.Crashes[0].Call
	}
	calls, err := r.operate(round, call)
	if err != nil {
		return calls, r.failure(step, err)
	}
	if len(round.Crashes) == 0 {
		if err := r.verify(); err != nil {
			return calls, r.failure(step+", at its end", err)
		}
		return calls, nil
	}
	for j, crash := range round.Crashes {
		again := int64(0)
		if j+1 < len(round.Crashes) {
			again = round.Crashes[j+1].Call
		}
		opened, err := r.crash(crash, again)
		if err != nil {
			return calls, r.failure(fmt.Sprintf("%s, crash %d", step, j), err)
		}
		if opened {
			break
		}
	}
	return calls, nil
}

// operate does the operations of a round, until call if that is not 0.
func (r *run) operate(round Round, call int64) (int64, error) {
	before := r.disk.Calls()
	if call > 0 {
		r.stopAt = before + call
		r.disk.StopAt(r.stopAt)
	}
	r.reborn = false
	failedBefore, _, _ := r.disk.Failed()
	for _, f := range round.Faults {
		r.disk.Inject(f)
		r.faults = present
		r.model.forgetful = r.model.forgetful || f.Forever
	}
	err := r.runner.run(round.Ops)
	calls := r.disk.Calls() - before
	if r.stopped() {
		at, _ := r.disk.Stopped()
		r.stops = append(r.stops, at)
	} else {
		r.disk.StopAt(0)
		r.disk.ClearFaults()
	}
	r.stopAt = 0
	if len(round.Faults) > 0 && err == nil {
		now, _, _ := r.disk.Failed()
		r.failed = now - failedBefore
		if r.faults = nowhereElse; !r.stopped() {
			err = r.afterFaults(round)
		}
	}
	return calls, err
}

// crash crashes the disk, opens the pool and compares everything. If the disk
// stops again in the recovery, at call again, opened is false.
func (r *run) crash(c Crash, again int64) (opened bool, err error) {
	old := r.disk
	r.disk = old.Clone()
	r.disk.Crash(c.Kind, c.Seed)
	r.model.Crash(c.Kind)
	if r.pool != nil {
		old.StopAt(old.Calls() + 1)
		_ = r.pool.Close() // to end its goroutines; the disk is gone for it
		r.pool = nil
	}
	if again > 0 {
		r.disk.StopAt(r.disk.Calls() + again)
	}
	err = r.openFaulty(c.Faults)
	if at, ok := r.disk.Stopped(); ok {
		r.stops = append(r.stops, at+" of the recovery")
		return false, nil
	}
	r.disk.StopAt(0)
	if err != nil {
		return false, fmt.Errorf("open: %w", err)
	}
	if err := r.check(); err != nil {
		return false, err
	}
	return true, r.verify()
}

// openFaulty opens the pool while calls are made to fail. If that does not
// work, or something could not be read and may be kept apart, the process dies
// and opens it without.
func (r *run) openFaulty(faults []Fault) error {
	for _, f := range faults {
		r.disk.Inject(f)
	}
	err := r.openPool()
	n, class, _ := r.disk.Failed()
	r.failed += n
	if n == 0 || err == nil && class != ReadAt {
		r.disk.ClearFaults()
		return err
	}
	r.disk.Crash(Kill, 0)
	if err == nil {
		_ = r.pool.Close() // to end its goroutines; the disk is gone for it
	}
	return r.openPool()
}

// check has the engine check the disk as it is now, on a copy.
func (r *run) check() error {
	if r.target.Check == nil {
		return nil
	}
	if err := r.target.Check(r.disk.Clone().Session()); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	return nil
}

// finish closes the pool, has it checked, and compares everything once more.
// A pool that had faults may be unable to close; it then dies instead.
func (r *run) finish() error {
	well := r.faults == nowhereElse && len(r.model.failures()) == 0
	if well {
		r.ctx = context.Background()
		if err := r.do(Op{Kind: OpSettle}); err != nil {
			return fmt.Errorf("settle: %w", err)
		}
	}
	if err := r.shut(); err != nil {
		if r.faults != past && len(r.model.failures()) == 0 {
			return err
		}
		_, err := r.crash(Crash{Kind: Kill}, 0)
		return err
	}
	if err := r.check(); err != nil {
		return err
	}
	if well && r.target.CheckSpace != nil {
		if err := r.target.CheckSpace(r.disk.Clone().Session()); err != nil {
			return fmt.Errorf("space: %w", err)
		}
	}
	if err := r.openPool(); err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if err := r.verify(); err != nil {
		return err
	}
	return r.shut()
}

// Replay runs a case and fails the test with what it finds.
func Replay(tb testing.TB, t Target, c Case) {
	tb.Helper()
	if _, err := Run(t, c); err != nil {
		tb.Fatal(err)
	}
}
