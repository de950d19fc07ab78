package snapfs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/imagetest"
)

// memorySource holds one snapshot in memory, for tests in a bubble.
type memorySource struct {
	data  []byte
	mu    sync.Mutex
	open  int
	opens int
}

func (m *memorySource) LUNs(context.Context) ([]string, error) { return []string{"web"}, nil }

func (m *memorySource) Snapshots(context.Context, string) ([]snapfs.Snapshot, error) {
	return []snapfs.Snapshot{{Name: "a", ID: 1, SizeBytes: int64(len(m.data))}}, nil
}

func (m *memorySource) Open(context.Context, string, string) (snapfs.Image, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open++
	m.opens++
	return &memoryImage{bytes.NewReader(m.data), m}, nil
}

func (m *memorySource) state() (open, opens int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.open, m.opens
}

type memoryImage struct {
	*bytes.Reader
	m *memorySource
}

func (im *memoryImage) Close() error {
	im.m.mu.Lock()
	defer im.m.mu.Unlock()
	im.m.open--
	return nil
}

// TestIdleImagesAreClosed: an image is closed after ten seconds without reads,
// unless a file is open, and opened again without anyone noticing.
func TestIdleImagesAreClosed(t *testing.T) {
	data, err := os.ReadFile(extImage(t, map[string]string{"file": "content"}))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		src := &memorySource{data: data}
		r := snapfs.New(src, snapfs.Options{})
		defer r.Close()
		expect := func(what string, open, opens int) {
			t.Helper()
			synctest.Wait()
			if o, n := src.state(); o != open || n != opens {
				t.Errorf("%s: %d images open, opened %d times, want %d and %d", what, o, n, open, opens)
			}
		}
		list(t, r, "/web/a")
		expect("after a look", 1, 1)
		time.Sleep(9 * time.Second)
		expectContent(t, r, "/web/a/fs/file", "content")
		time.Sleep(9 * time.Second)
		expect("while it is used", 1, 1)
		time.Sleep(4 * time.Second)
		expect("after ten seconds", 0, 1)
		list(t, r, "/web/a/fs")
		expect("what is known needs no image", 0, 1)

		ino, err := r.Walk(ctx, snapfs.RootIno, "web/a/fs/file", false)
		if err != nil {
			t.Fatal(err)
		}
		f, err := r.Open(ctx, ino)
		if err != nil {
			t.Fatal(err)
		}
		expect("with an open file", 1, 2)
		time.Sleep(time.Hour)
		expect("with an open file for an hour", 1, 2)
		p := make([]byte, 7)
		if _, err := f.ReadAt(p, 0); err != io.EOF || string(p) != "content" {
			t.Errorf("read %q, %v", p, err)
		}
		f.Close()
		f.Close() // does nothing
		time.Sleep(13 * time.Second)
		expect("after the file was closed", 0, 2)
		expectContent(t, r, "/web/a/fs/file", "content")
		expect("opened again", 1, 3)
	})
}

// TestConcurrentUse: many look at everything while snapshots come and go.
func TestConcurrentUse(t *testing.T) {
	ctx := context.Background()
	src := imagetest.NewSource(t)
	path := extImage(t, map[string]string{"a/b": "c", "d": strings.Repeat("e", 100000), "l": "-> d"})
	src.Add(t, "web", "stays", path)
	r := newRoot(t, src)
	var wg sync.WaitGroup
	var reads atomic.Int64
	stop := make(chan struct{})
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				err := fs.WalkDir(r.FS(ctx, snapfs.RootIno), ".", func(name string, d fs.DirEntry, err error) error {
					switch {
					case errors.Is(err, snapfs.ErrGone), errors.Is(err, fs.ErrNotExist):
						return nil
					case err != nil:
						return err
					case name == "web/stays/fs/d":
						if got, err := read(r, name); err != nil || len(got) != 100000 {
							t.Errorf("%s: %d bytes, %v", name, len(got), err)
						}
						reads.Add(1)
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 30 {
		src.Add(t, "web", "goes", path)
		if i%3 == 0 {
			r.ForgetVolumes()
		}
		if i == 20 {
			src.Update("web", "goes", func(s *snapfs.Snapshot) { s.Name = "renamed" })
			src.Delete("web", "renamed")
		}
		for before := reads.Load(); reads.Load() < before+3; {
			time.Sleep(time.Millisecond)
		}
		src.Delete("web", "goes")
	}
	close(stop)
	wg.Wait()
	list(t, r, "/web")
	if made, volumes := r.Files(); volumes != 1 || made > 12 {
		t.Errorf("%d files and %d volumes are remembered of one snapshot", made, volumes)
	}
}

func TestClosedRoot(t *testing.T) {
	ctx := context.Background()
	src := imagetest.NewSource(t)
	src.Add(t, "web", "a", extImage(t, map[string]string{"file": "content"}))
	r := snapfs.New(src, snapfs.Options{})
	ino, err := r.Walk(ctx, snapfs.RootIno, "web/a/fs/file", false)
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.Open(ctx, ino)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	if src.OpenImages() != 0 {
		t.Error("an image is still open")
	}
	_, err = r.Stat(ctx, ino)
	expectErr(t, "stat", err, snapfs.ErrClosed)
	_, err = f.ReadAt(make([]byte, 1), 0)
	expectErr(t, "read of an open file", err, snapfs.ErrClosed)
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
