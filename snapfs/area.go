package snapfs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rowan-storage/rowan/snapfs/partition"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// errGivenUp is the cause why a filesystem was not opened when the one who
// wanted it does not any more.
var errGivenUp = errors.New("given up")

// readmeName is the file that says why an area cannot be read.
const readmeName = "README"

// area is a partition or a whole disk: the root of the filesystem in it or,
// where that cannot be read, a directory with a README.
type area struct {
	snap      *snapshotDir
	id        tree.Ino
	number    tree.Ino // of the volume
	readme    *readmeFile
	name      string
	part      *partition.Partition // nil for a whole disk
	off       int64
	sizeBytes int64
	found     finding

	// broken is why the filesystem cannot be read though there is a reader,
	// nil while that is not known.
	broken  atomic.Pointer[string]
	vol     atomic.Pointer[volume] // nil while the filesystem is not open
	lastUse atomic.Int64           // Unix nanoseconds
}

// readmeFile says in one sentence why an area cannot be read.
type readmeFile struct {
	area *area
	id   tree.Ino
}

func (s *snapshotDir) newArea(name string, f finding, part *partition.Partition) *area {
	a := &area{snap: s, name: name, found: f, part: part, sizeBytes: s.im.sizeBytes}
	if part != nil {
		a.off, a.sizeBytes = part.StartBytes, part.SizeBytes
	}
	if f.why == "" && s.root.open[f.kind] == nil {
		a.found.why = notYet
	}
	return a
}

// object names the area in errors and logs.
func (a *area) object() string { return a.name + " of " + a.snap.object() }

// volume opens the filesystem. If it cannot be read for good it returns nil and
// the reason, a sentence.
func (a *area) volume(ctx context.Context) (v *volume, why string, err error) {
	a.lastUse.Store(time.Now().UnixNano())
	if a.found.why != "" {
		return nil, a.found.sentence(), nil
	}
	for {
		if b := a.broken.Load(); b != nil {
			return nil, *b, nil
		}
		if v := a.vol.Load(); v != nil {
			return v, "", nil
		}
		_, err, _ := a.snap.root.flight.Do(fmt.Sprintf("volume %d", a.number), func() (any, error) {
			return nil, a.openVolume(ctx)
		})
		if errors.Is(err, errGivenUp) && ctx.Err() == nil {
			continue // by another one, who was first
		}
		if err != nil {
			return nil, "", err
		}
	}
}

// openVolume opens the filesystem and leaves it, or the reason why it cannot be
// read, in the area. It fails only if the image cannot be read now, or ctx is
// done.
func (a *area) openVolume(ctx context.Context) error {
	if a.vol.Load() != nil || a.broken.Load() != nil {
		return nil
	}
	if err := a.snap.im.pin(ctx); err != nil {
		return err
	}
	defer a.snap.im.unpin()
	w := &window{im: a.snap.im, off: a.off, sizeBytes: a.sizeBytes}
	v, err := openVolume(ctx, a, w, a.snap.root.open[a.found.kind])
	log := a.snap.root.log
	switch {
	case err == nil:
		for _, note := range v.info.Notes {
			log.Info("filesystem opened with a note", "volume", a.object(), "note", note)
		}
		a.vol.Store(v)
	case ctx.Err() != nil:
		return &Error{Object: a.object(), Class: ErrUnreachable, Cause: fmt.Errorf("%w: %w", errGivenUp, ctx.Err())}
	case w.failures.Load() > 0 || transient(err):
		if !transient(err) {
			err = &Error{Object: a.object(), Class: ErrUnreachable, Cause: err}
		}
		return err
	default:
		log.Warn("filesystem cannot be read", "volume", a.object(), "error", err)
		text := strings.TrimPrefix(err.Error(), a.found.kind+": ")
		a.fail(fmt.Sprintf("%s: its files cannot be read: %s.", a.found.title, text))
	}
	return nil
}

// fail makes the area one that cannot be read.
func (a *area) fail(sentence string) {
	a.broken.CompareAndSwap(nil, &sentence)
	a.vol.Store(nil)
}

// readerPanicked gives the filesystem up after its reader has failed on it.
func (a *area) readerPanicked(what any, stack []byte) {
	r := a.snap.root
	r.panicked(a.object(), what, stack)
	a.fail(a.found.title + ": damaged: its reader failed on it, so that its files cannot be read.")
	r.mu.Lock()
	if r.nodes[a.snap.id] == a.snap {
		a.snap.newInfo()
	}
	if changed := r.changed; changed != nil && !r.closed {
		r.work.Go(func() { changed(a.id) })
	}
	r.mu.Unlock()
}

// panicked counts and reports a panic of a reader.
func (r *Root) panicked(object string, what any, stack []byte) {
	r.panics.Add(1)
	r.log.Error("reader failed on an image", "object", object, "panic", fmt.Sprint(what), "stack", string(stack))
}

// forgetIdle forgets the opened filesystem if nobody has looked at it for idle.
// Open files keep what they need of it.
func (a *area) forgetIdle(idle time.Duration) {
	if a.vol.Load() != nil && time.Since(time.Unix(0, a.lastUse.Load())) >= idle {
		a.vol.Store(nil)
	}
}

func (a *area) attr(ctx context.Context) (tree.Attr, error) {
	v, _, err := a.volume(ctx)
	if err == nil && v != nil {
		var attr tree.Attr
		if attr, err = v.stat(v.rootIno); err == nil {
			return attr, nil
		}
		err = a.ifStillReadable(err)
	}
	if err != nil {
		return tree.Attr{}, err
	}
	attr := a.snap.root.madeAttr(a.id, tree.Directory, 0)
	a.snap.root.mu.Lock()
	attr.Mtime = a.snap.meta.Created
	a.snap.root.mu.Unlock()
	attr.Ctime = attr.Mtime
	return attr, nil
}

func (a *area) readDir(ctx context.Context) ([]tree.DirEntry, error) {
	v, _, err := a.volume(ctx)
	if err == nil && v != nil {
		var entries []tree.DirEntry
		entries, err = v.readDir(v.rootIno)
		if err == nil || len(entries) > 0 {
			return entries, err
		}
		err = a.ifStillReadable(err)
	}
	if err != nil {
		return nil, err
	}
	return []tree.DirEntry{{Name: readmeName, Ino: a.readme.id, Type: tree.Regular}}, nil
}

func (a *area) lookup(ctx context.Context, name string) (tree.Ino, error) {
	v, _, err := a.volume(ctx)
	if err == nil && v != nil {
		var ino tree.Ino
		if ino, err = v.lookup(v.rootIno, name); err == nil {
			return ino, nil
		}
		err = a.ifStillReadable(err)
	}
	if err != nil {
		return 0, err
	}
	if name != readmeName {
		return 0, notFound(name)
	}
	return a.readme.id, nil
}

func (a *area) xattrs(ctx context.Context) (map[string][]byte, error) {
	v, _, err := a.volume(ctx)
	if err != nil || v == nil {
		return nil, err
	}
	return v.xattrs(v.rootIno)
}

// ifStillReadable returns the error of a reader, or nil if the reader has just
// been given up, so that the area is a README now.
func (a *area) ifStillReadable(err error) error {
	if a.broken.Load() != nil {
		return nil
	}
	return err
}

// sentence is why the area cannot be read.
func (f *readmeFile) sentence() string {
	a := f.area
	if b := a.broken.Load(); b != nil {
		return *b
	}
	return a.found.sentence()
}

func (f *readmeFile) attr(ctx context.Context) (tree.Attr, error) {
	a := f.area.snap.root.madeAttr(f.id, tree.Regular, int64(len(f.sentence()))+1)
	f.area.snap.root.mu.Lock()
	a.Mtime = f.area.snap.meta.Created
	f.area.snap.root.mu.Unlock()
	a.Ctime = a.Mtime
	return a, nil
}

func (f *readmeFile) open(context.Context) (*File, error) {
	return textFile(f.sentence() + "\n"), nil
}

// volumeFile is a file in the filesystem of an area.
type volumeFile struct {
	area *area
	ino  tree.Ino
}

// volume opens the filesystem that the file lies in.
func (f *volumeFile) volume(ctx context.Context) (*volume, error) {
	v, why, err := f.area.volume(ctx)
	if err == nil && v == nil {
		err = &Error{Object: f.area.object(), Class: ErrDamaged, Cause: errors.New(why)}
	}
	return v, err
}

func (f *volumeFile) attr(ctx context.Context) (tree.Attr, error) {
	v, err := f.volume(ctx)
	if err != nil {
		return tree.Attr{}, err
	}
	return v.stat(f.ino)
}

func (f *volumeFile) readDir(ctx context.Context) ([]tree.DirEntry, error) {
	v, err := f.volume(ctx)
	if err != nil {
		return nil, err
	}
	return v.readDir(f.ino)
}

func (f *volumeFile) lookup(ctx context.Context, name string) (tree.Ino, error) {
	v, err := f.volume(ctx)
	if err != nil {
		return 0, err
	}
	return v.lookup(f.ino, name)
}

func (f *volumeFile) readlink(ctx context.Context) (string, error) {
	v, err := f.volume(ctx)
	if err != nil {
		return "", err
	}
	return v.readlink(f.ino)
}

func (f *volumeFile) xattrs(ctx context.Context) (map[string][]byte, error) {
	v, err := f.volume(ctx)
	if err != nil {
		return nil, err
	}
	return v.xattrs(f.ino)
}

func (f *volumeFile) open(ctx context.Context) (*File, error) {
	v, err := f.volume(ctx)
	if err != nil {
		return nil, err
	}
	im := f.area.snap.im
	if err := im.pin(ctx); err != nil {
		return nil, err
	}
	file, err := v.open(f.ino)
	if err != nil {
		im.unpin()
		return nil, err
	}
	file.release = im.unpin
	return file, nil
}
