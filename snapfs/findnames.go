package snapfs

import (
	"context"
	"errors"
	"fmt"

	"github.com/rowan-storage/rowan/snapfs/tree"
)

// Bounds on the search for names, far above what a filesystem in use comes to:
// how many directories are entered, how many wait to be, and how long the path
// of one may be.
const (
	maxEntered   = 1 << 22
	maxWaiting   = 1 << 20
	maxFoundPath = 4 * maxPathBytes
)

// nameWalk looks for the names of some files.
type nameWalk struct {
	v        *volume
	names    map[tree.Ino]string // "" until one is found
	missing  int
	waiting  []waitingDir
	entered  map[tree.Ino]uint64 // a bit for each inode number
	count    int
	first    error // to read a directory
	failures int
}

// waitingDir is a directory that is to be entered. Those of one directory share
// its path.
type waitingDir struct {
	parent, name string
	ino          tree.Ino
}

// findNames finds the path of each file of which the number is in names, from
// the root of the filesystem on, beginning with "/". Of several it is any.
// Where it finds none the path stays empty; an error says why that may be.
func findNames(ctx context.Context, v *volume, names map[tree.Ino]string) error {
	w := &nameWalk{v: v, names: names, missing: len(names), entered: map[tree.Ino]uint64{}}
	w.found(v.rootIno, "/")
	w.waiting = append(w.waiting, waitingDir{ino: v.rootIno})
	for len(w.waiting) > 0 && w.missing > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		d := w.waiting[len(w.waiting)-1]
		w.waiting = w.waiting[:len(w.waiting)-1]
		if w.isNew(d.ino) {
			w.enter(d)
		}
	}
	switch {
	case w.missing == 0:
		return nil
	case w.failures > 1:
		return fmt.Errorf("%w (and %d more)", w.first, w.failures-1)
	}
	return w.first
}

func (w *nameWalk) found(ino tree.Ino, name string) {
	if have, wanted := w.names[ino]; wanted && have == "" {
		w.names[ino] = name
		w.missing--
	}
}

// isNew notes that a directory is entered and tells whether that is for the
// first time: a damaged filesystem may have one in several places, or in itself.
func (w *nameWalk) isNew(ino tree.Ino) bool {
	bits, bit := w.entered[ino>>6], uint64(1)<<(ino&63)
	w.entered[ino>>6] = bits | bit
	return bits&bit == 0
}

func (w *nameWalk) failed(err error) {
	if w.first == nil {
		w.first = err
	}
	w.failures++
}

// enter looks at the names in a directory.
func (w *nameWalk) enter(d waitingDir) {
	dir := d.parent + "/" + d.name
	if d.name == "" {
		dir = ""
	}
	if w.count++; w.count > maxEntered || len(dir) > maxFoundPath {
		w.failed(errors.New("there are too many directories"))
		return
	}
	list, err := guard(w.v, func() ([]tree.DirEntry, error) { return w.v.fs.ReadDir(d.ino) })
	if err != nil {
		w.failed(err)
	}
	for _, e := range list {
		if !fileName(e.Name) {
			continue
		}
		w.found(e.Ino, dir+"/"+e.Name)
		if e.Type != tree.Directory && (e.Type != tree.Unknown || !w.isDirectory(e.Ino)) {
			continue
		}
		if len(w.waiting) >= maxWaiting {
			w.failed(errors.New("there are too many directories"))
			return
		}
		w.waiting = append(w.waiting, waitingDir{dir, e.Name, e.Ino})
	}
}

// isDirectory asks for the type of a file of which its directory does not tell.
func (w *nameWalk) isDirectory(ino tree.Ino) bool {
	attr, err := guard(w.v, func() (tree.Attr, error) { return w.v.fs.Stat(ino) })
	if err != nil {
		w.failed(err)
	}
	return err == nil && attr.Type == tree.Directory
}
