package blockdevtest

import (
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"
)

// nameOp is a change of names that the disk may not have yet. It is applied
// whole or not at all.
type nameOp struct {
	class Class // Create (files, tables, directories), Remove or Rename
	ino   uint64
	from  entry
	to    entry // Rename
	// Directories still to be synced before the change is durable.
	fromDirty, toDirty bool
}

// entry is a place for a name.
type entry struct {
	dir  uint64
	name string
}

func pathError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// lookup finds the inode of a path.
func (st *state) lookup(name string) (uint64, error) {
	name = path.Clean(name)
	if !fs.ValidPath(name) {
		return 0, syscall.EINVAL
	}
	ino := uint64(rootInode)
	if name == "." {
		return ino, nil
	}
	for _, part := range strings.Split(name, "/") {
		n := st.inodes[ino]
		if n.kind != kindDir {
			return 0, syscall.ENOTDIR
		}
		next, ok := n.names[part]
		if !ok {
			return 0, syscall.ENOENT
		}
		ino = next
	}
	return ino, nil
}

// nameOf returns the path of an inode, "" if it has none.
func (st *state) nameOf(ino uint64) string {
	var find func(dir uint64, at string) string
	find = func(dir uint64, at string) string {
		for name, n := range st.inodes[dir].names {
			if n == ino {
				return path.Join(at, name)
			}
			if found := find(n, path.Join(at, name)); found != "" {
				return found
			}
		}
		return ""
	}
	return find(rootInode, "")
}

// lookupDir finds a directory.
func (st *state) lookupDir(name string) (uint64, error) {
	ino, err := st.lookup(name)
	if err == nil && st.inodes[ino].kind != kindDir {
		err = syscall.ENOTDIR
	}
	return ino, err
}

// entry finds the place of a path, which need not exist in its directory.
func (st *state) entry(name string) (entry, error) {
	name = path.Clean(name)
	if name == "." {
		return entry{}, syscall.EBUSY
	}
	dir, err := st.lookupDir(path.Dir(name))
	return entry{dir: dir, name: path.Base(name)}, err
}

func (st *state) readDir(name string) ([]string, error) {
	dir, err := st.lookupDir(name)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(st.inodes[dir].names)), nil
}

func (st *state) make(name string, kind inodeKind) error {
	at, err := st.entry(name)
	if err != nil {
		return err
	}
	if _, ok := st.inodes[at.dir].names[at.name]; ok {
		return syscall.EEXIST
	}
	ino := st.create(kind)
	st.own(at.dir).names[at.name] = ino
	st.pending = append(st.pending, nameOp{class: Create, ino: ino, from: at, fromDirty: true})
	return nil
}

func (st *state) remove(name string) error {
	at, err := st.entry(name)
	if err != nil {
		return err
	}
	ino, ok := st.inodes[at.dir].names[at.name]
	if !ok {
		return syscall.ENOENT
	}
	if len(st.inodes[ino].names) > 0 {
		return syscall.ENOTEMPTY
	}
	delete(st.own(at.dir).names, at.name)
	st.unlink(ino)
	st.pending = append(st.pending, nameOp{class: Remove, ino: ino, from: at, fromDirty: true})
	return nil
}

func (st *state) rename(oldName, newName string) error {
	from, err := st.entry(oldName)
	if err != nil {
		return err
	}
	to, err := st.entry(newName)
	if err != nil {
		return err
	}
	ino, ok := st.inodes[from.dir].names[from.name]
	if !ok {
		return syscall.ENOENT
	}
	if from == to {
		return nil
	}
	n := st.inodes[ino]
	if n.kind == kindDir && st.within(to.dir, ino) {
		return syscall.EINVAL
	}
	if old, ok := st.inodes[to.dir].names[to.name]; ok {
		switch o := st.inodes[old]; {
		case st.within(from.dir, old): // holds what is to replace it
			return syscall.ENOTEMPTY
		case o.kind == kindDir && n.kind != kindDir:
			return syscall.EISDIR
		case o.kind != kindDir && n.kind == kindDir:
			return syscall.ENOTDIR
		case len(o.names) > 0:
			return syscall.ENOTEMPTY
		}
		st.unlink(old)
	}
	delete(st.own(from.dir).names, from.name)
	st.own(to.dir).names[to.name] = ino
	st.pending = append(st.pending, nameOp{
		class: Rename, ino: ino, from: from, to: to,
		fromDirty: true, toDirty: to.dir != from.dir,
	})
	return nil
}

// within tells whether directory dir is or lies below top.
func (st *state) within(dir, top uint64) bool {
	if dir == top {
		return true
	}
	for _, child := range st.inodes[top].names {
		if st.inodes[child].kind == kindDir && st.within(dir, child) {
			return true
		}
	}
	return false
}

// follows tells whether op changes the same name as the earlier change does,
// or removes a directory that the earlier change was made in: the disk never
// has op without the other.
func (op nameOp) follows(earlier nameOp) bool {
	for _, e := range []entry{earlier.from, earlier.to} {
		if e.dir == 0 {
			continue
		}
		if e == op.from || e == op.to || (op.class == Remove && op.ino == e.dir) {
			return true
		}
	}
	return false
}

// applyNames brings a change to the names on the disk.
func (st *state) applyNames(op nameOp) {
	switch op.class {
	case Create:
		st.own(op.from.dir).diskNames[op.from.name] = op.ino
	case Remove:
		delete(st.own(op.from.dir).diskNames, op.from.name)
	case Rename:
		delete(st.own(op.from.dir).diskNames, op.from.name)
		st.own(op.to.dir).diskNames[op.to.name] = op.ino
	}
}

// syncDir makes the changes in a directory durable, with the earlier ones that
// they follow. A rename from one directory to another waits for both.
func (st *state) syncDir(name string) error {
	dir, err := st.lookupDir(name)
	if err != nil {
		return err
	}
	durable := make([]bool, len(st.pending))
	for i := range st.pending {
		op := &st.pending[i]
		mine := op.from.dir == dir || op.to.dir == dir
		op.fromDirty = op.fromDirty && op.from.dir != dir
		op.toDirty = op.toDirty && op.to.dir != dir
		durable[i] = mine && !op.fromDirty && !op.toDirty
	}
	for i := len(st.pending) - 1; i >= 0; i-- {
		for j := range i {
			if durable[i] && st.pending[i].follows(st.pending[j]) {
				durable[j] = true
			}
		}
	}
	var left []nameOp
	removed := false
	for i, op := range st.pending {
		if !durable[i] {
			left = append(left, op)
			continue
		}
		st.applyNames(op)
		removed = removed || op.class != Create
	}
	st.pending = left
	if removed {
		st.collect()
	}
	return nil
}

// collect forgets the inodes that nothing can reach any more.
func (st *state) collect() {
	live := map[uint64]bool{rootInode: true}
	var walk func(dir uint64)
	walk = func(dir uint64) {
		n := st.inodes[dir]
		for _, names := range []map[string]uint64{n.names, n.diskNames} {
			for _, ino := range names {
				if !live[ino] {
					live[ino] = true
					walk(ino)
				}
			}
		}
	}
	walk(rootInode)
	for _, op := range st.pending {
		live[op.ino], live[op.from.dir] = true, true
		if op.to.dir != 0 {
			live[op.to.dir] = true
		}
	}
	for ino := range st.open {
		live[ino] = true
	}
	for ino := range st.inodes {
		if !live[ino] {
			delete(st.inodes, ino)
		}
	}
}
