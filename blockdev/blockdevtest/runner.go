package blockdevtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// runner does operations on a pool and tells the model.
type runner struct {
	target Target
	config Config
	disk   *Disk
	model  *Model
	pool   Pool // nil if it could not be reopened
	vols   map[int]Volume
	ctx    context.Context // of the operations; ends when the disk stops
	faults tolerance       // why operations may fail
	reborn bool            // a pool that faults kept from opening was opened without
	stopAt int64           // where the disk is to stop, 0 for nowhere

	mu      sync.Mutex
	stamp   uint64   // the last write's number
	stamps  []string // what was written, by number, for reports
	skipped int      // operations passed over
}

// errPassed is the result of an operation that cannot be done now.
var errPassed = errors.New("blockdevtest: operation passed over")

// openPool opens the pool on the disk as a new process.
func (r *runner) openPool() error {
	r.vols = map[int]Volume{}
	pool, err := r.target.Open(r.disk.Session(), r.disk.BootID())
	if err != nil {
		return err
	}
	r.pool = pool
	if r.faults == past {
		r.faults = nowhereElse
	}
	return nil
}

// stopped tells whether the disk has stopped.
func (r *runner) stopped() bool {
	_, ok := r.disk.Stopped()
	return ok
}

// run does operations until the disk stops. An error is a failure of the
// engine.
func (r *runner) run(ops []Op) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r.ctx = ctx
	r.disk.OnStop(cancel)
	for i, op := range ops {
		err := r.do(op)
		switch {
		case err == errPassed:
			r.skipped++
			err = nil
		case r.stopped():
			return nil
		case err != nil && op.Kind != OpRead && r.mayFail(op, err):
			err = r.recoverFault()
		case err == nil:
			err = r.mustFail(op)
		}
		if err != nil {
			return fmt.Errorf("operation %d, %v: %w", i, op, err)
		}
		if r.stopped() {
			return nil
		}
	}
	return nil
}

// do does one operation. An error of an action leaves it to be resolved.
func (r *runner) do(op Op) error {
	switch op.Kind {
	case OpRead:
		return r.verify()
	case OpReopen:
		return r.reopen()
	case OpConcurrent:
		return r.concurrent(op)
	case OpFill:
		r.disk.SetCapacity(r.disk.Allocated() + op.Len)
		return nil
	case OpRoom:
		r.disk.SetCapacity(0)
		return nil
	case OpWrite, OpFUA, OpDiscard, OpWriteZeroes, OpFlush:
		l, v, err := r.volume(op)
		if err != nil {
			return err
		}
		return r.data(op, l, v)
	}
	a, err := r.action(op)
	if err != nil {
		return err
	}
	if (a.Kind == OpDeleteLUN || a.Kind == OpRevert) && !a.Force {
		if err := r.closeVolume(a.LUNs[0]); err != nil {
			return err
		}
	}
	return r.manage(a)
}

// manage does an action.
func (r *runner) manage(a Action) error {
	g := r.model.BeginAction(a)
	if err := r.pool.Do(r.ctx, a); err != nil {
		return fmt.Errorf("%v: %w", a, err)
	}
	g.Ack()
	return nil
}

func (r *runner) reopen() error {
	if err := r.shut(); err != nil {
		return err
	}
	before, _, _ := r.disk.Failed()
	if err := r.openPool(); err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if n, class, name := r.disk.Failed(); n > before && class == ReadAt {
		// It may be kept apart until the pool is opened again.
		err := r.pool.Close()
		r.pool = nil
		return errors.Join(fmt.Errorf("open: %s could not be read", name), err)
	}
	return nil
}

// shut closes the pool cleanly.
func (r *runner) shut() error {
	var errs []error
	for _, v := range r.vols {
		errs = append(errs, v.Close())
	}
	errs = append(errs, r.pool.Close())
	r.pool = nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	r.model.Closed()
	return nil
}

// volume opens the LUN of an operation, if it is not open.
func (r *runner) volume(op Op) (*modelLUN, Volume, error) {
	r.model.mu.Lock()
	luns := r.model.worlds[0].luns
	if len(luns) == 0 {
		r.model.mu.Unlock()
		return nil, nil, errPassed
	}
	l := luns[op.LUN%len(luns)]
	id, name := l.id, l.name
	r.model.mu.Unlock()
	v := r.vols[id]
	if v == nil {
		var err error
		if v, err = r.pool.OpenLUN(name); err != nil {
			return nil, nil, fmt.Errorf("open LUN %s: %w", name, err)
		}
		r.vols[id] = v
	}
	return l, v, nil
}

func (r *runner) closeVolume(name string) error {
	r.model.mu.Lock()
	id := r.model.worlds[0].lun(name).id
	r.model.mu.Unlock()
	v := r.vols[id]
	if v == nil {
		return nil
	}
	delete(r.vols, id)
	if err := v.Close(); err != nil {
		return fmt.Errorf("close LUN %s: %w", name, err)
	}
	return nil
}

// span cuts the range of an operation to a LUN.
func span(op Op, l *modelLUN) (off, n int64, ok bool) {
	n = min(op.Len, sizeBytes(l.sectors)-op.Off)
	return op.Off, n, n > 0 && op.Off >= 0
}

// data does a write, discard, zeroing or flush.
func (r *runner) data(op Op, l *modelLUN, v Volume) error {
	if op.Kind == OpFlush {
		return r.flush(l, v)
	}
	off, n, ok := span(op, l)
	if !ok {
		return errPassed
	}
	p := make([]byte, n)
	write := func() error {
		k, err := v.WriteAt(p, off)
		if err == nil && k != len(p) {
			return fmt.Errorf("%d of %d bytes written, and no error", k, len(p))
		}
		return err
	}
	switch op.Kind {
	case OpDiscard:
		write = func() error { return v.Discard(r.ctx, off, n) }
	case OpWriteZeroes:
		write = func() error { return v.WriteZeroes(r.ctx, off, n) }
	default:
		p = Stamp(r.nextStamp(l.name, off, n), off, n)
	}
	w := r.model.BeginWrite(l.name, p, off)
	if err := write(); err != nil {
		return err
	}
	w.Ack()
	if op.Kind == OpFUA {
		return r.flush(l, v)
	}
	return nil
}

func (r *runner) flush(l *modelLUN, v Volume) error {
	f := r.model.BeginFlush(l.name)
	if err := v.Flush(r.ctx); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	f.Ack()
	return nil
}

func (r *runner) nextStamp(lun string, off, n int64) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stamp++
	r.stamps = append(r.stamps, fmt.Sprintf("write %d: LUN %s [%d, %d)", r.stamp, lun, off, off+n))
	return r.stamp
}

// concurrent does the parts of an operation at the same time.
func (r *runner) concurrent(op Op) error {
	var runs []func() error
	taken := map[string]bool{}
	actions := 0
	for _, part := range op.Parts {
		switch part.Kind {
		case OpSettle, OpCompact, OpSnapshot, OpDeleteSnapshot, OpClone:
			a, err := r.action(part)
			if part.Kind != OpSettle && part.Kind != OpCompact {
				actions++
			}
			if err != nil || actions > 1 {
				return errPassed
			}
			runs = append(runs, func() error { return r.manage(a) })
		case OpWrite, OpFUA, OpDiscard, OpWriteZeroes, OpFlush:
			l, v, err := r.volume(part)
			if err != nil {
				return err
			}
			if part.Kind != OpFlush && !takeSectors(taken, part, l) {
				return errPassed
			}
			runs = append(runs, func() error { return r.data(part, l, v) })
		default:
			return errPassed
		}
	}
	errs := make([]error, len(runs))
	var wg sync.WaitGroup
	for i, run := range runs {
		wg.Go(func() { errs[i] = run() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// takeSectors notes the sectors that an operation changes, and tells whether
// none was taken and there are any.
func takeSectors(taken map[string]bool, op Op, l *modelLUN) bool {
	off, n, ok := span(op, l)
	for s := off / sectorSize; ok && s*sectorSize < off+n; s++ {
		key := fmt.Sprint(l.id, s)
		ok = !taken[key]
		taken[key] = true
	}
	return ok
}

// freeName returns the first of a series of names that is not taken.
func freeName(prefix string, taken func(name string) bool) string {
	for i := 1; ; i++ {
		if name := fmt.Sprint(prefix, i); !taken(name) {
			return name
		}
	}
}

// action names what an operation is about.
func (r *runner) action(op Op) (Action, error) {
	r.model.mu.Lock()
	defer r.model.mu.Unlock()
	w := r.model.worlds[0]
	newLUN := freeName("lun", func(n string) bool { return w.lun(n) != nil })
	a := Action{Kind: op.Kind, NewName: newLUN, SizeBytes: r.config.bytes()}
	switch {
	case op.Kind == OpSettle || op.Kind == OpCompact:
		return Action{Kind: op.Kind}, nil
	case op.Kind == OpCreateLUN && len(w.luns) < r.config.MaxLUNs:
		return a, nil
	case op.Kind == OpCreateLUN || len(w.luns) == 0:
		return a, errPassed
	}
	l := w.luns[op.LUN%len(w.luns)]
	a.LUNs = []string{l.name}
	if op.Kind == OpSnapshot && op.Group && len(w.luns) > 1 {
		a.LUNs = append(a.LUNs, w.luns[(op.LUN+1)%len(w.luns)].name)
	}
	return r.lunAction(op, a, w, l)
}

// lunAction completes an action on a LUN.
func (r *runner) lunAction(op Op, a Action, w *world, l *modelLUN) (Action, error) {
	newSnapshot := freeName("s", func(n string) bool {
		return slices.ContainsFunc(a.LUNs, func(l string) bool { return w.lun(l).snapshot(n) != nil })
	})
	roomFor := func(name string) bool { return len(w.lun(name).snapshots) < r.config.MaxSnapshots }
	pass := false
	switch op.Kind {
	case OpResize:
		a.NewName, a.SizeBytes = "", sizeBytes(l.sectors)+op.Len/pageSize*pageSize
		pass = a.SizeBytes > 2*r.config.bytes() || op.Len < pageSize
	case OpRenameLUN:
	case OpDeleteLUN:
		a.NewName, a.Force = "", op.Force
		pass = len(w.luns) == 1
	case OpSnapshot:
		a.NewName = newSnapshot
		pass = slices.ContainsFunc(a.LUNs, func(n string) bool { return !roomFor(n) })
	case OpRevert, OpDeleteSnapshot, OpRenameSnapshot, OpClone:
		if len(l.snapshots) == 0 {
			return a, errPassed
		}
		a.Snapshot = l.snapshots[len(l.snapshots)-1-op.Snap%len(l.snapshots)].name
		switch op.Kind {
		case OpRevert:
			a.NewName, a.Force = newSnapshot, op.Force
			pass = !roomFor(l.name)
		case OpDeleteSnapshot:
			a.NewName = ""
		case OpRenameSnapshot:
			a.NewName = newSnapshot
		case OpClone:
			pass = len(w.luns) >= r.config.MaxLUNs
		}
	default:
		return a, fmt.Errorf("blockdevtest: %v is no operation", op.Kind)
	}
	if pass {
		return a, errPassed
	}
	if op.Kind != OpCreateLUN && op.Kind != OpResize {
		a.SizeBytes = 0
	}
	return a, nil
}
