package snapfs_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"syscall"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/imagetest"
)

// TestDeletedBehindTheList: a snapshot vanishes, and another of its name
// appears, between two looks at the list.
func TestDeletedBehindTheList(t *testing.T) {
	src := imagetest.NewSource(t)
	src.Add(t, "web", "a", extImage(t, map[string]string{"file": "one"}))
	r := snapfs.New(src, snapfs.Options{ListingAge: time.Hour})
	defer r.Close()
	if _, err := r.Walk(context.Background(), snapfs.RootIno, "web/a", false); err != nil {
		t.Fatal(err)
	}
	src.Delete("web", "a")
	src.Add(t, "web", "a", extImage(t, map[string]string{"file": "two"}))
	if got, err := read(r, "/web/a/fs/file"); !errors.Is(err, snapfs.ErrGone) {
		t.Errorf("read %q, %v, want %v", got, err, snapfs.ErrGone)
	}
}

func TestSourceGoesAway(t *testing.T) {
	ctx := context.Background()
	src := imagetest.NewSource(t)
	src.Add(t, "web", "a", extImage(t, map[string]string{"file": "content", "dir/other": "x"}))
	r := newRoot(t, src)
	file, err := r.Walk(ctx, snapfs.RootIno, "web/a/fs/file", false)
	if err != nil {
		t.Fatal(err)
	}
	open, err := r.Open(ctx, file)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()

	src.SetDown(syscall.ECONNREFUSED)
	r.ForgetVolumes()
	_, err = r.ReadDir(ctx, snapfs.RootIno)
	expectErr(t, "list of LUNs", err, snapfs.ErrUnreachable)
	_, err = open.ReadAt(make([]byte, 4), 0)
	expectErr(t, "read of an open file", err, snapfs.ErrUnreachable)
	if snapfs.Errno(err) != syscall.EIO {
		t.Errorf("errno %v, want EIO", snapfs.Errno(err))
	}
	_, err = r.Stat(ctx, file)
	expectErr(t, "stat", err, snapfs.ErrUnreachable)

	src.SetDown(nil)
	p := make([]byte, 7)
	if _, err := open.ReadAt(p, 0); err != io.EOF || string(p) != "content" {
		t.Errorf("the open file reads %q, %v after the source came back", p, err)
	}
	expectContent(t, r, "/web/a/fs/dir/other", "x")
}

// TestSourceRestarts: a connection that breaks is made anew without anyone
// noticing, but not again and again.
func TestSourceRestarts(t *testing.T) {
	ctx := context.Background()
	src := imagetest.NewSource(t)
	src.Add(t, "web", "a", extImage(t, map[string]string{"file": "content"}))
	r := newRoot(t, src)
	expectContent(t, r, "/web/a/fs/file", "content")
	ino, err := r.Walk(ctx, snapfs.RootIno, "web/a/disk.raw", false)
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.Open(ctx, ino)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, 10)
	src.Break(syscall.ECONNRESET)
	if _, err := f.ReadAt(p, 0); err != nil {
		t.Errorf("read over a connection that broke: %v", err)
	}
	src.Break(syscall.ECONNRESET)
	_, err = f.ReadAt(p, 0)
	expectErr(t, "read over a connection that broke at once", err, snapfs.ErrUnreachable)
	if _, err := f.ReadAt(p, 0); err != nil {
		t.Errorf("the next read: %v", err)
	}
}

// TestAwayIsNotDamaged: what cannot be read now is not remembered as damaged,
// at whichever read the source goes away.
func TestAwayIsNotDamaged(t *testing.T) {
	src := imagetest.NewSource(t)
	src.Add(t, "web", "a", imagetest.Disk(t, "dos",
		imagetest.Part{SizeMiB: 8, Type: "83", Make: imagetest.Ext4("root", imagetest.Files(t, map[string]string{"file": "content"}))}))
	for reads := range 60 {
		limited := &limitedSource{Source: src, left: reads}
		r := newRoot(t, limited)
		for range 3 {
			_, err := read(r, "/web/a/p1-ext4-root/file")
			if err == nil && limited.left >= 0 {
				return // enough reads for all
			}
			if err == nil || !errors.Is(err, syscall.EIO) || errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("with %d reads: %v, want EIO", reads, err)
			}
		}
		limited.left = 1 << 30
		expectContent(t, r, "/web/a/p1-ext4-root/file", "content")
		if r.Close() != nil || t.Failed() {
			t.Fatalf("with %d reads", reads)
		}
	}
	t.Error("60 reads are not enough to read one file")
}

// limitedSource fails every read after some.
type limitedSource struct {
	*imagetest.Source
	left int
}

func (s *limitedSource) Open(ctx context.Context, lun, snapshot string) (snapfs.Image, error) {
	im, err := s.Source.Open(ctx, lun, snapshot)
	return &limitedImage{im, s}, err
}

type limitedImage struct {
	snapfs.Image
	s *limitedSource
}

func (im *limitedImage) ReadAt(p []byte, off int64) (int, error) {
	if im.s.left--; im.s.left < 0 {
		return 0, syscall.ECONNRESET
	}
	return im.Image.ReadAt(p, off)
}
