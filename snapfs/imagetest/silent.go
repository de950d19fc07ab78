package imagetest

import (
	"context"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/rowan-storage/rowan/snapfs"
)

// Silent is a Source whose images do not answer while it is told so: their
// reads wait until the image is closed.
type Silent struct {
	*Source
	silent atomic.Bool
	asked  chan struct{}
}

// NewSilent makes a source without LUNs that answers.
func NewSilent(t testing.TB) *Silent {
	return &Silent{Source: NewSource(t), asked: make(chan struct{}, 100)}
}

// SetSilent has images stop to answer, or answer again.
func (s *Silent) SetSilent(silent bool) { s.silent.Store(silent) }

// Asked is told of every read that gets no answer.
func (s *Silent) Asked() <-chan struct{} { return s.asked }

// Open opens the image of a snapshot.
func (s *Silent) Open(ctx context.Context, lun, snapshot string) (snapfs.Image, error) {
	im, err := s.Source.Open(ctx, lun, snapshot)
	if err != nil {
		return nil, err
	}
	return &silentImage{Image: im, s: s, closed: make(chan struct{})}, nil
}

type silentImage struct {
	snapfs.Image
	s      *Silent
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
