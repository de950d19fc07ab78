package snapfs

import (
	"context"
	"io"

	"github.com/rowan-storage/rowan/snapfs/tree"
)

// SetReader has filesystems of a kind opened by open.
func (r *Root) SetReader(kind string, open func(ctx context.Context, r io.ReaderAt, sizeBytes int64) (tree.FileSystem, error)) {
	r.open[kind] = open
}

// Files is the number of files made by this package that the Root knows, and of
// volumes.
func (r *Root) Files() (made, volumes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.nodes), len(r.areas)
}

// ForgetVolumes forgets all opened filesystems.
func (r *Root) ForgetVolumes() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.areas {
		a.vol.Store(nil)
	}
}

// Detect finds out what a disk without a partition table holds.
func Detect(r io.ReaderAt, sizeBytes int64) (kind, label, uuid, sentence string, ok bool, err error) {
	f, ok, err := detect(r, sizeBytes, nil)
	return f.kind, f.label, f.uuid, f.sentence(), ok, err
}

// SafeLabel makes a label fit for a name.
func SafeLabel(label string) string { return safeLabel(label) }

// Panics is how often a reader has panicked.
func (r *Root) Panics() uint64 { return r.panics.Load() }

// Contents says what a snapshot is and what was found in it. It opens every
// filesystem in it that can be read.
func (r *Root) Contents(ctx context.Context, lun, snapshot string) (Contents, error) {
	ino, err := r.Walk(ctx, RootIno, lun+"/"+snapshot, false)
	if err != nil {
		return Contents{}, err
	}
	s, err := nodeOf[*snapshotDir](r, ino, 0)
	if err != nil {
		return Contents{}, notFound(snapshot)
	}
	r.mu.Lock()
	meta := s.meta
	r.mu.Unlock()
	return s.contents(ctx, meta)
}
