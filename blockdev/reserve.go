package blockdev

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// The reserve is space that the pool holds back for its own metadata, so that
// on a full disk snapshots can be deleted, blocks discarded, heads sealed and
// the pool opened and closed: all of that writes something before it gives
// anything back. It is a file of nothing but allocated blocks. What finds no
// space and must work cuts a piece off it and tries again; while the file is
// short nothing else that needs new space is let in, so that what comes back
// fills it up first.
const (
	reserveFile = "reserve"

	// A merge writes the presence map of one layer anew, while the old one is
	// still there. Its leaves take 2 KiB for each 2 MiB of a layer in the worst
	// case; a layer may have that for data and for zeros. A checkpoint also
	// makes a journal file, a small one if need be.
	minReserveBytes  = 64 << 20
	reserveShare     = 512 // of the filesystem, beyond the minimum
	maxReserveShare  = 16  // of a small filesystem no more than one in so many
	reserveSteps     = 8   // pieces that it is given up in
	warnShare        = 20  // SpaceLow: less than one in so many is free
	fullMarginBytes  = 1 << 20
	reserveFullText  = "the pool is full: its reserve is in use for metadata, writes that need space are refused"
	reserveWholeText = "the pool has room again"
)

// SpaceState says how much room a pool has.
type SpaceState string

// The states of a pool's space.
const (
	SpaceOK SpaceState = "ok"
	// SpaceLow: less than PoolInfo.WarnBytes are free.
	SpaceLow SpaceState = "low"
	// SpaceFull: writes that need new space are refused or soon will be.
	// Reads, overwriting, flushes, discards and deletes work.
	SpaceFull SpaceState = "full"
)

// reserve is the reserve of an open pool. mu is taken after all other locks.
type reserve struct {
	fs   blockfile.FS
	log  *slog.Logger
	want int64 // bytes; 0 for no reserve

	// short: less is held than wanted.
	short atomic.Bool

	mu   sync.Mutex
	file blockfile.File // nil before it was first made
	// named: the file's name is durable.
	named bool
	held  int64
}

// reserveBytes is how large the reserve of a filesystem is by default.
func reserveBytes(total int64) int64 {
	n := min(minReserveBytes+total/reserveShare, total/maxReserveShare)
	return n / BlockSize * BlockSize
}

// open finds out what is held. want is in bytes, 0 for the default, less for
// none.
func (r *reserve) open(fsys blockfile.FS, log *slog.Logger, want int64) error {
	total, _, err := fsys.Space()
	if err != nil {
		return err
	}
	if want == 0 {
		want = reserveBytes(total)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fs, r.log, r.want = fsys, log, max(want, 0)/BlockSize*BlockSize
	if err := r.openFile(os.O_RDWR); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	r.short.Store(r.held < r.want)
	return nil
}

// openFile opens the file. mu is held.
func (r *reserve) openFile(flag int) error {
	f, err := r.fs.Open(reserveFile, flag)
	if err != nil {
		return err
	}
	r.file = f
	size, err := f.Size()
	if err != nil {
		return err
	}
	// What a power cut left as a hole is not held.
	allocated, err := f.Allocated()
	if err != nil {
		return err
	}
	r.held = min(size, allocated) / BlockSize * BlockSize
	if size <= r.held && r.held <= r.want {
		return nil
	}
	r.held = min(r.held, r.want)
	return f.Truncate(r.held)
}

// giveUp frees a piece of the reserve, and tells whether there was any.
func (r *reserve) giveUp() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held == 0 {
		return false
	}
	step := max(r.want/reserveSteps/BlockSize, 1) * BlockSize
	left := max(r.held-step, 0)
	if err := r.file.Truncate(left); err != nil {
		r.log.Error("reserve of the pool cannot be used", "error", err)
		return false
	}
	r.held = left
	if !r.short.Swap(true) {
		r.log.Warn(reserveFullText)
	}
	// Some filesystems give out freed space only when the freeing is durable.
	// If that fails, so will what needs the space.
	_ = r.file.Sync()
	return true
}

// refill takes what is wanting from the free space, as far as that goes.
func (r *reserve) refill() error {
	if !r.short.Load() {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, free, err := r.fs.Space()
	if err != nil {
		return err
	}
	n := min(r.want-r.held, free) / BlockSize * BlockSize
	if n <= 0 {
		return nil
	}
	if r.file == nil {
		err = r.openFile(os.O_RDWR | os.O_CREATE)
	}
	if err == nil {
		err = allocate(r.file, r.held, n)
	}
	if err == nil {
		err = r.file.Sync()
	}
	if err == nil && !r.named {
		err = r.fs.SyncDir(".")
		r.named = err == nil
	}
	if err != nil {
		if r.file != nil {
			_ = r.file.Truncate(r.held) // else what is there is found when the pool is opened
		}
		if isNoSpace(err) {
			return nil // somebody else was faster
		}
		return err
	}
	r.held += n
	if r.held == r.want {
		r.short.Store(false)
		r.log.Info(reserveWholeText)
	}
	return nil
}

// allocate takes the space of a range at the end of a file.
func allocate(f blockfile.File, off, n int64) error {
	if a, ok := f.(blockfile.Allocator); ok {
		if err := a.Allocate(off, n); err == nil || isNoSpace(err) {
			return err
		}
	}
	return writeZeros(f, off, n)
}

// close closes the file.
func (r *reserve) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil {
		return nil
	}
	f := r.file
	r.file, r.held = nil, 0
	return f.Close()
}

// heldBytes returns what is held.
func (r *reserve) heldBytes() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held
}

// withReserve does what must work on a full disk: where it finds no space it
// is done again with a piece of the reserve. It must have changed nothing by
// then.
func (p *Pool) withReserve(do func() error) error {
	for {
		err := do()
		if !isNoSpace(err) || !p.reserve.giveUp() {
			return err
		}
	}
}

// makeJournal makes a journal file of a length, or, out of the reserve, a small
// one.
func (p *Pool) makeJournal(length int64, create func(length int64) error) error {
	err := create(length)
	if !isNoSpace(err) {
		return err
	}
	return p.withReserve(func() error { return create(minJournalBytes) })
}

// errReserveShort says that a write needs space which the reserve must have
// first.
var errReserveShort = errorf(ErrNoSpace, "pool", "what space there is, is kept for metadata: delete snapshots or discard")

// admit returns ErrNoSpace while nothing that needs space may be begun.
func (p *Pool) admit() error {
	if !p.reserve.short.Load() {
		return nil
	}
	if err := p.reserve.refill(); err != nil {
		return err
	}
	if p.reserve.short.Load() {
		return errReserveShort
	}
	return nil
}

// spaceState judges how much is free.
func (p *Pool) spaceState(free, warn int64) SpaceState {
	switch {
	case p.reserve.short.Load() || free < fullMarginBytes:
		return SpaceFull
	case free < warn:
		return SpaceLow
	}
	return SpaceOK
}
