package blockdevtest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"sync"
	"syscall"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// TryRead says how File.TryReadAt answers.
type TryRead uint8

// The ways for File.TryReadAt to answer.
const (
	TryReadAlways TryRead = iota // everything is in the page cache
	TryReadNever                 // always blockfile.ErrWouldBlock
	TryReadRandom                // either, by the disk's seed
)

// DiskOptions are the properties of a Disk.
type DiskOptions struct {
	// Seed drives what is left to chance outside of Crash: how much of a
	// failing write happens, and TryReadRandom.
	Seed uint64
	// CapacityBytes is the space for file data and tables; 0 is no limit.
	CapacityBytes int64
	TryRead       TryRead
	// Yield has mutating calls wait a moment at random, so that goroutines
	// overtake one another.
	Yield bool
}

// Disk is a filesystem in memory that can lose power. It implements
// blockfile.FS. See the package comment for its rules.
type Disk struct {
	mu      sync.Mutex
	opts    DiskOptions
	st      *state
	rng     *rand.Rand
	boot    int
	gen     uint64          // raised by Crash: what was opened before is dead
	locks   map[uint64]bool // inodes locked
	tables  map[uint64]bool // tables open
	calls   int64
	stopAt  int64
	stopped *call // the call that StopAt held back
	onStop  func()
	faults  []*armedFault

	failed      int64 // calls that faults made fail
	failedClass Class
	failedName  string
}

var _ blockfile.FS = (*Disk)(nil)

// NewDisk returns an empty disk.
func NewDisk(o DiskOptions) *Disk {
	return &Disk{
		opts:   o,
		st:     newState(o.CapacityBytes),
		rng:    rand.New(rand.NewPCG(o.Seed, 0x6469736b)),
		boot:   1,
		locks:  map[uint64]bool{},
		tables: map[uint64]bool{},
	}
}

// BootID identifies the time between two power cuts, as the kernel's boot id
// does.
func (d *Disk) BootID() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return fmt.Sprintf("boot-%d", d.boot)
}

// Clone returns an independent disk in the same state, a call held back by
// StopAt included, to try several outcomes of one crash. It has no open files
// and no locks, and no faults. Pages are shared until written.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &Disk{
		opts:    d.opts,
		st:      d.st.clone(),
		rng:     rand.New(rand.NewPCG(d.opts.Seed, uint64(d.calls))),
		boot:    d.boot,
		gen:     d.gen + 1,
		locks:   map[uint64]bool{},
		tables:  map[uint64]bool{},
		calls:   d.calls,
		stopAt:  d.stopAt,
		stopped: d.stopped,
	}
}

// Session returns the disk as one process sees it: it dies, with all that was
// opened through it, at the next Crash. An engine that is given a Session
// cannot touch the disk after the crash that ended it.
func (d *Disk) Session() blockfile.FS {
	d.mu.Lock()
	defer d.mu.Unlock()
	return session{d: d, gen: d.gen}
}

// Allocated returns the bytes of disk space in use: 4 KiB for each block of a
// file that holds data, and the tables. It is what CapacityBytes limits.
func (d *Disk) Allocated() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.st.allocated
}

// SetCapacity changes CapacityBytes; 0 is no limit.
func (d *Disk) SetCapacity(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.st.capacity = bytes
}

// limited tells whether the disk has a capacity.
func (d *Disk) limited() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.st.capacity > 0
}

// FlipBit inverts a bit of a file, on the disk and in the cache. A hole has no
// bits: flipping one is an error.
func (d *Disk) FlipBit(name string, off int64, bit uint) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	ino, err := d.st.lookup(name)
	if err != nil {
		return pathError("flip", name, err)
	}
	n := d.st.own(ino)
	if n.kind != kindFile || off < 0 || off >= n.cache.size || bit > 7 || n.cache.missing(off, 1) > 0 {
		return pathError("flip", name, syscall.EINVAL)
	}
	n.cache.flip(d.st.owner, off, bit)
	n.disk.flip(d.st.owner, off, bit)
	return nil
}

// DropCaches forgets what the cache holds beyond the disk and the writes that
// wait to be synced: after a failed Sync, reads find what the disk has.
func (d *Disk) DropCaches() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for ino := range d.st.inodes {
		d.st.dropCache(ino)
	}
	d.st.recount()
}

// Open implements blockfile.FS.
func (d *Disk) Open(name string, flag int) (blockfile.File, error) {
	return d.Session().Open(name, flag)
}

// Remove implements blockfile.FS.
func (d *Disk) Remove(name string) error { return d.Session().Remove(name) }

// Rename implements blockfile.FS.
func (d *Disk) Rename(oldName, newName string) error {
	return d.Session().Rename(oldName, newName)
}

// Mkdir implements blockfile.FS.
func (d *Disk) Mkdir(name string) error { return d.Session().Mkdir(name) }

// ReadDir implements blockfile.FS.
func (d *Disk) ReadDir(name string) ([]string, error) { return d.Session().ReadDir(name) }

// SyncDir implements blockfile.FS.
func (d *Disk) SyncDir(name string) error { return d.Session().SyncDir(name) }

// OpenTable implements blockfile.FS.
func (d *Disk) OpenTable(name string) (blockfile.Table, error) {
	return d.Session().OpenTable(name)
}

// Lock implements blockfile.FS.
func (d *Disk) Lock(name string) (io.Closer, error) { return d.Session().Lock(name) }

// Space implements blockfile.FS. Without a capacity it is 1 TiB in all.
func (d *Disk) Space() (totalBytes, freeBytes int64, err error) { return d.Session().Space() }

// session is the disk as seen between two crashes.
type session struct {
	d   *Disk
	gen uint64
}

// enter locks the disk for an operation of the session.
func (s session) enter() error {
	s.d.mu.Lock()
	if s.gen != s.d.gen {
		s.d.mu.Unlock()
		return ErrCrashed
	}
	return nil
}

func (s session) Open(name string, flag int) (blockfile.File, error) {
	const known = os.O_RDONLY | os.O_RDWR | os.O_CREATE | os.O_EXCL
	if flag&^known != 0 {
		return nil, pathError("open", name, syscall.EINVAL)
	}
	if err := s.enter(); err != nil {
		return nil, pathError("open", name, err)
	}
	defer s.d.mu.Unlock()
	ino, err := s.d.openInode(name, flag, kindFile)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	s.d.st.open[ino]++
	return &file{s: s, ino: ino, name: path.Clean(name), writable: flag&os.O_RDWR != 0}, nil
}

// openInode finds a file or table, creating it if flag says so.
func (d *Disk) openInode(name string, flag int, kind inodeKind) (uint64, error) {
	ino, err := d.st.lookup(name)
	switch {
	case err == nil && flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return 0, syscall.EEXIST
	case err == syscall.ENOENT && flag&os.O_CREATE != 0:
		if _, err := d.mutate(call{class: Create, name: name, kind: kind}); err != nil {
			return 0, err
		}
		return d.st.lookup(name)
	case err != nil:
		return 0, err
	}
	switch k := d.st.inodes[ino].kind; {
	case k == kindDir:
		return 0, syscall.EISDIR
	case k != kind:
		return 0, syscall.EINVAL
	}
	return ino, nil
}

func (s session) Remove(name string) error {
	return s.mutate("remove", call{class: Remove, name: name})
}

func (s session) Rename(oldName, newName string) error {
	return s.mutate("rename", call{class: Rename, name: oldName, newName: newName})
}

func (s session) Mkdir(name string) error {
	return s.mutate("mkdir", call{class: Mkdir, name: name, kind: kindDir})
}

func (s session) SyncDir(name string) error {
	return s.mutate("syncdir", call{class: SyncDir, name: name})
}

// mutate is one mutating call by name.
func (s session) mutate(op string, c call) error {
	s.d.yield()
	if err := s.enter(); err != nil {
		return pathError(op, c.name, err)
	}
	defer s.d.mu.Unlock()
	if _, err := s.d.mutate(c); err != nil {
		return pathError(op, c.name, err)
	}
	return nil
}

func (s session) ReadDir(name string) ([]string, error) {
	if err := s.enter(); err != nil {
		return nil, pathError("readdir", name, err)
	}
	defer s.d.mu.Unlock()
	names, err := s.d.st.readDir(name)
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	return names, nil
}

func (s session) OpenTable(name string) (blockfile.Table, error) {
	if err := s.enter(); err != nil {
		return nil, pathError("open table", name, err)
	}
	defer s.d.mu.Unlock()
	ino, err := s.d.openInode(name, os.O_RDWR|os.O_CREATE, kindTable)
	if err == nil && s.d.tables[ino] {
		err = blockfile.ErrLocked
	}
	if err != nil {
		return nil, pathError("open table", name, err)
	}
	s.d.tables[ino] = true
	s.d.st.open[ino]++
	return &table{s: s, ino: ino, name: path.Clean(name)}, nil
}

func (s session) Lock(name string) (io.Closer, error) {
	if err := s.enter(); err != nil {
		return nil, pathError("lock", name, err)
	}
	defer s.d.mu.Unlock()
	ino, err := s.d.openInode(name, os.O_RDWR|os.O_CREATE, kindFile)
	if err == nil && s.d.locks[ino] {
		err = blockfile.ErrLocked
	}
	if err != nil {
		return nil, pathError("lock", name, err)
	}
	s.d.locks[ino] = true
	s.d.st.open[ino]++
	return &lock{s: s, ino: ino}, nil
}

func (s session) Space() (totalBytes, freeBytes int64, err error) {
	if err := s.enter(); err != nil {
		return 0, 0, err
	}
	defer s.d.mu.Unlock()
	total := s.d.st.capacity
	if total == 0 {
		total = 1 << 40
	}
	return total, max(total-s.d.st.allocated, 0), nil
}

// lock is a lock taken.
type lock struct {
	s   session
	ino uint64
}

func (l *lock) Close() error {
	if err := l.s.enter(); err != nil {
		return err
	}
	defer l.s.d.mu.Unlock()
	if !l.s.d.locks[l.ino] {
		return os.ErrClosed
	}
	delete(l.s.d.locks, l.ino)
	l.s.d.st.release(l.ino)
	return nil
}
