package snapfs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"strings"
	"syscall"
	"testing"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/ext4"
	"github.com/rowan-storage/rowan/snapfs/imagetest"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// faulty is a reader of ext4 that panics at a call.
type faulty struct {
	tree.FileSystem
	at string
}

func (f *faulty) trip(call string) {
	if f.at == call {
		panic("tripped in " + call)
	}
}

func (f *faulty) Info() tree.Info { f.trip("Info"); return f.FileSystem.Info() }

func (f *faulty) Stat(ino tree.Ino) (tree.Attr, error) { f.trip("Stat"); return f.FileSystem.Stat(ino) }

func (f *faulty) ReadDir(ino tree.Ino) ([]tree.DirEntry, error) {
	f.trip("ReadDir")
	return f.FileSystem.ReadDir(ino)
}

func (f *faulty) Lookup(dir tree.Ino, name string) (tree.Ino, error) {
	f.trip("Lookup")
	return f.FileSystem.Lookup(dir, name)
}

func (f *faulty) Readlink(ino tree.Ino) (string, error) {
	f.trip("Readlink")
	return f.FileSystem.Readlink(ino)
}

func (f *faulty) Xattrs(ino tree.Ino) (map[string][]byte, error) {
	f.trip("Xattrs")
	return f.FileSystem.Xattrs(ino)
}

func (f *faulty) Open(ino tree.Ino) (io.ReaderAt, error) {
	f.trip("Open")
	r, err := f.FileSystem.Open(ino)
	return &faultyContent{r, f}, err
}

type faultyContent struct {
	io.ReaderAt
	f *faulty
}

func (c *faultyContent) ReadAt(p []byte, off int64) (int, error) {
	c.f.trip("ReadAt")
	return c.ReaderAt.ReadAt(p, off)
}

// TestReaderPanics: a reader that panics at any call makes its own volume a
// README, is counted, and touches nothing else.
func TestReaderPanics(t *testing.T) {
	ctx := context.Background()
	files := map[string]string{"file": "content", "link": "-> file", "dir/x": "y"}
	disk := imagetest.Disk(t, "dos",
		imagetest.Part{SizeMiB: 4, Type: "83", Make: imagetest.Mkfs("mkfs.ext3", "-q", "-F", "-L", "bad", "-d", imagetest.Files(t, files))},
		imagetest.Part{SizeMiB: 4, Type: "83", Make: imagetest.Ext4("good", imagetest.Files(t, files))})
	for _, at := range []string{"opening", "Info", "Stat", "ReadDir", "Lookup", "Readlink", "Xattrs", "Open", "ReadAt"} {
		t.Run(at, func(t *testing.T) {
			src := imagetest.NewSource(t)
			src.Add(t, "web", "a", disk)
			var log bytes.Buffer
			r := snapfs.New(src, snapfs.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			defer r.Close()
			reader := &faulty{}
			r.SetReader("ext3", func(ctx context.Context, rd io.ReaderAt, n int64) (tree.FileSystem, error) {
				if at == "opening" {
					panic("tripped in opening")
				}
				f, err := ext4.Open(ctx, rd, n)
				reader.FileSystem = f
				return reader, err
			})
			changed := make(chan tree.Ino, 1)
			r.OnChange(func(dir tree.Ino) { changed <- dir })

			var file, link, bad tree.Ino
			if at != "opening" {
				for path, ino := range map[string]*tree.Ino{"file": &file, "link": &link, "": &bad} {
					var err error
					if *ino, err = r.Walk(ctx, snapfs.RootIno, "web/a/p1-ext3-bad/"+path, false); err != nil {
						t.Fatal(err)
					}
				}
				if at == "Info" {
					r.ForgetVolumes()
				}
				reader.at = at
				r.Stat(ctx, file)
				r.ReadDir(ctx, bad)
				r.Lookup(ctx, bad, "file")
				r.Readlink(ctx, link)
				r.Xattrs(ctx, file)
				if f, err := r.Open(ctx, file); err == nil {
					_, err := f.ReadAt(make([]byte, 1), 0)
					expectErr(t, "read", err, snapfs.ErrDamaged)
					f.Close()
				}
				if _, err := r.Stat(ctx, file); !errors.Is(err, snapfs.ErrDamaged) || snapfs.Errno(err) != syscall.EUCLEAN {
					t.Errorf("a file in it: %v, want %v", err, snapfs.ErrDamaged)
				}
			}
			expectList(t, r, "/web/a", "info.json", "disk.raw", "p1-ext3-bad/", "p2-ext4-good/")
			expectList(t, r, "/web/a/p1-ext3-bad", "README")
			expectContent(t, r, "/web/a/p1-ext3-bad/README", "ext3 filesystem: damaged: its reader failed on it, so that its files cannot be read.\n")
			expectContent(t, r, "/web/a/p2-ext4-good/file", "content")
			if text, err := read(r, "/web/a/info.json"); err != nil || !strings.Contains(text, "its reader failed on it") {
				t.Errorf("info.json: %v, %s", err, text)
			}
			if r.Panics() != 1 {
				t.Errorf("%d panics counted, want 1", r.Panics())
			}
			if got := <-changed; bad != 0 && got != bad {
				t.Errorf("directory %d is said to have changed, want %d", got, bad)
			}
			if !strings.Contains(log.String(), "tripped in "+at) {
				t.Errorf("the log does not name the panic: %s", log.String())
			}
		})
	}
}

// wideReader gives inodes numbers that need all 64 bits.
type wideReader struct{ tree.FileSystem }

const wideTop = tree.Ino(1)<<63 | 1<<50

func (w wideReader) Root() tree.Ino { return w.FileSystem.Root() | wideTop }

func (w wideReader) Stat(ino tree.Ino) (tree.Attr, error) {
	a, err := w.FileSystem.Stat(ino &^ wideTop)
	a.Ino |= wideTop
	return a, err
}

func (w wideReader) ReadDir(ino tree.Ino) ([]tree.DirEntry, error) {
	list, err := w.FileSystem.ReadDir(ino &^ wideTop)
	for i := range list {
		list[i].Ino |= wideTop
	}
	return append(list, tree.DirEntry{Name: "../evil", Ino: 7}, tree.DirEntry{Name: "..", Ino: 7}, tree.DirEntry{Name: "", Ino: 7}), err
}

func (w wideReader) Lookup(dir tree.Ino, name string) (tree.Ino, error) {
	ino, err := w.FileSystem.Lookup(dir&^wideTop, name)
	return ino | wideTop, err
}

func (w wideReader) Open(ino tree.Ino) (io.ReaderAt, error) {
	return w.FileSystem.Open(ino &^ wideTop)
}

// TestReaderIsNotTrusted: numbers of any width find their way back, and names
// that no file can have are not handed on.
func TestReaderIsNotTrusted(t *testing.T) {
	ctx := context.Background()
	src := imagetest.NewSource(t)
	src.Add(t, "web", "a", extImage(t, map[string]string{"dir/file": "content"}))
	r := newRoot(t, src)
	r.SetReader("ext4", func(ctx context.Context, rd io.ReaderAt, n int64) (tree.FileSystem, error) {
		f, err := ext4.Open(ctx, rd, n)
		return wideReader{f}, err
	})
	expectContent(t, r, "/web/a/fs/dir/file", "content")
	dir, err := r.Walk(ctx, snapfs.RootIno, "web/a/fs/dir", false)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := r.ReadDir(ctx, dir)
	if len(entries) != 1 || entries[0].Name != "file" || !errors.Is(err, snapfs.ErrDamaged) {
		t.Errorf("the directory lists %v, %v", entries, err)
	}
	again, err := r.Walk(ctx, snapfs.RootIno, "web/a/fs/dir", false)
	if err != nil || again != dir {
		t.Errorf("the number changed from %d to %d, %v", dir, again, err)
	}
	src.Delete("web", "a")
	list(t, r, "/web")
	if _, err := r.Stat(ctx, dir); !errors.Is(err, snapfs.ErrGone) {
		t.Errorf("a wide number of a snapshot that is gone: %v", err)
	}
}

// oneList lists every directory with the same slice.
type oneList struct {
	tree.FileSystem
	list []tree.DirEntry
}

func (o oneList) ReadDir(tree.Ino) ([]tree.DirEntry, error) { return o.list, nil }

// TestListingIsNotCopied: a directory may be large, so that what the reader lists
// is handed on as it is.
func TestListingIsNotCopied(t *testing.T) {
	src := imagetest.NewSource(t)
	src.Add(t, "web", "a", extImage(t, map[string]string{"file": "content"}))
	r := newRoot(t, src)
	listed := []tree.DirEntry{{Name: "..", Ino: 12}, {Name: "a", Ino: 13}, {Name: "b", Ino: 14}}
	r.SetReader("ext4", func(ctx context.Context, rd io.ReaderAt, n int64) (tree.FileSystem, error) {
		f, err := ext4.Open(ctx, rd, n)
		return oneList{f, listed}, err
	})
	dir, err := r.Walk(context.Background(), snapfs.RootIno, "web/a/fs", false)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := r.ReadDir(context.Background(), dir)
	if len(entries) != 2 || entries[0].Name != "a" || entries[1].Name != "b" || !errors.Is(err, snapfs.ErrDamaged) {
		t.Fatalf("%v, %v", entries, err)
	}
	if &entries[0] != &listed[0] {
		t.Error("it is another slice")
	}
}

// TestDamagedFilesystem: a filesystem that its reader refuses is a README.
func TestDamagedFilesystem(t *testing.T) {
	path := extImage(t, map[string]string{"file": "content"})
	imagetest.WriteAt(t, path, 1024+96, []byte{0xFF, 0xFF, 0xFF, 0x7F}) // incompatible features
	src := imagetest.NewSource(t)
	src.Add(t, "web", "a", path)
	r := newRoot(t, src)
	expectList(t, r, "/web/a/fs", "README")
	text, err := read(r, "/web/a/fs/README")
	if err != nil || !strings.HasPrefix(text, "External journal") && !strings.HasPrefix(text, "ext4 filesystem: its files cannot be read: ") {
		t.Errorf("README says %q, %v", text, err)
	}
	if _, err := r.Walk(context.Background(), snapfs.RootIno, "web/a/fs/file", false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file in it: %v", err)
	}
}
