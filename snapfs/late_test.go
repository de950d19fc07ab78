package snapfs_test

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/imagetest"
)

// silentSource gives images that do not answer while told so, until they are
// closed.
type silentSource struct {
	*imagetest.Source
	mu     sync.Mutex
	silent bool
	asked  chan struct{} // told of every read that gets no answer
}

func newSilentSource(t *testing.T) *silentSource {
	return &silentSource{Source: imagetest.NewSource(t), asked: make(chan struct{}, 100)}
}

func (s *silentSource) set(silent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = silent
}

func (s *silentSource) Open(ctx context.Context, lun, snapshot string) (snapfs.Image, error) {
	im, err := s.Source.Open(ctx, lun, snapshot)
	if err != nil {
		return nil, err
	}
	return &silentImage{Image: im, s: s, closed: make(chan struct{})}, nil
}

type silentImage struct {
	snapfs.Image
	s      *silentSource
	closed chan struct{}
}

func (im *silentImage) ReadAt(p []byte, off int64) (int, error) {
	im.s.mu.Lock()
	silent := im.s.silent
	im.s.mu.Unlock()
	if silent {
		im.s.asked <- struct{}{}
		<-im.closed
		return 0, syscall.EIO
	}
	return im.Image.ReadAt(p, off)
}

func (im *silentImage) Close() error {
	close(im.closed)
	return im.Image.Close()
}

// TestReadWithoutAnswer: a read has a limit, and what was not answered in time
// is read when there are answers again.
func TestReadWithoutAnswer(t *testing.T) {
	src := newSilentSource(t)
	src.Add(t, "web", "a", extImage(t, map[string]string{"file": "content"}))
	r := snapfs.New(src, snapfs.Options{SourceTimeout: 50 * time.Millisecond})
	defer r.Close()
	f := openRaw(t, r)
	defer f.Close()
	src.set(true)
	_, err := f.ReadAt(make([]byte, 4096), 0)
	expectErr(t, "read without an answer", err, snapfs.ErrUnreachable)
	src.set(false)
	if _, err := f.ReadAt(make([]byte, 4096), 0); err != nil {
		t.Errorf("with an answer: %v", err)
	}
}

// TestCloseEndsReads: nobody waits for an answer when the tree is closed.
func TestCloseEndsReads(t *testing.T) {
	src := newSilentSource(t)
	src.Add(t, "web", "a", extImage(t, map[string]string{"file": "content"}))
	r := snapfs.New(src, snapfs.Options{SourceTimeout: time.Hour})
	f := openRaw(t, r)
	src.set(true)
	done := make(chan error, 1)
	go func() {
		_, err := f.ReadAt(make([]byte, 4096), 0)
		done <- err
	}()
	<-src.asked
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, snapfs.ErrClosed) && !errors.Is(err, snapfs.ErrUnreachable) {
		t.Errorf("the read that was under way: %v", err)
	}
	f.Close()
}

func openRaw(t *testing.T, r *snapfs.Root) *snapfs.File {
	t.Helper()
	ctx := context.Background()
	ino, err := r.Walk(ctx, snapfs.RootIno, "web/a/disk.raw", false)
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.Open(ctx, ino)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
