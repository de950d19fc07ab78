package blockdevtest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
)

// tolerance says which operations may fail.
type tolerance uint8

const (
	// nowhereElse: those on LUNs that failed, which must fail, and, on a disk
	// with a limit, those that need space.
	nowhereElse tolerance = iota
	// past: faults were injected and ended, the pool was not opened again.
	past
	// present: calls are made to fail.
	present
)

// mayFail tells whether an operation may end with an error.
func (r *runner) mayFail(op Op, err error) bool {
	switch r.faults {
	case present, past:
		return true
	}
	if r.disk.limited() && errors.Is(err, syscall.ENOSPC) && needsSpace(op) {
		return true
	}
	return r.onFailed(op)
}

// needsSpace tells whether an operation may fail on a full disk. A discard of
// whole blocks must not, one of parts may have to write.
func needsSpace(op Op) bool {
	switch op.Kind {
	case OpDiscard, OpWriteZeroes:
		return op.Off%pageSize != 0 || op.Len%pageSize != 0
	case OpRead, OpFlush, OpDeleteSnapshot, OpDeleteLUN, OpRenameLUN, OpRenameSnapshot, OpResize, OpSettle, OpCompact, OpReopen:
		return false
	}
	return true
}

// onFailed tells whether an operation is one on the data of a LUN that failed.
func (r *runner) onFailed(op Op) bool {
	switch op.Kind {
	case OpWrite, OpFUA, OpDiscard, OpWriteZeroes, OpFlush, OpSnapshot, OpRevert, OpResize, OpConcurrent:
	default:
		return false
	}
	luns := r.model.State()
	if len(luns) == 0 {
		return false
	}
	failed := r.model.failures()
	if op.Kind == OpConcurrent || op.Group {
		return len(failed) > 0
	}
	return slices.Contains(failed, luns[op.LUN%len(luns)].Name)
}

// mustFail finds it wrong that a LUN that failed took a write, or said that a
// flush worked.
func (r *runner) mustFail(op Op) error {
	switch op.Kind {
	case OpWrite, OpFUA, OpFlush:
		if r.onFailed(op) {
			return errors.New("the LUN had failed, and takes it")
		}
	}
	return nil
}

// recoverFault goes on after an operation that failed by an injected fault. A
// pool that could not be reopened dies and is opened without faults.
func (r *runner) recoverFault() error {
	if r.pool == nil {
		r.reborn = true
		r.disk.Crash(Kill, 0)
		r.disk.StopAt(r.stopAt)
		r.model.Crash(Kill)
		if err := r.openPool(); err != nil && !r.stopped() {
			return fmt.Errorf("open: %w", err)
		}
		if r.stopped() {
			return nil
		}
	}
	return r.resolve()
}

// resolve compares the names.
func (r *runner) resolve() error {
	found, err := r.pool.State()
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return r.model.Resolve(found)
}

// afterFaults judges what injected faults did, at the end of their round.
func (r *run) afterFaults(round Round) error {
	if r.failed == 0 {
		return nil
	}
	_, class, name := r.disk.Failed()
	r.faults = past
	noSpace := !slices.ContainsFunc(round.Faults, func(f Fault) bool { return !errors.Is(f.Err, syscall.ENOSPC) })
	lost := class == Sync || class == SyncDir || class == WriteAt && isJournal(name)
	switch {
	case noSpace && !lost: // nothing is lost, and all works that is possible
		r.faults = nowhereElse
		if failed := r.model.failures(); len(failed) > 0 {
			return fmt.Errorf("LUNs %v failed though only space was wanting, for %v %s", failed, class, name)
		}
	case class == Sync && (isJournal(name) || strings.HasPrefix(name, "segments/")) && r.failed == 1 && !r.reborn && !settles(round.Ops):
		// In a recovery and in maintenance it may have been the sync of a
		// snapshot, which was durable already.
		if err := r.resolve(); err != nil {
			return err
		}
		if len(r.model.failures()) == 0 {
			return fmt.Errorf("no LUN failed though a sync of %s did", name)
		}
	}
	return nil
}

// settles tells whether operations have maintenance run.
func settles(ops []Op) bool {
	return slices.ContainsFunc(ops, func(o Op) bool { return o.Kind == OpSettle || o.Kind == OpCompact || settles(o.Parts) })
}

// isJournal tells whether a file is a journal that is in use.
func isJournal(name string) bool {
	return strings.Contains(name, "/journal-") && !strings.HasSuffix(name, ".new")
}
