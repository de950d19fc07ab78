package snapfs

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/rowan-storage/rowan/snapfs/tree"
)

// The defaults of Options.
const (
	ListingAge    = time.Second
	ImageIdle     = 10 * time.Second
	VolumeIdle    = 5 * time.Minute
	SourceTimeout = 30 * time.Second
)

// Options sets up a Root. The zero value is ready to use.
type Options struct {
	Logger *slog.Logger // nil: nothing is logged
	// ListingAge is how long the lists of LUNs and snapshots are believed.
	ListingAge time.Duration
	// ImageIdle is after how long an image that nobody reads is closed.
	ImageIdle time.Duration
	// VolumeIdle is after how long an opened filesystem that nobody looks at
	// is forgotten.
	VolumeIdle time.Duration
	// SourceTimeout bounds a call of the Source, and a read of an Image: one
	// that takes longer closes the Image.
	SourceTimeout time.Duration
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		value *time.Duration
		def   time.Duration
	}{{&o.ListingAge, ListingAge}, {&o.ImageIdle, ImageIdle}, {&o.VolumeIdle, VolumeIdle}, {&o.SourceTimeout, SourceTimeout}} {
		if *d.value <= 0 {
			*d.value = d.def
		}
	}
	return o
}

// RootIno is the number of the directory that holds the LUNs.
const RootIno tree.Ino = 1

// Root is the tree over a Source. Its methods take and return numbers that are
// unique over the whole tree, see the package comment. A number whose file is
// gone gives ErrGone.
type Root struct {
	src    Source
	opts   Options
	log    *slog.Logger
	start  time.Time
	owner  struct{ uid, gid uint32 } // of the files made by this package
	open   map[string]opener         // readers by kind
	panics atomic.Uint64
	flight singleflight.Group

	stop chan struct{}
	work sync.WaitGroup // goroutines

	mu       sync.Mutex
	closed   bool
	nodes    map[tree.Ino]node // LUNs, snapshots and the files made here
	lastNode tree.Ino
	areas    map[tree.Ino]*area // by number of volume
	lastVol  tree.Ino
	wide     wideInos
	luns     map[string]*lunDir
	listed   time.Time // when luns was read
	images   map[*image]bool
	changed  func(dir tree.Ino)
}

// New makes the tree over a source. The caller closes it.
func New(src Source, o Options) *Root {
	o = o.withDefaults()
	r := &Root{
		src:      src,
		opts:     o,
		log:      o.Logger,
		start:    time.Now(),
		open:     readers(),
		stop:     make(chan struct{}),
		nodes:    map[tree.Ino]node{},
		lastNode: RootIno,
		areas:    map[tree.Ino]*area{},
		wide:     wideInos{ids: map[wideIno]tree.Ino{}, inos: map[tree.Ino]wideIno{}},
		luns:     map[string]*lunDir{},
		images:   map[*image]bool{},
	}
	r.owner.uid, r.owner.gid = uint32(os.Geteuid()), uint32(os.Getegid())
	r.nodes[RootIno] = &rootDir{r}
	r.work.Go(r.sweep)
	return r
}

// Close closes all images. Files that are still open fail from then on.
func (r *Root) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	images := r.images
	r.images = map[*image]bool{}
	r.mu.Unlock()
	close(r.stop)
	r.work.Wait()
	for im := range images {
		im.shut()
	}
	return nil
}

// OnChange has f called, on a goroutine of its own, when a directory is not any
// more what it was though Volatile said that it would not change: a filesystem
// whose reader failed has become a README.
func (r *Root) OnChange(f func(dir tree.Ino)) {
	r.mu.Lock()
	r.changed = f
	r.mu.Unlock()
}

// sweep closes images and forgets filesystems that have been idle, until the
// Root is closed.
func (r *Root) sweep() {
	tick := time.NewTicker(r.opts.ImageIdle / 4)
	defer tick.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-tick.C:
		}
		r.mu.Lock()
		images := make([]*image, 0, len(r.images))
		for im := range r.images {
			images = append(images, im)
		}
		areas := make([]*area, 0, len(r.areas))
		for _, a := range r.areas {
			areas = append(areas, a)
		}
		r.mu.Unlock()
		for _, im := range images {
			im.closeIdle(r.opts.ImageIdle)
		}
		for _, a := range areas {
			a.forgetIdle(r.opts.VolumeIdle)
		}
	}
}

// Stat describes a file.
func (r *Root) Stat(ctx context.Context, ino tree.Ino) (tree.Attr, error) {
	n, err := r.node(ino)
	if err != nil {
		return tree.Attr{}, err
	}
	return n.attr(ctx)
}

// ReadDir lists a directory without "." and "..". If part of it is damaged it
// returns what could be read and an error.
func (r *Root) ReadDir(ctx context.Context, ino tree.Ino) ([]tree.DirEntry, error) {
	d, err := nodeOf[directory](r, ino, syscall.ENOTDIR)
	if err != nil {
		return nil, err
	}
	return d.readDir(ctx)
}

// Lookup finds one name in a directory. The error matches fs.ErrNotExist if
// there is none.
func (r *Root) Lookup(ctx context.Context, dir tree.Ino, name string) (tree.Ino, error) {
	d, err := nodeOf[directory](r, dir, syscall.ENOTDIR)
	if err != nil {
		return 0, err
	}
	return d.lookup(ctx, name)
}

// Open opens a regular file. The image that it lies in stays open until the
// File is closed.
func (r *Root) Open(ctx context.Context, ino tree.Ino) (*File, error) {
	f, err := nodeOf[regular](r, ino, syscall.EINVAL)
	if err != nil {
		return nil, err
	}
	return f.open(ctx)
}

// Readlink returns the target of a symbolic link as it is stored.
func (r *Root) Readlink(ctx context.Context, ino tree.Ino) (string, error) {
	l, err := nodeOf[symlink](r, ino, syscall.EINVAL)
	if err != nil {
		return "", err
	}
	return l.readlink(ctx)
}

// Xattrs returns the extended attributes of a file by their full names. The
// caller does not change the map.
func (r *Root) Xattrs(ctx context.Context, ino tree.Ino) (map[string][]byte, error) {
	n, err := r.node(ino)
	if err != nil {
		return nil, err
	}
	if x, ok := n.(withXattrs); ok {
		return x.xattrs(ctx)
	}
	return nil, nil
}

// Filesystem describes the filesystem that a file lies in. The second result is
// false for files that lie in none.
func (r *Root) Filesystem(ctx context.Context, ino tree.Ino) (tree.Info, bool, error) {
	a := r.areaOf(ino)
	if a == nil {
		return tree.Info{}, false, nil
	}
	v, _, err := a.volume(ctx)
	if err != nil || v == nil {
		return tree.Info{}, false, err
	}
	return v.info, true, nil
}

// Volatile tells whether what is said of a file may change: LUNs and snapshots
// come and go, what is in a snapshot stays.
func (r *Root) Volatile(ino tree.Ino) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch r.nodes[ino].(type) {
	case *rootDir, *lunDir, *latestLink, *snapshotDir, *infoFile:
		return true
	}
	return false
}

// Lazy tells whether describing the files in a directory can take work that
// listing it does not: in a snapshot it opens filesystems.
func (r *Root) Lazy(dir tree.Ino) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.nodes[dir].(*snapshotDir)
	return ok
}
