package fusemount_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"sync/atomic"
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
	silent atomic.Bool
	asked  chan struct{} // told of every read that gets no answer
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
	if im.s.silent.Load() {
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

// TestKilledWhileWaiting: who waits for a source that does not answer can be
// killed, long before the time limit of a read.
func TestKilledWhileWaiting(t *testing.T) {
	src := &silentSource{Source: imagetest.NewSource(t), asked: make(chan struct{}, 100)}
	src.Add(t, "web", "a", small(t, "one"))
	dir := mountSource(t, src, snapfs.Options{SourceTimeout: time.Hour})
	src.silent.Store(true)
	cmd := exec.Command("ls", filepath.Join(dir, "web/a"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-src.asked
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("a process that was killed waits for an answer")
	}
	src.silent.Store(false)
}
