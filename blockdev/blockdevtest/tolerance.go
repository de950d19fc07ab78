package blockdevtest

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
)

// tolerance says which operations may fail.
type tolerance uint8

const (
	// nowhereElse: those on LUNs that failed, which must fail.
	nowhereElse tolerance = iota
	// full: for want of space, those that need some.
	full
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
	case full:
		if errors.Is(err, syscall.ENOSPC) && needsSpace(op.Kind) {
			return true
		}
	}
	return r.onFailed(op)
}

// needsSpace tells whether an operation may fail on a full disk.
func needsSpace(k OpKind) bool {
	switch k {
	case OpRead, OpFlush, OpDiscard, OpDeleteSnapshot, OpDeleteLUN, OpRenameLUN, OpRenameSnapshot, OpResize, OpSettle, OpReopen:
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
