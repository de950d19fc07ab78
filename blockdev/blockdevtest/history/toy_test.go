package history

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
)

// bug is what a toy does wrong.
type bug string

const (
	none         bug = "none"
	staleReads   bug = "reads come from a cache that is not kept up"
	noGate       bug = "a freeze does not wait for the writes under way"
	oneByOne     bug = "a group is frozen one after the other"
	early        bug = "a freeze takes a state from before its call"
	late         bug = "a snapshot is the device for a while yet"
	fillsApart   bug = "two writes to parts of one block undo one another"
	laterFlushed bug = "a write is acknowledged before it can be read"
	misplaces    bug = "a write goes to the block after its own"
	losesDiscard bug = "a discard leaves the last block"
	thaws        bug = "writes in place go to a layer that is frozen"
)

// toys are devices in memory.
type toys struct {
	bug     bug
	devices []*toy
}

type toy struct {
	bug    bug
	gate   sync.RWMutex // held shared by changes, alone by a freeze
	mu     sync.RWMutex // guards the words of data
	data   *[]byte
	cache  []byte
	queued func()
}

func newToys(b bug, devices, sectors int) *toys {
	t := &toys{bug: b}
	for range devices {
		data := make([]byte, sectors*SectorSize)
		t.devices = append(t.devices, &toy{bug: b, data: &data, cache: slices.Clone(data)})
	}
	return t
}

// errs tells whether the toy errs this time, one time in n.
func (t *toy) errs(b bug, n int) bool { return t.bug == b && rand.IntN(n) == 0 }

func (t *toy) ReadAt(p []byte, off int64) (int, error) {
	runtime.Gosched()
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.errs(staleReads, 20) {
		return copy(p, t.cache[off:]), nil
	}
	return copy(p, (*t.data)[off:]), nil
}

func (t *toy) WriteAt(p []byte, off int64) (int, error) {
	if t.bug != noGate {
		t.gate.RLock()
		defer t.gate.RUnlock()
	}
	t.mu.RLock()
	data := t.data
	t.mu.RUnlock()
	runtime.Gosched()
	if t.errs(misplaces, 100) && off+4096+int64(len(p)) < int64(len(*data)) {
		off += 4096
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.queued != nil && rand.IntN(8) == 0 {
		t.queued()
		t.queued = nil
	}
	switch {
	case t.errs(laterFlushed, 20):
		p = bytes.Clone(p)
		t.queued = func() { copy((*t.data)[off:], p) }
	case t.bug == fillsApart && len(p) < 4096:
		whole := bytes.Clone((*data)[off/4096*4096:][:4096])
		n := copy(whole[off%4096:], p)
		t.mu.Unlock()
		runtime.Gosched()
		t.mu.Lock()
		copy((*data)[off/4096*4096:], whole)
		copy((*data)[off+int64(n):], p[n:])
	default:
		copy((*data)[off:], p)
	}
	if rand.IntN(50) == 0 {
		t.cache = bytes.Clone(*data)
	}
	return len(p), nil
}

func (t *toy) Flush(context.Context) error { return nil }

func (t *toy) Discard(_ context.Context, off, n int64) error {
	if t.errs(losesDiscard, 5) && n > 4096 {
		n -= 4096
	}
	_, err := t.WriteAt(make([]byte, n), off)
	return err
}

func (t *toy) WriteZeroes(ctx context.Context, off, n int64) error { return t.Discard(ctx, off, n) }

// freeze is the content at one moment; the gate is held.
func (t *toy) freeze() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := *t.data
	if t.bug == early {
		return bytes.Clone(t.cache)
	}
	if t.errs(thaws, 5) {
		return old
	}
	next := bytes.Clone(old)
	t.data = &next
	return old
}

func (t *toys) Freeze(_ context.Context, _ string, devices []int) (Images, error) {
	order := slices.Sorted(slices.Values(devices))
	together := t.bug != oneByOne && t.bug != noGate
	if together {
		for _, d := range order {
			t.devices[d].gate.Lock()
		}
	}
	images := Images{Release: func() error { return nil }}
	for _, d := range devices {
		if !together && t.bug == oneByOne {
			t.devices[d].gate.Lock()
		}
		images.Readers = append(images.Readers, &image{&t.devices[d].mu, t.devices[d].freeze()})
		if !together {
			if t.bug == oneByOne {
				t.devices[d].gate.Unlock()
			}
			runtime.Gosched()
		}
	}
	if together {
		for _, d := range order {
			t.devices[d].gate.Unlock()
		}
	}
	if t.bug == late {
		for range 100 {
			runtime.Gosched()
		}
		for i, d := range devices {
			images.Readers[i] = &lateImage{toy: t.devices[d]}
		}
	}
	return images, nil
}

// image is a snapshot, which some bugs write to.
type image struct {
	mu   *sync.RWMutex
	data []byte
}

func (i *image) ReadAt(p []byte, off int64) (int, error) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return copy(p, i.data[off:]), nil
}

// lateImage becomes a snapshot when it is first read.
type lateImage struct {
	toy  *toy
	once sync.Once
	data io.ReaderAt
}

func (l *lateImage) ReadAt(p []byte, off int64) (int, error) {
	l.once.Do(func() {
		l.toy.mu.RLock()
		defer l.toy.mu.RUnlock()
		l.data = bytes.NewReader(bytes.Clone(*l.toy.data))
	})
	return l.data.ReadAt(p, off)
}
