package blockdev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// A segment is a sparse file, segments/<origin>/<shard>.seg, that holds what
// one origin wrote to one shard of a LUN. A block's offset in its segment is
// its offset in the shard. A segment has no header and no allocator: which of
// its blocks count, presence maps say.

func originDir(origin uint32) string { return fmt.Sprintf("segments/%08x", origin) }

func segmentName(origin, shard uint32) string {
	return path.Join(originDir(origin), fmt.Sprintf("%06x.seg", shard))
}

// parseSegmentName returns the shard of a file named by segmentName.
func parseSegmentName(base string) (shard uint32, ok bool) {
	hex, ok := strings.CutSuffix(base, ".seg")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(hex, 16, 32)
	return uint32(n), err == nil
}

type segmentKey struct{ origin, shard uint32 }

// segment is an open segment file.
type segment struct {
	blockfile.File
	key   segmentKey
	cache *segmentCache
	refs  atomic.Int64 // users; the cache closes it only at 0
	used  atomic.Bool  // since the cache last looked for one to close
	// dirty: written since it was last put into the hands of a sync.
	dirty atomic.Bool
}

// segmentCache keeps segment files open, up to a number, beyond that only
// those in use.
type segmentCache struct {
	fs    blockfile.FS
	limit int
	// dirty counts the segments that are kept open until they are synced.
	dirty atomic.Int64

	mu   sync.RWMutex
	open map[segmentKey]*segment
	// created holds the origins with segments whose names are not durable.
	created map[uint32]bool
}

func newSegmentCache(fs blockfile.FS, limit int) *segmentCache {
	return &segmentCache{fs: fs, limit: limit, open: make(map[segmentKey]*segment), created: make(map[uint32]bool)}
}

// get returns an open segment, to be given back with put. A missing file is
// made if create is set, else it is damage: something maps blocks to it.
func (c *segmentCache) get(key segmentKey, create bool) (*segment, error) {
	c.mu.RLock()
	s := c.open[key]
	if s != nil {
		s.refs.Add(1)
	}
	c.mu.RUnlock()
	if s != nil {
		if !s.used.Load() {
			s.used.Store(true)
		}
		return s, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.open[key]; s != nil {
		s.refs.Add(1)
		return s, nil
	}
	name := segmentName(key.origin, key.shard)
	f, err := c.fs.Open(name, os.O_RDWR)
	if create && errors.Is(err, fs.ErrNotExist) {
		if f, err = c.fs.Open(name, os.O_RDWR|os.O_CREATE); err == nil {
			c.created[key.origin] = true
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{Object: name, Class: ErrCorrupt, Detail: "the segment is missing", Cause: err}
	}
	if err != nil {
		return nil, err
	}
	c.shrink()
	s = &segment{File: f, key: key, cache: c}
	s.refs.Store(1)
	c.open[key] = s
	return s, nil
}

// put gives a segment back.
func (c *segmentCache) put(s *segment) { s.refs.Add(-1) }

// crowded tells whether so many segments are dirty that they should be synced
// soon; full, that writes must wait for it.
func (c *segmentCache) crowded() bool { return c.dirty.Load() > int64(c.limit/2) }
func (c *segmentCache) full() bool    { return c.dirty.Load() > int64(c.limit/4*3) }

// shrink closes segments that nobody uses while there are too many. The
// caller holds mu, so that nobody gains a reference meanwhile.
func (c *segmentCache) shrink() {
	for pass := 0; pass < 2 && len(c.open) >= c.limit; pass++ {
		for key, s := range c.open {
			if len(c.open) < c.limit {
				return
			}
			if s.refs.Load() == 0 && !s.used.Swap(false) {
				s.Close()
				delete(c.open, key)
			}
		}
	}
}

// syncNames makes the names of an origin's segments durable.
func (c *segmentCache) syncNames(origin uint32) error {
	c.mu.Lock()
	created := c.created[origin]
	delete(c.created, origin)
	c.mu.Unlock()
	if !created {
		return nil
	}
	if err := c.fs.SyncDir(originDir(origin)); err != nil {
		c.mu.Lock()
		c.created[origin] = true
		c.mu.Unlock()
		return err
	}
	return nil
}

// shards lists the shards that an origin has segments of, ascending.
func (c *segmentCache) shards(origin uint32) ([]uint32, error) {
	names, err := c.fs.ReadDir(originDir(origin))
	if err != nil {
		return nil, err
	}
	var out []uint32
	for _, name := range names {
		if shard, ok := parseSegmentName(name); ok {
			out = append(out, shard)
		}
	}
	return out, nil
}

// remove deletes all segments of an origin and their directory. Nobody reads
// them any more.
func (c *segmentCache) remove(origin uint32) error {
	c.mu.Lock()
	for key, s := range c.open {
		if key.origin == origin {
			s.Close()
			delete(c.open, key)
		}
	}
	delete(c.created, origin)
	c.mu.Unlock()
	return removeDir(c.fs, originDir(origin))
}

// close closes every segment.
func (c *segmentCache) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for key, s := range c.open {
		errs = append(errs, s.Close())
		delete(c.open, key)
	}
	return errors.Join(errs...)
}

// removeDir deletes a directory of files, if it is there, durably.
func removeDir(fsys blockfile.FS, name string) error {
	names, err := fsys.ReadDir(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fsys.SyncDir(path.Dir(name)) // a process that died may have got that far
	}
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := fsys.Remove(path.Join(name, n)); err != nil {
			return err
		}
	}
	if err := fsys.Remove(name); err != nil {
		return err
	}
	return fsys.SyncDir(path.Dir(name))
}
