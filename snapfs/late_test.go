package snapfs_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/imagetest"
)

// TestReadWithoutAnswer: a read has a limit, and what was not answered in time
// is read when there are answers again.
func TestReadWithoutAnswer(t *testing.T) {
	src := imagetest.NewSilent(t)
	src.Add(t, "web", "a", extImage(t, map[string]string{"file": "content"}))
	r := snapfs.New(src, snapfs.Options{SourceTimeout: 50 * time.Millisecond})
	defer r.Close()
	f := openRaw(t, r)
	defer f.Close()
	src.SetSilent(true)
	_, err := f.ReadAt(make([]byte, 4096), 0)
	expectErr(t, "read without an answer", err, snapfs.ErrUnreachable)
	src.SetSilent(false)
	if _, err := f.ReadAt(make([]byte, 4096), 0); err != nil {
		t.Errorf("with an answer: %v", err)
	}
}

// TestCloseEndsReads: nobody waits for an answer when the tree is closed.
func TestCloseEndsReads(t *testing.T) {
	src := imagetest.NewSilent(t)
	src.Add(t, "web", "a", extImage(t, map[string]string{"file": "content"}))
	r := snapfs.New(src, snapfs.Options{SourceTimeout: time.Hour})
	f := openRaw(t, r)
	src.SetSilent(true)
	done := make(chan error, 1)
	go func() {
		_, err := f.ReadAt(make([]byte, 4096), 0)
		done <- err
	}()
	<-src.Asked()
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
