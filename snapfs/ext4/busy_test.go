package ext4_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs/ext4"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// TestBusy takes images of a mounted filesystem while several writers change
// it, and reads them. Every file that was fsynced before the image was taken
// has to be there, byte for byte; and everything has to be as the kernel shows
// it after it has recovered another copy of the same image.
//
// The image lies in another filesystem, and that is frozen while it is copied.
// The filesystem in the image knows nothing of it: its writes stop reaching its
// disk between one and the next, as they do when a LUN beneath is frozen or the
// power fails.
func TestBusy(t *testing.T) {
	need(t, "mke2fs", "mount", "umount", "fsfreeze", "cp")
	for _, v := range []struct {
		name    string
		options string // of the mount
		args    []string
	}{
		{"ext4", "commit=300", []string{"-t", "ext4", "-b", "4096"}},
		{"ext4-orphan_file", "commit=1", []string{"-t", "ext4", "-b", "4096", "-O", "orphan_file,inline_data"}},
		{"ext4-1k", "commit=5", []string{"-t", "ext4", "-b", "1024"}},
		{"ext4-bigalloc", "commit=300", []string{"-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "32768"}},
		{"ext4-data-journal", "data=journal,commit=2", []string{"-t", "ext4", "-b", "4096"}},
		{"ext4-noextent", "commit=300", []string{"-t", "ext4", "-b", "1024", "-O", "^extent,^64bit"}},
		{"ext3", "commit=300", []string{"-t", "ext3", "-b", "4096"}},
		{"ext3-checksum", "journal_checksum,commit=3", []string{"-t", "ext3", "-b", "1024"}},
		{"ext4-async", "data=writeback,journal_async_commit,commit=3", []string{"-t", "ext4", "-b", "4096"}},
		{"ext4-fast_commit", "commit=300", []string{"-t", "ext4", "-b", "4096", "-O", "fast_commit"}},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			b := startBusy(t, v.options, v.args)
			for i := range 2 {
				b.wait(40 * (i + 1))
				image, acked := b.freeze()
				checkBusy(t, image, acked, v.name == "ext4-fast_commit")
			}
			b.stop()
		})
	}
}

// busy is a mounted filesystem and its writers.
type busy struct {
	t     testing.TB
	outer string // the directory with the image
	dir   string // where the image is mounted

	quit chan struct{}
	wg   sync.WaitGroup
	stop func()

	mu    sync.Mutex
	more  *sync.Cond                   // of acked
	acked map[string][sha256.Size]byte // files that are on disk, and stay
}

// wait waits until n files are on disk.
func (b *busy) wait(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.acked) < n && !b.t.Failed() {
		b.more.Wait()
	}
}

func startBusy(t testing.TB, options string, args []string) *busy {
	outer, _ := mount(t, makeImage(t, 400<<20, "-t", "ext4", "-b", "4096", "-O", "^has_journal"))
	image := filepath.Join(outer, "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 64<<20); err != nil {
		t.Fatal(err)
	}
	command(t, "mke2fs", append(append([]string{"-q", "-F", "-J", "size=8"}, args...), image)...)
	dir, unmount := mount(t, image, options)
	b := &busy{t: t, outer: outer, dir: dir, quit: make(chan struct{}), acked: make(map[string][sha256.Size]byte)}
	b.more = sync.NewCond(&b.mu)
	for i := range 4 {
		w := &writer{b: b, dir: filepath.Join(dir, fmt.Sprint("writer", i)), rng: rand.New(rand.NewPCG(uint64(i), 5))}
		b.wg.Go(w.run)
	}
	b.stop = sync.OnceFunc(func() {
		close(b.quit)
		b.wg.Wait()
		unmount()
	})
	t.Cleanup(b.stop)
	return b
}

// freeze takes an image, and says which files were on disk before.
func (b *busy) freeze() (image string, acked map[string][sha256.Size]byte) {
	acked = make(map[string][sha256.Size]byte)
	b.mu.Lock()
	for name, sum := range b.acked {
		acked[name] = sum
	}
	b.mu.Unlock()
	command(b.t, "fsfreeze", "--freeze", b.outer)
	defer command(b.t, "fsfreeze", "--unfreeze", b.outer)
	return copyImage(b.t, filepath.Join(b.outer, "image")), acked
}

// writer changes one directory in all sorts of ways.
type writer struct {
	b     *busy
	dir   string
	rng   *rand.Rand
	n     int
	names []string // of files that may be changed
	open  *os.File // unlinked
}

func (w *writer) run() {
	if err := os.Mkdir(w.dir, 0o755); err != nil {
		w.b.t.Error(err)
		w.b.more.Signal()
		return
	}
	for {
		select {
		case <-w.b.quit:
			if w.open != nil {
				w.open.Close()
			}
			return
		default:
		}
		w.n++
		err := w.step()
		if err != nil && !errors.Is(err, unix.ENOSPC) {
			w.b.t.Error(err)
			w.b.more.Signal()
			return
		}
	}
}

func (w *writer) step() error {
	switch w.rng.IntN(10) {
	case 0, 1, 2:
		return w.keep()
	case 3:
		return w.link()
	case 4:
		return w.remove()
	case 5:
		return w.rename()
	case 6:
		return w.unlinkOpen()
	default:
		return w.change()
	}
}

func (w *writer) path(name string) string { return filepath.Join(w.dir, name) }

func (w *writer) pick() string {
	if len(w.names) == 0 {
		return "file0"
	}
	return w.names[w.rng.IntN(len(w.names))]
}

func (w *writer) bytes() []byte {
	b := make([]byte, 1+w.rng.IntN(40_000))
	for i := range b {
		b[i] = byte(w.rng.Uint32())
	}
	if w.rng.IntN(8) == 0 { // a block that has to be escaped in the journal
		copy(b, []byte{0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 1})
	}
	return b
}

// keep makes a file, has it and its name put on disk, and never changes it.
func (w *writer) keep() error {
	content := w.bytes()
	name := fmt.Sprintf("keep%d", w.n)
	f, err := os.Create(w.path(name))
	if err != nil {
		return err
	}
	defer f.Close()
	if w.rng.IntN(4) == 0 {
		if err := unix.Fsetxattr(int(f.Fd()), "user.sum", content[:min(len(content), 300)], 0); err != nil && !errors.Is(err, unix.ENOSPC) {
			return err
		}
	}
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := syncDir(w.dir); err != nil {
		return err
	}
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	w.b.acked[filepath.Join(filepath.Base(w.dir), name)] = sha256.Sum256(content)
	w.b.more.Signal()
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// change writes into a file that may be there, cuts it or makes it longer.
func (w *writer) change() error {
	name := w.pick()
	if len(w.names) < 30 {
		name = fmt.Sprintf("file%d", w.n)
		w.names = append(w.names, name)
	}
	f, err := os.OpenFile(w.path(name), os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return err
	}
	defer f.Close()
	switch w.rng.IntN(4) {
	case 0:
		err = f.Truncate(w.rng.Int64N(100_000))
	case 1:
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, w.rng.Int64N(50_000), 100_000)
		if errors.Is(err, unix.EOPNOTSUPP) {
			err = nil
		}
	default:
		_, err = f.WriteAt(w.bytes(), w.rng.Int64N(200_000))
	}
	if err == nil && w.rng.IntN(3) == 0 {
		err = f.Sync()
	}
	return err
}

func (w *writer) link() error {
	if w.rng.IntN(2) == 0 {
		return os.Symlink(strings.Repeat("x", 1+w.rng.IntN(100)), w.path(fmt.Sprintf("symlink%d", w.n)))
	}
	err := os.Link(w.path(w.pick()), w.path(fmt.Sprintf("link%d", w.n)))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return err
}

func (w *writer) remove() error {
	if w.rng.IntN(3) == 0 {
		dir := w.path(fmt.Sprintf("dir%d", w.n))
		if err := os.Mkdir(dir, 0o711); err != nil || w.rng.IntN(2) == 0 {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "inside"), []byte("x"), 0o600); err != nil || w.rng.IntN(2) == 0 {
			return err
		}
		return os.RemoveAll(dir)
	}
	err := os.Remove(w.path(w.pick()))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return err
}

func (w *writer) rename() error {
	err := os.Rename(w.path(w.pick()), w.path(w.pick()))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return err
}

// unlinkOpen leaves an orphan: a file without a name that is still open.
func (w *writer) unlinkOpen() error {
	if w.open != nil {
		w.open.Close()
	}
	var err error
	if w.open, err = os.Create(w.path("orphan")); err != nil {
		return err
	}
	if _, err := w.open.Write(w.bytes()); err != nil {
		return err
	}
	return os.Remove(w.path("orphan"))
}

// checkBusy reads an image of a busy filesystem.
func checkBusy(t *testing.T, image string, acked map[string][sha256.Size]byte, fast bool) {
	t.Helper()
	fsys := openImage(t, image)
	notes := strings.Join(fsys.Info().Notes, " ")
	if !strings.Contains(notes, "its journal was applied in memory") || strings.Contains(notes, "damaged") {
		t.Errorf("notes: %q", notes)
	}
	if len(acked) == 0 {
		t.Error("nothing was written in time")
	}
	for name, sum := range acked {
		content, err := readPath(fsys, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if sha256.Sum256(content) != sum {
			t.Errorf("%s: content is not what was fsynced", name)
		}
	}
	t.Logf("%d fsynced files are there; %s", len(acked), notes)

	started := time.Now().Add(-20 * time.Millisecond) // the kernel's clock for times is coarse
	dir, unmount, err := tryMount(t, copyImage(t, image), "noatime")
	if err != nil && fast { // see TestFastCommit
		t.Logf("not compared with the kernel's recovery: %v", err)
		return
	} else if err != nil {
		t.Fatal(err)
	}
	defer unmount()
	c := &comparison{t: t, fsys: fsys, dir: dir, rng: rand.New(rand.NewPCG(1, 2))}
	c.adjust = func(_ string, got *tree.Attr, want tree.Attr) {
		// The kernel's recovery sets the times of what it truncates.
		if !want.Ctime.Before(started) {
			takeTimes(got, want)
		}
		if fast { // see TestFastCommit
			got.Blocks = want.Blocks
			if want.Type == tree.Directory {
				takeTimes(got, want)
				got.Nlink = want.Nlink
			}
		}
	}
	c.run()
}

// readPath reads the file that a path with slashes leads to.
func readPath(fsys *ext4.FS, path string) ([]byte, error) {
	ino := fsys.Root()
	for name := range strings.SplitSeq(path, "/") {
		var err error
		if ino, err = fsys.Lookup(ino, name); err != nil {
			return nil, err
		}
	}
	a, err := fsys.Stat(ino)
	if err != nil {
		return nil, err
	}
	r, err := fsys.Open(ino)
	if err != nil {
		return nil, err
	}
	content, err := readAll(r, a.Size+1)
	return bytes.Clone(content), err
}
