package blockdevtest

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// ErrStopped is what every mutating call returns from the one on that StopAt
// named.
var ErrStopped = fmt.Errorf("blockdevtest: the disk has stopped: %w", syscall.EIO)

// ErrCrashed is what everything returns that was opened before a crash.
var ErrCrashed = errors.New("blockdevtest: opened before a crash")

// Class is a kind of call, or a set of kinds.
type Class uint16

// The kinds of calls. All but ReadAt are numbered and can be stopped at;
// ReadAt can be made to fail.
const (
	WriteAt Class = 1 << iota
	Sync
	Truncate
	PunchHole
	Create // FS.Open, OpenTable and Lock, when they create
	Remove
	Rename
	Mkdir
	SyncDir
	Update // Table.Update
	ReadAt // File.ReadAt and TryReadAt

	// Mutating is all that change the disk.
	Mutating = ReadAt - 1
)

func (c Class) String() string {
	names := []string{"write", "sync", "truncate", "punch", "create", "remove",
		"rename", "mkdir", "syncdir", "update", "read"}
	var s []string
	for i, name := range names {
		if c&(1<<i) != 0 {
			s = append(s, name)
		}
	}
	return strings.Join(s, "|")
}

// call is one mutating call. It refers to inodes by number, so that it can be
// performed on a clone of the disk too.
type call struct {
	class   Class
	name    string
	newName string    // Rename
	kind    inodeKind // Create, Mkdir
	ino     uint64    // WriteAt, Sync, Truncate, PunchHole, Update
	off, n  int64     // Truncate: off is the new size
	data    []byte
	rows    tableRows // Update: the table after it
}

func (c call) String() string {
	switch c.class {
	case WriteAt:
		return fmt.Sprintf("write %s [%d, %d)", c.name, c.off, c.off+int64(len(c.data)))
	case PunchHole:
		return fmt.Sprintf("punch %s [%d, %d)", c.name, c.off, c.off+c.n)
	case Truncate:
		return fmt.Sprintf("truncate %s to %d", c.name, c.off)
	case Rename:
		return fmt.Sprintf("rename %s to %s", c.name, c.newName)
	}
	return fmt.Sprintf("%v %s", c.class, c.name)
}

// Fault makes calls fail. A write that fails has happened in part; a Sync that
// fails has lost what it should have written, though reads still find it (see
// DropCaches); anything else has not happened.
type Fault struct {
	Classes Class                  // 0: all Mutating
	Name    func(name string) bool // which files, nil: all
	Nth     int64                  // of the calls that match, from 1
	Forever bool                   // also all later ones
	Err     error                  // usually a syscall.Errno
}

type armedFault struct {
	Fault
	seen int64
}

// Inject adds a fault. It stays until ClearFaults or Crash.
func (d *Disk) Inject(f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f.Classes == 0 {
		f.Classes = Mutating
	}
	d.faults = append(d.faults, &armedFault{Fault: f})
}

// FailAt makes the nth mutating call from now fail with err, and with forever
// all later ones.
func (d *Disk) FailAt(n int64, err error, forever bool) {
	d.Inject(Fault{Nth: n, Err: err, Forever: forever})
}

// ClearFaults ends all faults.
func (d *Disk) ClearFaults() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = nil
}

// Failed returns how many calls Inject made fail, and the last of them, by
// class and the name that the file then had.
func (d *Disk) Failed() (n int64, class Class, name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed, d.failedClass, d.failedName
}

// fault returns the error that a call is to fail with, if any.
func (d *Disk) fault(class Class, name string) error {
	var err error
	for _, f := range d.faults {
		if f.Classes&class == 0 || (f.Name != nil && !f.Name(name)) {
			continue
		}
		f.seen++
		if err == nil && (f.seen == f.Nth || (f.Forever && f.seen > f.Nth)) {
			err = f.Err
		}
	}
	if err != nil {
		d.failed++
		d.failedClass, d.failedName = class, name
	}
	return err
}

// Calls returns the number of mutating calls so far.
func (d *Disk) Calls() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls
}

// StopAt stops the disk at the mutating call that Calls will count as n: it
// and all later ones return ErrStopped. What became of that one call is
// settled by Crash: nothing, all of it, or part of a write. 0 is never.
func (d *Disk) StopAt(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopAt = n
}

// OnStop has fn called when StopAt stops the disk. fn must not use the disk.
func (d *Disk) OnStop(fn func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.onStop = fn
}

// Stopped tells whether StopAt has stopped the disk, and at what.
func (d *Disk) Stopped() (at string, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped == nil {
		return "", false
	}
	return fmt.Sprintf("call %d: %v", d.stopAt, *d.stopped), true
}

// yield lets other goroutines run before a call, if the disk is to.
func (d *Disk) yield() {
	if !d.opts.Yield {
		return
	}
	d.mu.Lock()
	n := d.rng.IntN(8)
	if d.rng.IntN(4) == 0 {
		n *= 50 // long enough for another operation to end
	}
	d.mu.Unlock()
	for range n {
		runtime.Gosched()
	}
}

// mutate counts a call and does it, unless the disk has stopped or the call is
// to fail. d.mu is held.
func (d *Disk) mutate(c call) (int, error) {
	if d.stopped != nil {
		return 0, ErrStopped
	}
	d.calls++
	if d.calls == d.stopAt {
		c.data = slices.Clone(c.data) // the caller's buffer
		d.stopped = &c
		if d.onStop != nil {
			d.onStop()
		}
		return 0, ErrStopped
	}
	err := d.fault(c.class, c.name)
	if err == nil {
		return d.st.perform(c, nil)
	}
	if c.ino != 0 {
		d.failedName = d.st.nameOf(c.ino)
	}
	switch c.class {
	case WriteAt:
		n, _ := d.st.perform(c, d.rng)
		return n, err
	case Sync:
		d.st.loseDirty(c.ino)
	}
	return 0, err
}
