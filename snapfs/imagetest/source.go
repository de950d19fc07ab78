package imagetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// Source is a snapfs.Source over image files. LUNs and snapshots come and go,
// and the whole source goes away and comes back, while it is used.
type Source struct {
	mu     sync.Mutex
	luns   map[string][]*snapshot
	nextID uint64
	down   error
	opens  int
	calls  int
	images map[*image]bool
	panics bool
	bad    []tree.Range
}

type snapshot struct {
	meta snapfs.Snapshot
	path string
}

// NewSource makes a source without LUNs. When the test ends no image may be
// open.
func NewSource(t testing.TB) *Source {
	s := &Source{luns: map[string][]*snapshot{}, images: map[*image]bool{}}
	t.Cleanup(func() {
		if n := s.OpenImages(); n > 0 {
			t.Errorf("%d images were left open", n)
		}
	})
	return s
}

// Created is when all snapshots of a Source were made.
var Created = time.Date(2024, 2, 29, 12, 0, 0, 123456789, time.UTC)

// Add makes the file at path a snapshot of a LUN, which is made if there is
// none of the name.
func (s *Source) Add(t testing.TB, lun, name, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nextID++
	s.luns[lun] = append(s.luns[lun], &snapshot{path: path, meta: snapfs.Snapshot{
		Name: name, ID: s.nextID, Created: Created, SizeBytes: info.Size(),
		Consistency: "crash", MappedBytes: info.Sys().(*syscall.Stat_t).Blocks * 512, Info: map[string]any{"comment": "of " + lun},
	}})
}

// AddLUN makes a LUN without snapshots.
func (s *Source) AddLUN(lun string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.luns[lun] = nil
}

// Update changes what is said of a snapshot, such as its name.
func (s *Source) Update(lun, name string, change func(*snapfs.Snapshot)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if snap := s.find(lun, name); snap != nil {
		change(&snap.meta)
	}
}

// Delete deletes a snapshot, by force if it is open: reads of its image fail
// with ESTALE from then on.
func (s *Source) Delete(lun, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.luns[lun] = slices.DeleteFunc(s.luns[lun], func(snap *snapshot) bool {
		if snap.meta.Name != name {
			return false
		}
		for im := range s.images {
			if im.id == snap.meta.ID {
				im.failure = syscall.ESTALE
			}
		}
		return true
	})
}

// DeleteLUN deletes a LUN without a look at its snapshots.
func (s *Source) DeleteLUN(lun string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.luns, lun)
}

// SetDown makes every call fail with err, and every open image for good; nil
// brings the source back.
func (s *Source) SetDown(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = err
	if err != nil {
		for im := range s.images {
			im.failure = err
		}
	}
}

// Break makes every open image fail with err for good. The source stays: an
// image that is opened from now on works.
func (s *Source) Break(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for im := range s.images {
		im.failure = err
	}
}

// SetPanic makes every read of an image panic, and so the reader that reads.
func (s *Source) SetPanic(panics bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.panics = panics
}

// SetBad makes every read of an image fail with EIO that touches one of ranges,
// as those of damaged blocks do.
func (s *Source) SetBad(ranges ...tree.Range) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad = ranges
}

// OpenImages is the number of images that are open.
func (s *Source) OpenImages() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.images)
}

// Opens is how often an image was opened.
func (s *Source) Opens() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opens
}

// Listings is how often LUNs or Snapshots were asked for.
func (s *Source) Listings() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func (s *Source) find(lun, name string) *snapshot {
	for _, snap := range s.luns[lun] {
		if snap.meta.Name == name {
			return snap
		}
	}
	return nil
}

// LUNs lists the LUNs.
func (s *Source) LUNs(context.Context) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.down != nil {
		return nil, s.down
	}
	var names []string
	for name := range s.luns {
		names = append(names, name)
	}
	return names, nil
}

// Snapshots lists the snapshots of a LUN.
func (s *Source) Snapshots(_ context.Context, lun string) ([]snapfs.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.down != nil {
		return nil, s.down
	}
	snaps, ok := s.luns[lun]
	if !ok {
		return nil, fmt.Errorf("LUN %s: %w", lun, fs.ErrNotExist)
	}
	var list []snapfs.Snapshot
	for _, snap := range snaps {
		list = append(list, snap.meta)
	}
	return list, nil
}

// Open opens the image of a snapshot.
func (s *Source) Open(_ context.Context, lun, name string) (snapfs.Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return nil, s.down
	}
	snap := s.find(lun, name)
	if snap == nil {
		return nil, fmt.Errorf("snapshot %s@%s: %w", lun, name, fs.ErrNotExist)
	}
	f, err := os.Open(snap.path)
	if err != nil {
		return nil, err
	}
	im := &image{source: s, file: f, id: snap.meta.ID, sizeBytes: snap.meta.SizeBytes}
	s.images[im] = true
	s.opens++
	return im, nil
}

// image is an open image file.
type image struct {
	source    *Source
	file      *os.File
	id        uint64
	sizeBytes int64
	failure   error // of every read from now on; guarded by source.mu
}

func (im *image) ReadAt(p []byte, off int64) (int, error) {
	im.source.mu.Lock()
	err, panics := im.failure, im.source.panics
	for _, r := range im.source.bad {
		if off < r.OffsetBytes+r.LengthBytes && r.OffsetBytes < off+int64(len(p)) {
			err = syscall.EIO
		}
	}
	im.source.mu.Unlock()
	if panics {
		panic("imagetest: told to panic")
	}
	if err != nil {
		return 0, err
	}
	return im.file.ReadAt(p, off)
}

func (im *image) Size() int64 { return im.sizeBytes }

func (im *image) Close() error {
	im.source.mu.Lock()
	defer im.source.mu.Unlock()
	if !im.source.images[im] {
		return errors.New("imagetest: image closed twice")
	}
	delete(im.source.images, im)
	return im.file.Close()
}

// Extents tells where the file has data, by lseek(2).
func (im *image) Extents(_ context.Context, off, n int64, yield func(int64, bool) bool) error {
	for end := off + n; off < end; {
		data, err := unix.Seek(int(im.file.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			data = end
		} else if err != nil {
			return err
		}
		if data = min(data, end); data > off && !yield(data-off, false) {
			return nil
		}
		if off = data; off == end {
			return nil
		}
		hole, err := unix.Seek(int(im.file.Fd()), off, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		hole = min(hole, end)
		if !yield(hole-off, true) {
			return nil
		}
		off = hole
	}
	return nil
}
