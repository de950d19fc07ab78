package snapfs

import (
	"context"
	"syscall"

	"github.com/rowan-storage/rowan/snapfs/tree"
)

// inoBits is the width of the part of a number that is an inode number within
// its volume.
//
//	63      62..40             39..0
//	0       0                  counter             LUNs, snapshots, files made here
//	0       number of volume   inode number        files in a filesystem
//	1       counter                                files whose inode number needs more
//	                                               than 40 bits
//
// 40 bits are enough for every inode number of ext2/3/4, and of XFS and NTFS on
// disks of up to 100 TiB.
const (
	inoBits   = 40
	wideBit   = tree.Ino(1) << 63
	maxVolume = tree.Ino(1)<<22 - 1
	// maxWide bounds the table of numbers that do not fit.
	maxWide = 1 << 22
)

// node is a file of the tree. What else it is, it says by the interfaces below.
type node interface {
	attr(ctx context.Context) (tree.Attr, error)
}

type directory interface {
	node
	readDir(ctx context.Context) ([]tree.DirEntry, error)
	lookup(ctx context.Context, name string) (tree.Ino, error)
}

type regular interface {
	node
	open(ctx context.Context) (*File, error)
}

type symlink interface {
	node
	readlink(ctx context.Context) (string, error)
}

type withXattrs interface {
	xattrs(ctx context.Context) (map[string][]byte, error)
}

// wideIno is an inode of a volume whose number does not fit into inoBits.
type wideIno struct {
	volume tree.Ino
	ino    tree.Ino
}

// wideInos gives numbers to those inodes, from a counter.
type wideInos struct {
	ids  map[wideIno]tree.Ino
	inos map[tree.Ino]wideIno
}

// node finds a file by its number.
func (r *Root) node(ino tree.Ino) (node, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, &Error{Object: "the tree", Class: ErrClosed}
	}
	if n := r.nodes[ino]; n != nil {
		return n, nil
	}
	in := wideIno{volume: ino >> inoBits, ino: ino & (1<<inoBits - 1)}
	if ino&wideBit != 0 {
		in = r.wide.inos[ino]
	}
	if a := r.areas[in.volume]; a != nil && ino>>inoBits != 0 {
		return &volumeFile{area: a, ino: in.ino}, nil
	}
	return nil, &Error{Object: "file", Class: ErrGone}
}

// nodeOf finds a file of a kind, or fails with errno if it is of another.
func nodeOf[T node](r *Root, ino tree.Ino, errno syscall.Errno) (T, error) {
	var none T
	n, err := r.node(ino)
	if err != nil {
		return none, err
	}
	t, ok := n.(T)
	if !ok {
		return none, &Error{Object: "file", Class: errno}
	}
	return t, nil
}

// areaOf is the area whose filesystem a file lies in, nil if in none.
func (r *Root) areaOf(ino tree.Ino) *area {
	n, err := r.node(ino)
	if err != nil {
		return nil
	}
	switch n := n.(type) {
	case *area:
		return n
	case *volumeFile:
		return n.area
	}
	return nil
}

// add gives a node a number. The caller holds r.mu.
func (r *Root) add(n node) tree.Ino {
	r.lastNode++
	r.nodes[r.lastNode] = n
	return r.lastNode
}

// addVolume gives an area a number of volume, 0 if there are no more. The
// caller holds r.mu.
func (r *Root) addVolume(a *area) tree.Ino {
	if r.lastVol == maxVolume {
		return 0
	}
	r.lastVol++
	r.areas[r.lastVol] = a
	return r.lastVol
}

// global makes the number of an inode of a volume.
func (r *Root) global(volume, ino tree.Ino) (tree.Ino, error) {
	if ino>>inoBits == 0 {
		return volume<<inoBits | ino, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	in := wideIno{volume, ino}
	if id, ok := r.wide.ids[in]; ok {
		return id, nil
	}
	if len(r.wide.ids) >= maxWide {
		return 0, &Error{Object: "file", Class: syscall.EOVERFLOW}
	}
	r.lastNode++
	id := wideBit | r.lastNode
	r.wide.ids[in], r.wide.inos[id] = id, in
	return id, nil
}

// dropVolume forgets an area. The caller holds r.mu.
func (r *Root) dropVolume(a *area) {
	delete(r.areas, a.number)
	for in, id := range r.wide.ids {
		if in.volume == a.number {
			delete(r.wide.ids, in)
			delete(r.wide.inos, id)
		}
	}
}

// madeAttr describes a file made by this package.
func (r *Root) madeAttr(ino tree.Ino, t tree.Type, sizeBytes int64) tree.Attr {
	a := tree.Attr{
		Ino: ino, Type: t, Mode: 0o444, UID: r.owner.uid, GID: r.owner.gid, Nlink: 1,
		Size: sizeBytes, Blocks: (sizeBytes + 511) / 512,
		Atime: r.start, Mtime: r.start, Ctime: r.start,
	}
	switch t {
	case tree.Directory:
		a.Mode = 0o555
	case tree.Symlink:
		a.Mode, a.Blocks = 0o777, 0
	}
	return a
}
