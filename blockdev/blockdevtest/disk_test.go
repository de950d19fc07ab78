package blockdevtest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"reflect"
	"syscall"
	"testing"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, fsys blockfile.FS, name string) blockfile.File {
	t.Helper()
	f, err := fsys.Open(name, os.O_RDWR|os.O_CREATE)
	must(t, err)
	return f
}

func write(t *testing.T, f blockfile.File, off int64, p []byte) {
	t.Helper()
	if n, err := f.WriteAt(p, off); n != len(p) || err != nil {
		t.Fatalf("write = %d, %v", n, err)
	}
}

// contents reads a whole file, nil if there is none.
func contents(t *testing.T, fsys blockfile.FS, name string) []byte {
	t.Helper()
	f, err := fsys.Open(name, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	must(t, err)
	defer f.Close()
	size, err := f.Size()
	must(t, err)
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return b
}

func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

// synced makes a file whose content and name are durable.
func synced(t *testing.T, d *Disk, name string, p []byte) blockfile.File {
	t.Helper()
	f := open(t, d, name)
	write(t, f, 0, p)
	must(t, f.Sync())
	must(t, d.SyncDir("."))
	return f
}

func TestKillKeepsWhatWasWritten(t *testing.T) {
	d := NewDisk(DiskOptions{})
	f := open(t, d, "a")
	write(t, f, 100, []byte("hello"))
	must(t, d.Mkdir("dir"))
	must(t, d.Rename("a", "dir/b"))
	boot := d.BootID()
	d.Crash(Kill, 1)
	if d.BootID() != boot {
		t.Error("the boot id changed")
	}
	if got := contents(t, d, "dir/b"); !bytes.Equal(got, append(make([]byte, 100), "hello"...)) {
		t.Errorf("content = %q", got)
	}
	if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrCrashed) {
		t.Errorf("read by an old handle: %v", err)
	}
}

func TestSessionDiesWithTheCrash(t *testing.T) {
	d := NewDisk(DiskOptions{})
	s := d.Session()
	f := open(t, s, "a")
	tab, err := s.OpenTable("t")
	must(t, err)
	l, err := s.Lock("lock")
	must(t, err)
	d.Crash(Kill, 1)
	_, openErr := s.Open("a", os.O_RDWR)
	_, dirErr := s.ReadDir(".")
	_, lockErr := s.Lock("lock")
	_, _, spaceErr := s.Space()
	_, tableErr := s.OpenTable("t")
	_, writeErr := f.WriteAt([]byte{1}, 0)
	_, sizeErr := f.Size()
	_, allocErr := f.Allocated()
	for what, err := range map[string]error{
		"open": openErr, "readdir": dirErr, "lock": lockErr, "space": spaceErr, "open table": tableErr,
		"write": writeErr, "size": sizeErr, "allocated": allocErr,
		"sync": f.Sync(), "truncate": f.Truncate(0), "punch": f.PunchHole(0, 1), "close": f.Close(),
		"try read": f.TryReadAt(make([]byte, 1), 0),
		"remove":   s.Remove("a"), "rename": s.Rename("a", "b"), "mkdir": s.Mkdir("d"), "syncdir": s.SyncDir("."),
		"view":        tab.View(func(blockfile.Tx) error { return nil }),
		"update":      tab.Update(func(blockfile.Tx) error { return nil }),
		"close table": tab.Close(), "unlock": l.Close(),
	} {
		if !errors.Is(err, ErrCrashed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if names, err := d.ReadDir("."); err != nil || !reflect.DeepEqual(names, []string{"a", "lock", "t"}) {
		t.Errorf("names = %v, %v", names, err)
	}
}

func TestPowerCutLosesUnsyncedData(t *testing.T) {
	d := NewDisk(DiskOptions{})
	f := synced(t, d, "a", fill(1, 4096))
	write(t, f, 512, fill(2, 512))
	must(t, f.Truncate(8192))
	must(t, f.PunchHole(1024, 512))
	c := d.Clone()
	boot := d.BootID()
	d.Crash(PowerCutLoseAll, 1)
	if d.BootID() == boot {
		t.Error("the boot id is the same")
	}
	if got := contents(t, d, "a"); !bytes.Equal(got, fill(1, 4096)) {
		t.Errorf("lost more or less than the unsynced: %v", got)
	}
	c.Crash(PowerCutKeepAll, 1)
	want := fill(1, 8192)
	copy(want[512:], fill(2, 512))
	clear(want[1024:1536])
	clear(want[4096:])
	if got := contents(t, c, "a"); !bytes.Equal(got, want) {
		t.Errorf("kept: %v", got)
	}
}

func TestSyncDoesNotMakeTheNameDurable(t *testing.T) {
	d := NewDisk(DiskOptions{})
	must(t, d.Mkdir("dir"))
	f := open(t, d, "dir/a")
	write(t, f, 0, []byte("x"))
	must(t, f.Sync())
	must(t, d.SyncDir("dir"))
	c := d.Clone()
	c.Crash(PowerCutLoseAll, 1)
	if names, _ := c.ReadDir("."); len(names) != 0 {
		t.Errorf("a directory survived whose name was not synced: %v", names)
	}
	must(t, d.SyncDir("."))
	d.Crash(PowerCutLoseAll, 1)
	if got := contents(t, d, "dir/a"); string(got) != "x" {
		t.Errorf("content = %q", got)
	}
}

// outcomes crashes clones of d with many seeds and counts what see returns.
func outcomes(d *Disk, kind Kind, see func(d *Disk) string) map[string]int {
	seen := map[string]int{}
	for seed := range uint64(400) {
		c := d.Clone()
		c.Crash(kind, seed)
		seen[see(c)]++
	}
	return seen
}

func keys(m map[string]int) map[string]bool {
	k := map[string]bool{}
	for s := range m {
		k[s] = true
	}
	return k
}

func wantOutcomes(t *testing.T, got map[string]int, want ...string) {
	t.Helper()
	all := map[string]bool{}
	for _, s := range want {
		all[s] = true
	}
	if !reflect.DeepEqual(keys(got), all) {
		t.Errorf("outcomes %v, want each of %q", got, want)
	}
}

func TestPowerCutReordersAndTears(t *testing.T) {
	d := NewDisk(DiskOptions{})
	f := synced(t, d, "a", fill('0', 1024))
	write(t, f, 0, fill('1', 1024))
	write(t, f, 0, fill('2', 1024))
	got := outcomes(d, PowerCut, func(d *Disk) string {
		b := contents(t, d, "a")
		if !bytes.Equal(b[:512], fill(b[0], 512)) || !bytes.Equal(b[512:], fill(b[512], 512)) {
			t.Fatal("a sector is torn")
		}
		return string([]byte{b[0], b[512]})
	})
	wantOutcomes(t, got, "00", "01", "02", "10", "11", "12", "20", "21", "22")
}

func TestPowerCutBetweenFiles(t *testing.T) {
	d := NewDisk(DiskOptions{})
	a, b := synced(t, d, "a", []byte("0")), synced(t, d, "b", []byte("0"))
	write(t, a, 0, []byte("1"))
	write(t, b, 0, []byte("1"))
	got := outcomes(d, PowerCut, func(d *Disk) string {
		return string(contents(t, d, "a")) + string(contents(t, d, "b"))
	})
	wantOutcomes(t, got, "00", "01", "10", "11")
}

func TestPowerCutOfNames(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(t *testing.T, d *Disk)
		want []string // of files a, b and c/a, - for absent
	}{
		{"create", func(t *testing.T, d *Disk) { write(t, open(t, d, "b"), 0, nil) },
			[]string{"0--", "0 -"}},
		{"remove", func(t *testing.T, d *Disk) { must(t, d.Remove("a")) },
			[]string{"0--", "---"}},
		{"rename is atomic", func(t *testing.T, d *Disk) { must(t, d.Rename("a", "c/a")) },
			[]string{"0--", "--0"}},
		{"rename half synced", func(t *testing.T, d *Disk) {
			must(t, d.Rename("a", "c/a"))
			must(t, d.SyncDir("c"))
		}, []string{"0--", "--0"}},
		{"rename synced", func(t *testing.T, d *Disk) {
			must(t, d.Rename("a", "c/a"))
			must(t, d.SyncDir("c"))
			must(t, d.SyncDir("."))
		}, []string{"--0"}},
		{"replace", func(t *testing.T, d *Disk) {
			f := open(t, d, "b")
			write(t, f, 0, []byte("1"))
			must(t, f.Sync())
			must(t, d.SyncDir("."))
			must(t, d.Rename("b", "a"))
		}, []string{"01-", "1--"}},
		{"a name's changes in order", func(t *testing.T, d *Disk) {
			must(t, d.Rename("a", "b"))
			must(t, d.Rename("b", "c/a"))
		}, []string{"0--", "-0-", "--0"}},
		{"other names in any order", func(t *testing.T, d *Disk) {
			open(t, d, "b")
			open(t, d, "c/a")
		}, []string{"0--", "0 -", "0- ", "0  "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := NewDisk(DiskOptions{})
			must(t, d.Mkdir("c"))
			synced(t, d, "a", []byte("0"))
			tt.do(t, d)
			got := outcomes(d, PowerCut, func(d *Disk) string {
				s := ""
				for _, name := range []string{"a", "b", "c/a"} {
					switch b := contents(t, d, name); {
					case b == nil:
						s += "-"
					case len(b) == 0:
						s += " "
					default:
						s += string(b)
					}
				}
				return s
			})
			wantOutcomes(t, got, tt.want...)
		})
	}
}

func TestDirectoryRemovedAfterItsFiles(t *testing.T) {
	d := NewDisk(DiskOptions{})
	must(t, d.Mkdir("c"))
	synced(t, d, "c/a", []byte("0"))
	must(t, d.SyncDir("c"))
	must(t, d.Rename("c/a", "a"))
	must(t, d.Remove("c"))
	got := outcomes(d, PowerCut, func(d *Disk) string {
		return string(contents(t, d, "c/a")) + "/" + string(contents(t, d, "a"))
	})
	wantOutcomes(t, got, "0/", "/0")
}

func TestCalls(t *testing.T) {
	d := NewDisk(DiskOptions{})
	f := open(t, d, "a")
	tab, err := d.OpenTable("t")
	must(t, err)
	l, err := d.Lock("l")
	must(t, err)
	write(t, f, 0, []byte("x"))
	must(t, f.Sync())
	must(t, f.Truncate(10))
	must(t, f.PunchHole(0, 1))
	must(t, d.Mkdir("d"))
	must(t, d.Rename("a", "b"))
	must(t, d.SyncDir("."))
	must(t, tab.Update(func(tx blockfile.Tx) error { return nil }))
	must(t, d.Remove("d"))
	if got := d.Calls(); got != 12 {
		t.Errorf("calls = %d, want 12", got)
	}
	open(t, d, "b") // exists
	_ = contents(t, d, "b")
	must(t, tab.View(func(tx blockfile.Tx) error { return nil }))
	must(t, errors.Join(tab.Close(), l.Close(), f.Close()))
	if got := d.Calls(); got != 12 {
		t.Errorf("calls = %d after some that change nothing", got)
	}
}

func TestStopAt(t *testing.T) {
	d := NewDisk(DiskOptions{})
	f := synced(t, d, "a", fill('0', 2048))
	d.StopAt(d.Calls() + 2)
	write(t, f, 0, fill('1', 512))
	buf := fill('2', 1024)
	if _, err := f.WriteAt(buf, 1024); !errors.Is(err, ErrStopped) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("write = %v", err)
	}
	copy(buf, fill('9', 1024)) // the buffer is the caller's again
	if err := d.Remove("a"); !errors.Is(err, ErrStopped) {
		t.Fatalf("remove = %v", err)
	}
	if at, ok := d.Stopped(); !ok || at != "call 6: write a [1024, 2048)" {
		t.Errorf("stopped at %q, %v", at, ok)
	}
	got := outcomes(d, Kill, func(d *Disk) string {
		b := contents(t, d, "a")
		return string([]byte{b[0], b[512], b[1024], b[1536]})
	})
	wantOutcomes(t, got, "1000", "1020", "1022")
	d.Crash(Kill, 1)
	must(t, d.Remove("a"))
}

func TestStopAtUpdate(t *testing.T) {
	d := NewDisk(DiskOptions{})
	tab, err := d.OpenTable("t")
	must(t, err)
	must(t, d.SyncDir("."))
	put := func(v string) error {
		return tab.Update(func(tx blockfile.Tx) error { return tx.Put("b", []byte("k"), []byte(v)) })
	}
	must(t, put("old"))
	d.StopAt(d.Calls() + 1)
	if err := put("new"); !errors.Is(err, ErrStopped) {
		t.Fatalf("update = %v", err)
	}
	for _, kind := range []Kind{Kill, PowerCut} {
		got := outcomes(d, kind, func(d *Disk) string {
			tab, err := d.OpenTable("t")
			must(t, err)
			var v string
			must(t, tab.View(func(tx blockfile.Tx) error {
				v = string(tx.Get("b", []byte("k")))
				return nil
			}))
			return v
		})
		wantOutcomes(t, got, "old", "new")
	}
}

func TestCloneIsIndependent(t *testing.T) {
	d := NewDisk(DiskOptions{})
	f := synced(t, d, "a", fill('0', 8192))
	write(t, f, 0, []byte("1"))
	c := d.Clone()
	g := open(t, c, "a")
	write(t, g, 1, []byte("2"))
	write(t, f, 2, []byte("3"))
	must(t, g.Sync())
	must(t, c.Rename("a", "b"))
	if got := contents(t, d, "a")[:4]; string(got) != "1030" {
		t.Errorf("original = %q", got)
	}
	if got := contents(t, c, "b")[:4]; string(got) != "1200" {
		t.Errorf("clone = %q", got)
	}
	d.Crash(PowerCutLoseAll, 1)
	c.Crash(PowerCutLoseAll, 1)
	if got := contents(t, d, "a")[:4]; string(got) != "0000" {
		t.Errorf("original after the crash = %q", got)
	}
	if got := contents(t, c, "a")[:4]; string(got) != "1200" {
		t.Errorf("clone after the crash = %q", got)
	}
}

func TestLock(t *testing.T) {
	d := NewDisk(DiskOptions{})
	l, err := d.Lock("lock")
	must(t, err)
	if _, err := d.Lock("lock"); !errors.Is(err, blockfile.ErrLocked) {
		t.Fatalf("second lock: %v", err)
	}
	must(t, l.Close())
	if err := l.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("second close: %v", err)
	}
	_, err = d.Lock("lock")
	must(t, err)
	d.Crash(Kill, 0)
	_, err = d.Lock("lock")
	must(t, err)
}
