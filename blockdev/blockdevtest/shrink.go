package blockdevtest

import (
	"errors"
	"slices"
	"time"
)

// maxCallsTried bounds how far Shrink looks for the call to crash at.
const maxCallsTried = 200

// Shrink looks for a shorter case that fails too, for as long as the budget
// lasts, and returns the shortest failure found.
func Shrink(t Target, f *Failure, budget time.Duration) *Failure {
	x := shrinker{target: t, best: f, end: time.Now().Add(budget)}
	c := cloneCase(f.Case)
	c.Rounds = c.Rounds[:min(f.Round+1, len(c.Rounds))]
	x.try(c)
	for _, x.move = range []bool{false, true} {
		for again := true; again && time.Now().Before(x.end); {
			again = x.rounds() || x.ops()
		}
	}
	return x.best
}

type shrinker struct {
	target Target
	best   *Failure
	end    time.Time
	move   bool // the last crash may come at another call
}

// try takes over a case if it fails.
func (x *shrinker) try(c Case) bool {
	if f := x.fails(c); f != nil {
		x.best = f
		return true
	}
	if !x.move {
		return false
	}
	for i := len(c.Rounds) - 1; i >= 0; i-- {
		r := c.Rounds[i]
		if len(r.Crashes) == 0 || r.Crashes[0].Call == 0 {
			continue
		}
		moved := cloneCase(c)
		crash := &moved.Rounds[i].Crashes[0]
		for crash.Call = 1; crash.Call < min(r.Crashes[0].Call+1, maxCallsTried); crash.Call++ {
			if f := x.fails(moved); f != nil {
				x.best = f
				return true
			}
		}
		return false
	}
	return false
}

// fails returns the failure of a case, if it fails in time.
func (x *shrinker) fails(c Case) *Failure {
	if time.Now().After(x.end) {
		return nil
	}
	var f *Failure
	if _, err := Run(x.target, c); errors.As(err, &f) {
		f.Case = cloneCase(c)
		return f
	}
	return nil
}

func cloneCase(c Case) Case {
	c.Rounds = slices.Clone(c.Rounds)
	for i := range c.Rounds {
		c.Rounds[i].Ops = slices.Clone(c.Rounds[i].Ops)
		c.Rounds[i].Crashes = slices.Clone(c.Rounds[i].Crashes)
	}
	return c
}

// rounds drops whole rounds, the last first, and single crashes.
func (x *shrinker) rounds() bool {
	for i := len(x.best.Case.Rounds) - 1; i >= 0; i-- {
		c := cloneCase(x.best.Case)
		c.Rounds = slices.Delete(c.Rounds, i, i+1)
		if x.try(c) {
			return true
		}
		for j := range x.best.Case.Rounds[i].Crashes {
			c := cloneCase(x.best.Case)
			c.Rounds[i].Crashes = slices.Delete(c.Rounds[i].Crashes, j, j+1)
			if x.try(c) {
				return true
			}
		}
	}
	return false
}

// ops drops operations: half of a round's, then fewer, at last one by one.
func (x *shrinker) ops() bool {
	progress := false
	for i := range x.best.Case.Rounds {
		for n := (len(x.best.Case.Rounds[i].Ops) + 1) / 2; n > 0; n /= 2 {
			for at := 0; at+n <= len(x.best.Case.Rounds[i].Ops); {
				c := cloneCase(x.best.Case)
				c.Rounds[i].Ops = slices.Delete(c.Rounds[i].Ops, at, at+n)
				if x.try(c) {
					progress = true
				} else {
					at += n
				}
			}
		}
	}
	return progress
}
