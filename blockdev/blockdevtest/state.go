package blockdevtest

import (
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
)

// maxPending bounds the unsynced bytes kept for one file. Past it the oldest
// are written back, as a kernel does that runs out of clean pages.
const maxPending = 64 << 20

type inodeKind uint8

const (
	kindFile inodeKind = iota
	kindDir
	kindTable
)

// inode is a file, directory or table: as it is now (the cache) and as a power
// cut would surely leave it (the disk).
type inode struct {
	owner  *owner
	kind   inodeKind
	linked bool // has a name now

	cache, disk  content // of a file
	pending      []dataOp
	pendingBytes int64

	names, diskNames map[string]uint64 // of a directory

	rows       tableRows // of a table; its updates are durable at once
	tableBytes int64     // the space it takes, which does not shrink
}

// state is all that the disk holds. Clones share inodes and pages, and copy
// them on the first change.
type state struct {
	owner     *owner
	inodes    map[uint64]*inode
	next      uint64
	pending   []nameOp
	open      map[uint64]int // open handles; their inodes stay though unlinked
	capacity  int64
	allocated int64
}

const rootInode = 1

func newState(capacity int64) *state {
	st := &state{
		owner:    &owner{},
		inodes:   map[uint64]*inode{},
		next:     rootInode,
		open:     map[uint64]int{},
		capacity: capacity,
	}
	st.create(kindDir)
	return st
}

// clone gives both states a new owner, so that neither changes what they
// share.
func (st *state) clone() *state {
	c := *st
	st.owner, c.owner = &owner{}, &owner{}
	c.inodes = maps.Clone(st.inodes)
	c.pending = slices.Clone(st.pending)
	c.open = map[uint64]int{}
	return &c
}

// create makes an inode that has no name yet.
func (st *state) create(kind inodeKind) uint64 {
	n := &inode{owner: st.owner, kind: kind, linked: true}
	switch kind {
	case kindFile:
		n.cache, n.disk = newContent(), newContent()
	case kindDir:
		n.names, n.diskNames = map[string]uint64{}, map[string]uint64{}
	}
	ino := st.next
	st.next++
	st.inodes[ino] = n
	return ino
}

// own returns an inode that may be changed.
func (st *state) own(ino uint64) *inode {
	n := st.inodes[ino]
	if n.owner == st.owner {
		return n
	}
	c := *n
	c.owner = st.owner
	switch c.kind {
	case kindFile:
		c.cache, c.disk = n.cache.clone(), n.disk.clone()
		c.pending = slices.Clone(n.pending)
	case kindDir:
		c.names, c.diskNames = maps.Clone(n.names), maps.Clone(n.diskNames)
	}
	st.inodes[ino] = &c
	return &c
}

// bytes is the disk space that an inode takes.
func (n *inode) bytes() int64 {
	switch n.kind {
	case kindFile:
		return int64(len(n.cache.pages)) * pageSize
	case kindTable:
		return n.tableBytes
	}
	return 0
}

// recount sums up the space of all inodes that have a name or are open.
func (st *state) recount() {
	st.allocated = 0
	for ino, n := range st.inodes {
		if n.linked || st.open[ino] > 0 {
			st.allocated += n.bytes()
		}
	}
}

// release closes one handle.
func (st *state) release(ino uint64) {
	st.open[ino]--
	if st.open[ino] > 0 {
		return
	}
	delete(st.open, ino)
	if n := st.inodes[ino]; !n.linked {
		st.allocated -= n.bytes()
	}
}

// unlink takes the name from an inode.
func (st *state) unlink(ino uint64) {
	n := st.own(ino)
	n.linked = false
	if st.open[ino] == 0 {
		st.allocated -= n.bytes()
	}
}

// perform does a call. part, if not nil, has a write stop part of the way.
// The result is the number of bytes written.
func (st *state) perform(c call, part *rand.Rand) (int, error) {
	switch c.class {
	case WriteAt:
		return st.write(c, part)
	case Sync:
		st.sync(c.ino)
	case Truncate:
		return 0, st.truncate(c.ino, c.off)
	case PunchHole:
		st.punch(c.ino, c.off, c.n)
	case Update:
		return 0, st.update(c.ino, c.rows)
	case Create, Mkdir:
		return 0, st.make(c.name, c.kind)
	case Remove:
		return 0, st.remove(c.name)
	case Rename:
		return 0, st.rename(c.name, c.newName)
	case SyncDir:
		return 0, st.syncDir(c.name)
	}
	return 0, nil
}

func (st *state) write(c call, part *rand.Rand) (int, error) {
	data, err := c.data, error(nil)
	if part != nil { // a prefix that ends with a sector of the file
		cut := part.Int64N(int64(len(data)) + 1)
		if end := (c.off + cut) / sectorSize * sectorSize; cut < int64(len(data)) {
			cut = max(end-c.off, 0)
		}
		data = data[:cut]
	}
	n := st.own(c.ino)
	if room := st.room(n, c.off, int64(len(data))); room < int64(len(data)) {
		data, err = data[:room], syscall.ENOSPC
	}
	if len(data) == 0 {
		return 0, err
	}
	before := len(n.cache.pages)
	n.cache.write(st.owner, data, c.off)
	st.grow(c.ino, int64(len(n.cache.pages)-before)*pageSize)
	end := c.off + int64(len(data))
	n.cache.size = max(n.cache.size, end)

	first, last := c.off/sectorSize*sectorSize, alignUp(end, sectorSize)
	after := make([]byte, last-first)
	n.cache.read(after, first)
	st.queue(n, dataOp{class: WriteAt, off: first, data: after, end: end})
	return len(data), err
}

// room returns how many bytes of a write fit on the disk.
func (st *state) room(n *inode, off, length int64) int64 {
	if st.capacity == 0 || length == 0 {
		return length
	}
	free := max(st.capacity-st.allocated, 0) / pageSize
	if n.cache.missing(off, length) <= free {
		return length
	}
	for pg := off / pageSize; pg*pageSize < off+length; pg++ {
		if n.cache.pages[pg] != nil {
			continue
		}
		if free == 0 {
			return max(pg*pageSize-off, 0)
		}
		free--
	}
	return length
}

// grow counts bytes that an inode takes more, or less.
func (st *state) grow(ino uint64, bytes int64) {
	if st.inodes[ino].linked || st.open[ino] > 0 {
		st.allocated += bytes
	}
}

// queue keeps a change until it is synced.
func (st *state) queue(n *inode, op dataOp) {
	n.pending = append(n.pending, op)
	n.pendingBytes += int64(len(op.data))
	if n.pendingBytes <= maxPending {
		return
	}
	half := len(n.pending) / 2
	for _, op := range n.pending[:half] {
		n.disk.apply(st.owner, op)
		n.pendingBytes -= int64(len(op.data))
	}
	n.pending = slices.Clone(n.pending[half:])
}

func (st *state) sync(ino uint64) {
	if n := st.own(ino); n.kind == kindFile {
		for _, op := range n.pending {
			n.disk.apply(st.owner, op)
		}
		n.pending, n.pendingBytes = nil, 0
	}
}

// loseDirty is a sync that failed: the pages are clean, the disk has none of
// them.
func (st *state) loseDirty(ino uint64) {
	n := st.own(ino)
	n.pending, n.pendingBytes = nil, 0
}

func (st *state) dropCache(ino uint64) {
	n := st.own(ino)
	if n.kind != kindFile {
		return
	}
	n.cache = n.disk.share(st.owner)
	for _, op := range n.pending {
		n.cache.apply(st.owner, op)
	}
}

func (st *state) truncate(ino uint64, size int64) error {
	n := st.own(ino)
	before := len(n.cache.pages)
	n.cache.truncate(st.owner, size)
	st.grow(ino, int64(len(n.cache.pages)-before)*pageSize)
	st.queue(n, dataOp{class: Truncate, n: size})
	return nil
}

func (st *state) punch(ino uint64, off, length int64) {
	n := st.own(ino)
	length = min(length, n.cache.size-off) // nothing to give back past the end
	if length <= 0 {
		return
	}
	before := len(n.cache.pages)
	if off+length == n.cache.size { // the last page goes whole
		length = alignUp(off+length, pageSize) - off
	}
	n.cache.punch(st.owner, off, length)
	st.grow(ino, int64(len(n.cache.pages)-before)*pageSize)
	st.queue(n, dataOp{class: PunchHole, off: off, n: length})
}

func (st *state) update(ino uint64, rows tableRows) error {
	n := st.own(ino)
	more := max(n.rows.bytes()+rows.changed(n.rows).bytes()-n.tableBytes, 0)
	if st.capacity > 0 && more > 0 && st.allocated+more > st.capacity {
		return syscall.ENOSPC
	}
	n.rows = rows
	n.tableBytes += more
	st.grow(ino, more)
	return nil
}
