package blockdevtest

// FailEverywhere does the operations again and again, each time with another
// call failing in one of the ways of Faults, and compares; then, for each of
// Crashes, with a crash after the operations and a call failing of the
// recovery from it.
func (s *Search) FailEverywhere(ops []Op) (Tried, error) { return s.failIn(ops, 0) }

// failIn has calls fail from operation first on.
func (s *Search) failIn(ops []Op, first int) (Tried, error) {
	tried := Tried{Sequences: 1}
	if _, passed, err := s.uncrashed(ops, first); err != nil || passed {
		return Tried{}, err
	}
	for _, f := range s.Faults {
		for f.Nth = 1; !s.late(); f.Nth++ {
			failed, err := s.failAt(Round{Ops: ops[:first]}, Round{Ops: ops[first:], Faults: []Fault{f}})
			if err != nil || failed == 0 {
				if err != nil {
					return tried, err
				}
				break
			}
			tried.Points++
			tried.Crashes++
		}
	}
	for _, crash := range s.Crashes {
		for _, f := range s.Faults {
			for f.Nth = 1; !s.late(); f.Nth++ {
				crash.Call, crash.Faults = 0, []Fault{f}
				failed, err := s.failAt(Round{Ops: ops, Crashes: []Crash{crash}})
				if err != nil {
					return tried, err
				}
				if failed == 0 {
					break
				}
				tried.Again++
				tried.Crashes++
			}
		}
	}
	return tried, nil
}

// failAt runs rounds in which a call is to fail, and returns how many did.
func (s *Search) failAt(rounds ...Round) (failed int64, err error) {
	c := Case{Config: s.Config, Rounds: append([]Round{{Ops: s.Setup}}, rounds...)}
	c.Rounds = append(c.Rounds, s.after()...)
	rep, err := Run(s.Target, c)
	return rep.Failed, err
}
