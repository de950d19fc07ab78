package ext4_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs/ext4"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// fcWork does things to a mounted filesystem with fast commits.
type fcWork struct {
	population
}

// sync puts one file, and the changes before it, on disk by a fast commit.
func (w *fcWork) sync(name string) {
	w.t.Helper()
	f, err := os.Open(w.path(name))
	w.check(err)
	w.check(f.Sync(), f.Close())
}

// writeAt writes into a file and syncs it.
func (w *fcWork) writeAt(name string, off int64, n int) {
	w.t.Helper()
	f, err := os.OpenFile(w.path(name), os.O_CREATE|os.O_WRONLY, 0o640)
	w.check(err)
	_, err = f.WriteAt(w.random(n), off)
	w.check(err, f.Sync(), f.Close())
}

// steps makes changes at random, in few files such that they meet.
func (w *fcWork) steps() {
	for range 80 {
		name, other := fmt.Sprint("r", w.rng.IntN(12)), fmt.Sprint("r", w.rng.IntN(12))
		switch w.rng.IntN(6) {
		case 0:
			_ = os.Remove(w.path(name))
		case 1:
			_ = os.Rename(w.path(name), w.path(other))
		case 2:
			_ = os.Link(w.path(name), w.path(other))
		case 3:
			if os.Truncate(w.path(name), w.rng.Int64N(60_000)) == nil {
				w.sync(name)
			}
		default:
			w.writeAt(name, w.rng.Int64N(60_000), 1+w.rng.IntN(9000))
		}
	}
	w.sync("base")
	w.writeAt("last", 0, 1)
}

// fcCase is a filesystem with fast commits in its journal.
type fcCase struct {
	name string
	args []string
	base func(w *fcWork) // in a full commit
	work func(w *fcWork) // in fast commits
	seed uint64

	// noKernel says why the kernel's recovery of the image is not what it
	// should be. Then only what was there counts.
	noKernel string
}

func fcCases() []fcCase {
	return []fcCase{
		{name: "create", work: func(w *fcWork) {
			for i := range 40 {
				w.writeAt(fmt.Sprintf("new%d", i), int64(i)*3000, 1+i*700)
			}
		}},
		{name: "full area", args: []string{"-J", "fast_commit_size=1"}, work: func(w *fcWork) {
			for i := range 300 {
				w.writeAt(fmt.Sprint("file", i%7), int64(i)*4000, 4000)
			}
		}, noKernel: "Linux 6.18 reads one block too many if all blocks for fast commits are used, and refuses the mount"},
		{name: "append", base: func(w *fcWork) { w.writeAt("file", 0, 10_000) }, work: func(w *fcWork) {
			for i := range 12 {
				w.writeAt("file", 10_000+int64(i)*7000, 7000)
			}
			w.writeAt("file", 3000, 50)
		}},
		{name: "sparse", base: func(w *fcWork) { w.writeAt("file", 0, 500_000) }, work: func(w *fcWork) {
			for i := range 60 {
				w.writeAt("far", int64((i*37)%60)*20_000, 4096)
			}
		}},
		{name: "truncate", base: func(w *fcWork) { w.writeAt("file", 0, 500_000); w.writeAt("gone", 0, 90_000) }, work: func(w *fcWork) {
			w.check(os.Truncate(w.path("file"), 100_123))
			w.sync("file")
			w.check(os.Truncate(w.path("gone"), 0))
			w.sync("gone")
			w.writeAt("gone", 50_000, 5000)
			w.check(os.Truncate(w.path("file"), 300_000))
			w.sync("file")
		}},
		{name: "rename", base: func(w *fcWork) { w.writeAt("a", 0, 5000); w.writeAt("b", 0, 6000); w.writeAt("c", 0, 7000) }, work: func(w *fcWork) {
			w.check(os.Rename(w.path("a"), w.path("b")))
			w.sync("b")
			w.check(os.Rename(w.path("c"), w.path("d")), os.Link(w.path("d"), w.path("e")))
			w.sync("d")
			w.check(os.Remove(w.path("d")))
			w.writeAt("e", 7000, 10)
			w.writeAt("tmp", 0, 3000)
			w.check(os.Rename(w.path("tmp"), w.path("b")))
			w.sync("b")
		}},
		{name: "unlink", base: func(w *fcWork) {
			for i := range 20 {
				w.writeAt(fmt.Sprint("f", i), 0, 20_000)
			}
		}, work: func(w *fcWork) {
			for i := range 10 {
				w.check(os.Remove(w.path(fmt.Sprint("f", i))))
			}
			w.writeAt("f15", 100, 3)
			for i := range 12 { // takes the inodes that became free
				w.writeAt(fmt.Sprint("again", i), 30_000, 100)
			}
		}},
		{name: "random1", args: []string{"-J", "fast_commit_size=1"}, base: (*fcWork).steps, work: (*fcWork).steps, seed: 1},
		{name: "random2", args: []string{"-J", "fast_commit_size=1"}, base: (*fcWork).steps, work: (*fcWork).steps, seed: 2},
		{name: "random3", args: []string{"-J", "fast_commit_size=1"}, base: (*fcWork).steps, work: (*fcWork).steps, seed: 3},
		{name: "random4", args: []string{"-J", "fast_commit_size=1"}, base: (*fcWork).steps, work: (*fcWork).steps, seed: 4},
		{name: "mkdir", work: func(w *fcWork) {
			w.check(os.MkdirAll(w.path("d1/d2"), 0o755), os.Mkdir(w.path("empty"), 0o700))
			w.writeAt("d1/file", 0, 10)
			w.writeAt("d1/d2/file", 0, 5000)
			w.check(os.Remove(w.path("empty")))
			w.writeAt("d1/d2/other", 0, 1)
		}},
		{name: "symlink", work: func(w *fcWork) {
			w.writeAt("file", 0, 10)
			w.check(os.Symlink("short", w.path("s1")))
			w.writeAt("file", 0, 10)
			w.writeAt("file", 0, 5000)
		}},
		{name: "inline", args: []string{"-O", "inline_data"}, base: func(w *fcWork) { w.writeAt("small", 0, 50) }, work: func(w *fcWork) {
			w.writeAt("small", 10, 80)
			w.writeAt("tiny", 0, 20)
			w.writeAt("small", 0, 9000)
		}, noKernel: "Linux 6.18 takes inline data for a tree of extents when it has become one"},
		{name: "attributes", base: func(w *fcWork) { w.writeAt("file", 0, 50) }, work: func(w *fcWork) {
			w.check(os.Chmod(w.path("file"), 0o4711), os.Lchown(w.path("file"), 1, 2))
			w.check(os.Chtimes(w.path("file"), time.Unix(1, 2), time.Unix(1<<32, 4)))
			w.sync("file")
		}},
		{name: "tmpfile", work: func(w *fcWork) {
			f, err := os.OpenFile(w.dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
			w.check(err)
			_, err = f.Write(w.random(10_000))
			w.check(err, f.Sync())
			w.check(unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, w.path("linked"), unix.AT_SYMLINK_FOLLOW))
			w.check(f.Sync(), f.Close())
		}, noKernel: "Linux 6.18 refuses the mount if a file without a name was synced"},
	}
}

// TestFastCommit compares images with fast commits in the journal with what the
// kernel makes of them, and with what was there when the image was taken.
func TestFastCommit(t *testing.T) {
	need(t, "mke2fs", "mount", "umount", "cp")
	for _, v := range fcCases() {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			v.run(t)
		})
	}
}

// image makes the filesystem, and an image of it after the work is done. It is
// still mounted, on dir.
func (v fcCase) image(t *testing.T) (image, dir string) {
	path := makeImage(t, 64<<20, append([]string{"-t", "ext4", "-b", "4096", "-J", "size=16", "-O", "fast_commit"}, v.args...)...)
	dir, _ = mount(t, path, "commit=300,noatime")
	w := &fcWork{population{t: t, dir: dir, rng: rand.New(rand.NewPCG(v.seed, 9))}}
	w.write("base", []byte("makes the first commit a full one"))
	if v.base != nil {
		v.base(w)
	}
	command(t, "sync", "--file-system", dir)
	v.work(w)
	return copyImage(t, path), dir
}

// run tries a few times to get an image with fast commits in it that the kernel
// can recover: it may at any time prefer a full commit, and on a busy machine
// does; and it refuses what it has written itself if a file was created and
// unlinked, but not yet gone.
func (v fcCase) run(t *testing.T) {
	var err error
	for range 10 {
		image, dir := v.image(t)
		fsys := openImage(t, image)
		notes := strings.Join(fsys.Info().Notes, " ")
		t.Log(notes)
		if !strings.Contains(notes, " fast commit") {
			err = errors.New("there were no fast commits")
			continue
		}
		v.compare(t, fsys, dir, false)
		if v.noKernel != "" {
			t.Logf("not compared with the kernel's recovery: %s", v.noKernel)
			return
		}
		if dir, _, err = tryMount(t, copyImage(t, image), "noatime"); err == nil {
			v.compare(t, fsys, dir, true)
			return
		}
	}
	t.Error(err)
}

func (v fcCase) compare(t *testing.T, fsys *ext4.FS, dir string, recovered bool) {
	t.Helper()
	c := &comparison{t: t, fsys: fsys, dir: dir, rng: rand.New(rand.NewPCG(1, 2))}
	c.adjust = func(_ string, got *tree.Attr, want tree.Attr) {
		if want.Type == tree.Directory { // the log says little of them
			takeTimes(got, want)
			got.Nlink, got.Blocks = want.Nlink, want.Blocks
		}
		if recovered { // the kernel counts blocks anew
			got.Blocks = want.Blocks
		}
	}
	c.run()
}
