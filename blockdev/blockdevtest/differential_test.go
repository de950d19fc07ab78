package blockdevtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// hostDir does to a directory of the host what the test does to a Disk.
type hostDir string

func (h hostDir) path(name string) string { return filepath.Join(string(h), name) }

func (h hostDir) names(t *testing.T, dir string) ([]string, error) {
	entries, err := os.ReadDir(h.path(dir))
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func punchHost(f *os.File, off, n int64) error {
	const keepSize, punchHole = 1, 2 // FALLOC_FL_*
	return syscall.Fallocate(int(f.Fd()), keepSize|punchHole, off, n)
}

// remove and rename are the bare system calls: package os tries more than one.
func (h hostDir) remove(name string) error {
	err := syscall.Unlink(h.path(name))
	if err == syscall.EISDIR || err == syscall.EPERM {
		err = syscall.Rmdir(h.path(name))
	}
	return err
}

func (h hostDir) rename(from, to string) error {
	return syscall.Rename(h.path(from), h.path(to))
}

// sameError compares the errnos of two errors.
func sameError(a, b error) bool {
	var ea, eb syscall.Errno
	errors.As(a, &ea)
	errors.As(b, &eb)
	return ea == eb && (a == nil) == (b == nil)
}

// differ runs random operations on a Disk and on the host's filesystem.
type differ struct {
	t    *testing.T
	rng  *rand.Rand
	disk *Disk
	host hostDir
}

func (r *differ) name() string {
	names := []string{"a", "b", "c", "d", "d/a", "d/b", "e", "e/a", "e/d", "e/d/a"}
	return names[r.rng.IntN(len(names))]
}

// span is a place in a file, often at a boundary.
func (r *differ) span() (off, n int64) {
	off, n = r.rng.Int64N(40000), r.rng.Int64N(20000)+1
	if r.rng.IntN(2) == 0 {
		off, n = off/512*512, n/512*512+512
	}
	return off, n
}

func (r *differ) step(i int) {
	name := r.name()
	what, got, want := "", error(nil), error(nil)
	switch r.rng.IntN(8) {
	case 0:
		what, got, want = "mkdir "+name, r.disk.Mkdir(name), syscall.Mkdir(r.host.path(name), 0o755)
	case 1:
		what, got, want = "remove "+name, r.disk.Remove(name), r.host.remove(name)
	case 2:
		to := r.name()
		what, got, want = "rename "+name+" "+to, r.disk.Rename(name, to), r.host.rename(name, to)
	default:
		r.file(i, name)
		return
	}
	if !sameError(got, want) {
		r.t.Fatalf("step %d: %s = %v, host: %v", i, what, got, want)
	}
}

// file opens a file and changes and reads it.
func (r *differ) file(i int, name string) {
	flag := os.O_RDWR
	if r.rng.IntN(2) == 0 {
		flag |= os.O_CREATE
	}
	f, err := r.disk.Open(name, flag)
	h, hostErr := os.OpenFile(r.host.path(name), flag, 0o644)
	if !sameError(err, hostErr) {
		r.t.Fatalf("step %d: open %s %#x = %v, host: %v", i, name, flag, err, hostErr)
	}
	if err != nil {
		return
	}
	defer h.Close()
	defer f.Close()
	for range 4 {
		off, n := r.span()
		p := make([]byte, n)
		for j := range p {
			p[j] = byte(r.rng.Uint32())
		}
		switch r.rng.IntN(4) {
		case 0, 1:
			_, err = f.WriteAt(p, off)
			_, hostErr = h.WriteAt(p, off)
		case 2:
			err, hostErr = f.Truncate(off), h.Truncate(off)
		case 3:
			err, hostErr = f.PunchHole(off, n), punchHost(h, off, n)
		}
		must(r.t, errors.Join(err, hostErr))
		r.compare(i, name, f, h)
	}
}

func (r *differ) compare(i int, name string, f io.ReaderAt, h *os.File) {
	off, n := r.span()
	if r.rng.IntN(2) == 0 {
		off, n = 0, 100000
	}
	got, want := make([]byte, n), make([]byte, n)
	ng, err := f.ReadAt(got, off)
	nw, hostErr := h.ReadAt(want, off)
	if ng != nw || err != hostErr || !bytes.Equal(got[:ng], want[:nw]) {
		r.t.Fatalf("step %d: %s [%d, %d) differs from the host's: %d, %v, not %d, %v", i, name, off, off+n, ng, err, nw, hostErr)
	}
}

// compareNames compares the directories.
func (r *differ) compareNames(i int) {
	for _, dir := range []string{".", "d", "e", "e/d"} {
		got, err := r.disk.ReadDir(dir)
		want, hostErr := r.host.names(r.t, dir)
		if !sameError(err, hostErr) || (err == nil && !slices.Equal(got, want)) {
			r.t.Fatalf("step %d: %s has %v, %v, host: %v, %v", i, dir, got, err, want, hostErr)
		}
	}
}

// TestDiskAgainstTheHost runs random operations on a Disk and on the host's
// filesystem, and now and then kills the Disk, which must not show.
func TestDiskAgainstTheHost(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := &differ{
				t: t, rng: rand.New(rand.NewPCG(seed, 7)),
				disk: NewDisk(DiskOptions{}), host: hostDir(t.TempDir()),
			}
			for i := range 1500 {
				r.step(i)
				r.compareNames(i)
				switch r.rng.IntN(50) {
				case 0:
					r.disk.Crash(Kill, seed)
				case 1:
					r.disk.Crash(PowerCutKeepAll, seed)
				case 2:
					r.disk = r.disk.Clone()
				}
			}
		})
	}
}
