package snapfs

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/rowan-storage/rowan/snapfs/tree"
)

// The names of the files that every snapshot has.
const (
	infoName = "info.json"
	rawName  = "disk.raw"
)

// snapshotDir is the directory of one snapshot.
type snapshotDir struct {
	root *Root
	lun  *lunDir
	id   tree.Ino
	raw  *rawFile
	im   *image
	// found is what the image holds, nil until someone looked.
	found atomic.Pointer[layout]

	// Guarded by root.mu.
	meta Snapshot
	key  string    // tells meta from another
	info *infoFile // of this meta
}

// rawFile is the whole image as a file.
type rawFile struct {
	snap *snapshotDir
	id   tree.Ino
}

// newSnapshot makes the directory of a snapshot. The caller holds root.mu.
func (d *lunDir) newSnapshot(meta Snapshot) *snapshotDir {
	r := d.root
	s := &snapshotDir{root: r, lun: d, meta: meta}
	s.id = r.add(s)
	s.raw = &rawFile{snap: s}
	s.raw.id = r.add(s.raw)
	s.im = &image{object: d.name + "@" + meta.Name, sizeBytes: meta.SizeBytes, timeout: r.opts.SourceTimeout, open: s.openImage}
	r.images[s.im] = true
	return s
}

// describe takes what is now known of the snapshot. The caller holds root.mu.
func (s *snapshotDir) describe(meta Snapshot) {
	key := metaKey(meta)
	if s.info != nil && s.key == key {
		return
	}
	s.meta, s.key = meta, key
	s.newInfo()
}

// newInfo replaces info.json by one that will be made anew. The caller holds
// root.mu.
func (s *snapshotDir) newInfo() {
	if s.info != nil {
		delete(s.root.nodes, s.info.id)
	}
	s.info = &infoFile{snap: s, meta: s.meta}
	s.info.id = s.root.add(s.info)
}

// drop forgets a snapshot that is gone. The caller holds root.mu.
func (s *snapshotDir) drop() {
	r := s.root
	delete(r.nodes, s.id)
	delete(r.nodes, s.raw.id)
	delete(r.nodes, s.info.id)
	if l := s.found.Load(); l != nil {
		for _, a := range l.areas {
			delete(r.nodes, a.id)
			delete(r.nodes, a.readme.id)
			r.dropVolume(a)
		}
	}
	delete(r.images, s.im)
	s.im.retire()
}

// openImage opens the image and makes sure that the name still is that of this
// snapshot and not of one made since.
func (s *snapshotDir) openImage(ctx context.Context) (Image, error) {
	s.root.mu.Lock()
	name, id := s.meta.Name, s.meta.ID
	s.root.mu.Unlock()
	im, err := s.root.src.Open(ctx, s.lun.name, name)
	if err != nil {
		return nil, err
	}
	list, err := s.root.src.Snapshots(ctx, s.lun.name)
	if err == nil {
		for _, meta := range list {
			if meta.ID == id && meta.Name == name {
				return im, nil
			}
		}
		err = &Error{Object: s.object(), Class: ErrGone}
	}
	_ = im.Close() // nothing was written
	return nil, err
}

// object names the snapshot in errors and logs.
func (s *snapshotDir) object() string { return s.im.object }

func (s *snapshotDir) attr(context.Context) (tree.Attr, error) {
	a := s.root.madeAttr(s.id, tree.Directory, 0)
	s.root.mu.Lock()
	a.Mtime = s.meta.Created
	s.root.mu.Unlock()
	a.Ctime = a.Mtime
	return a, nil
}

func (s *snapshotDir) readDir(ctx context.Context) ([]tree.DirEntry, error) {
	l, err := s.layout(ctx)
	if err != nil {
		return nil, err
	}
	s.root.mu.Lock()
	info := s.info.id
	s.root.mu.Unlock()
	entries := []tree.DirEntry{
		{Name: infoName, Ino: info, Type: tree.Regular},
		{Name: rawName, Ino: s.raw.id, Type: tree.Regular},
	}
	for _, a := range l.areas {
		entries = append(entries, tree.DirEntry{Name: a.name, Ino: a.id, Type: tree.Directory})
	}
	return entries, nil
}

func (s *snapshotDir) lookup(ctx context.Context, name string) (tree.Ino, error) {
	switch name {
	case infoName:
		s.root.mu.Lock()
		defer s.root.mu.Unlock()
		return s.info.id, nil
	case rawName:
		return s.raw.id, nil
	}
	l, err := s.layout(ctx)
	if err != nil {
		return 0, err
	}
	for _, a := range l.areas {
		if a.name == name {
			return a.id, nil
		}
	}
	return 0, notFound(name)
}

// layout finds out what the image holds, once.
func (s *snapshotDir) layout(ctx context.Context) (*layout, error) {
	if l := s.found.Load(); l != nil {
		return l, nil
	}
	v, err, _ := s.root.flight.Do(fmt.Sprintf("layout of %d", s.id), func() (any, error) {
		if l := s.found.Load(); l != nil {
			return l, nil
		}
		if err := s.im.pin(ctx); err != nil {
			return nil, err
		}
		defer s.im.unpin()
		l, err := s.survey()
		if err != nil {
			return nil, err
		}
		return s.adopt(l)
	})
	if err != nil {
		return nil, err
	}
	return v.(*layout), nil
}

// adopt gives the areas of a layout their numbers.
func (s *snapshotDir) adopt(l *layout) (*layout, error) {
	r := s.root
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.nodes[s.id] != s {
		return nil, &Error{Object: s.object(), Class: ErrGone}
	}
	for _, a := range l.areas {
		a.id = r.add(a)
		a.readme = &readmeFile{area: a}
		a.readme.id = r.add(a.readme)
		if a.number = r.addVolume(a); a.number == 0 {
			a.found.why = "too many volumes were looked at since the tree was made; mount it anew"
		}
	}
	s.found.Store(l)
	return l, nil
}

func (f *rawFile) attr(context.Context) (tree.Attr, error) {
	s := f.snap
	a := s.root.madeAttr(f.id, tree.Regular, s.im.sizeBytes)
	s.root.mu.Lock()
	defer s.root.mu.Unlock()
	a.Mtime, a.Ctime = s.meta.Created, s.meta.Created
	if n := s.meta.MappedBytes; n > 0 && n < a.Size {
		a.Blocks = (n + 511) / 512
	}
	return a, nil
}

func (f *rawFile) open(ctx context.Context) (*File, error) {
	im := f.snap.im
	if err := im.pin(ctx); err != nil {
		return nil, err
	}
	return &File{sizeBytes: im.sizeBytes, content: im, extents: im.Extents, release: im.unpin}, nil
}
