package blockdevtest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

func TestFaultAtTheNthCall(t *testing.T) {
	d := NewDisk(DiskOptions{})
	f := synced(t, d, "a", fill('0', 4096))
	d.FailAt(2, syscall.EIO, false)
	must(t, f.Truncate(4096))
	if err := d.Rename("a", "b"); !errors.Is(err, syscall.EIO) {
		t.Fatalf("rename = %v", err)
	}
	must(t, d.Rename("a", "b"))

	d.Inject(Fault{Classes: WriteAt | Mkdir, Nth: 1, Forever: true, Err: syscall.ENOSPC,
		Name: func(name string) bool { return strings.HasPrefix(name, "x") }})
	write(t, f, 0, []byte("1")) // opened as a
	for range 3 {
		if err := d.Mkdir("x"); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("mkdir = %v", err)
		}
	}
	x := open(t, d, "xx")
	if _, err := x.WriteAt([]byte("1"), 0); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("write = %v", err)
	}
	must(t, d.Remove("xx"))
	d.ClearFaults()
	must(t, d.Mkdir("x"))
}

func TestFaultOfReads(t *testing.T) {
	d := NewDisk(DiskOptions{})
	f := synced(t, d, "a", fill('0', 4096))
	d.Inject(Fault{Classes: ReadAt, Nth: 2, Err: syscall.EIO})
	p := make([]byte, 10)
	_, err := f.ReadAt(p, 0)
	must(t, err)
	if _, err := f.ReadAt(p, 0); !errors.Is(err, syscall.EIO) {
		t.Fatalf("read = %v", err)
	}
}

func TestFailedWriteHappensInPart(t *testing.T) {
	lengths := map[int]bool{}
	for seed := range uint64(100) {
		d := NewDisk(DiskOptions{Seed: seed})
		f := synced(t, d, "a", fill('0', 2048))
		d.FailAt(1, syscall.EIO, false)
		n, err := f.WriteAt(fill('1', 2000), 48)
		if !errors.Is(err, syscall.EIO) {
			t.Fatalf("write = %v", err)
		}
		got := contents(t, d, "a")
		want := fill('0', 2048)
		copy(want[48:48+n], fill('1', n))
		if !bytes.Equal(got, want) {
			t.Fatalf("not the %d bytes that were reported", n)
		}
		lengths[n] = true
	}
	if want := map[int]bool{0: true, 464: true, 976: true, 1488: true}; !reflect.DeepEqual(lengths, want) {
		t.Errorf("lengths %v, want %v", lengths, want)
	}
}

func TestFailedSyncLosesTheData(t *testing.T) {
	d := NewDisk(DiskOptions{})
	f := synced(t, d, "a", fill('0', 1024))
	write(t, f, 0, fill('1', 512))
	d.FailAt(1, syscall.EIO, false)
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("sync = %v", err)
	}
	if got := contents(t, d, "a"); got[0] != '1' {
		t.Error("the cache lost the data")
	}
	must(t, f.Sync()) // says nothing about what the first one lost
	write(t, f, 512, fill('2', 512))
	c := d.Clone()
	c.Crash(PowerCutKeepAll, 1)
	if got := contents(t, c, "a"); got[0] != '0' || got[512] != '2' {
		t.Errorf("after the crash %c%c", got[0], got[512])
	}
	d.DropCaches()
	if got := contents(t, d, "a"); got[0] != '0' || got[512] != '2' {
		t.Errorf("after the cache was dropped %c%c", got[0], got[512])
	}
}

func TestCapacity(t *testing.T) {
	d := NewDisk(DiskOptions{CapacityBytes: 4 * pageSize})
	f := open(t, d, "a")
	write(t, f, 100, fill('1', pageSize)) // two pages
	if got := d.Allocated(); got != 2*pageSize {
		t.Fatalf("allocated %d", got)
	}
	if n, err := f.WriteAt(fill('2', 5*pageSize), 0); n != 4*pageSize || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("write = %d, %v", n, err)
	}
	if n, err := f.WriteAt([]byte{1}, 1<<30); n != 0 || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("write = %d, %v", n, err)
	}
	write(t, f, 0, fill('3', 4*pageSize)) // in place
	tab, err := d.OpenTable("t")
	must(t, err)
	put := func() error {
		return tab.Update(func(tx blockfile.Tx) error { return tx.Put("b", []byte("k"), []byte("v")) })
	}
	if err := put(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("update = %v", err)
	}
	must(t, f.PunchHole(100, 2*pageSize)) // frees one page: the others are covered in part
	if total, free, err := d.Space(); total != 4*pageSize || free != pageSize || err != nil {
		t.Fatalf("space = %d, %d, %v", total, free, err)
	}
	must(t, put())
	if n, err := f.Allocated(); n != 3*pageSize || err != nil {
		t.Fatalf("allocated = %d, %v", n, err)
	}
	must(t, d.Remove("a"))
	if got := d.Allocated(); got != 4*pageSize {
		t.Errorf("allocated %d while the removed file is open", got)
	}
	must(t, f.Close())
	if got := d.Allocated(); got != pageSize {
		t.Errorf("allocated %d after the removed file was closed", got)
	}
	must(t, d.Remove("t"))
	must(t, tab.Close())
	if got := d.Allocated(); got != 0 {
		t.Errorf("allocated %d in the end", got)
	}
}

func TestAllocatedAfterACrash(t *testing.T) {
	d := NewDisk(DiskOptions{})
	f := synced(t, d, "a", fill('1', 3*pageSize))
	must(t, f.PunchHole(0, pageSize))
	g := open(t, d, "b")
	write(t, g, 0, fill('1', pageSize))
	must(t, d.Remove("b"))
	if got := d.Allocated(); got != 3*pageSize {
		t.Fatalf("allocated %d", got)
	}
	c := d.Clone()
	c.Crash(PowerCutLoseAll, 1)
	if got := c.Allocated(); got != 3*pageSize {
		t.Errorf("allocated %d after the punch was lost", got)
	}
	d.Crash(Kill, 1)
	if got := d.Allocated(); got != 2*pageSize {
		t.Errorf("allocated %d after the removed file's handle died", got)
	}
}

func TestSparse(t *testing.T) {
	d := NewDisk(DiskOptions{})
	f := open(t, d, "a")
	write(t, f, 4<<30, []byte("end"))
	must(t, f.Truncate(8<<30))
	must(t, f.PunchHole(1, 8<<30-2))
	if n, err := f.Allocated(); n != 0 || err != nil {
		t.Errorf("allocated %d, %v", n, err)
	}
	if n, err := f.Size(); n != 8<<30 || err != nil {
		t.Errorf("size %d, %v", n, err)
	}
	d.Crash(PowerCut, 3)
}

func TestWritebackBoundsMemory(t *testing.T) {
	d := NewDisk(DiskOptions{})
	f := synced(t, d, "a", nil)
	p := make([]byte, 1<<20)
	for i := range 200 {
		p[0] = byte(i)
		write(t, f, 0, p)
	}
	if n := d.st.inodes[2].pendingBytes; n > maxPending {
		t.Errorf("%d bytes pending", n)
	}
	d.Crash(PowerCutLoseAll, 1)
	if got := contents(t, d, "a"); len(got) != len(p) || got[0] == 0 {
		t.Error("nothing was written back")
	}
}

func TestFlipBit(t *testing.T) {
	d := NewDisk(DiskOptions{})
	f := synced(t, d, "a", []byte{0xf0})
	must(t, f.Truncate(1<<20))
	must(t, d.FlipBit("a", 0, 0))
	if got := contents(t, d, "a")[0]; got != 0xf1 {
		t.Errorf("cache %#x", got)
	}
	if err := d.FlipBit("a", 8192, 0); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("in a hole: %v", err)
	}
	d.Crash(PowerCutLoseAll, 1)
	if got := contents(t, d, "a")[0]; got != 0xf1 {
		t.Errorf("disk %#x", got)
	}
}

func TestTryReadAt(t *testing.T) {
	for _, tt := range []struct {
		how  TryRead
		want map[bool]bool // whether it worked
	}{
		{TryReadAlways, map[bool]bool{true: true}},
		{TryReadNever, map[bool]bool{false: true}},
		{TryReadRandom, map[bool]bool{false: true, true: true}},
	} {
		d := NewDisk(DiskOptions{TryRead: tt.how})
		f := synced(t, d, "a", []byte("0123"))
		got := map[bool]bool{}
		for range 50 {
			p := make([]byte, 2)
			err := f.TryReadAt(p, 1)
			if err != nil && !errors.Is(err, blockfile.ErrWouldBlock) || err == nil && string(p) != "12" {
				t.Fatalf("read %q, %v", p, err)
			}
			got[err == nil] = true
		}
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("mode %d: %v", tt.how, got)
		}
		if err := f.TryReadAt(make([]byte, 2), 3); !errors.Is(err, blockfile.ErrWouldBlock) {
			t.Errorf("past the end: %v", err)
		}
	}
}

func TestErrors(t *testing.T) {
	d := NewDisk(DiskOptions{})
	must(t, d.Mkdir("dir"))
	f := synced(t, d, "a", []byte("x"))
	_, err := d.OpenTable("t")
	must(t, err)
	ro, err := d.Open("a", os.O_RDONLY)
	must(t, err)
	openErr := func(name string, flag int) error {
		_, err := d.Open(name, flag)
		return err
	}
	tableErr := func(name string) error {
		_, err := d.OpenTable(name)
		return err
	}
	_, roErr := ro.WriteAt([]byte("1"), 0)
	_, negative := f.WriteAt([]byte("1"), -1)
	_, overflow := f.WriteAt([]byte("12"), 1<<63-2)
	_, eof := f.ReadAt(make([]byte, 2), 0)
	_, readdir := d.ReadDir("a")
	closed := open(t, d, "closed")
	must(t, closed.Close())
	for what, tt := range map[string]struct{ err, want error }{
		"open missing":        {openErr("b", os.O_RDWR), fs.ErrNotExist},
		"open exclusive":      {openErr("a", os.O_RDWR|os.O_CREATE|os.O_EXCL), fs.ErrExist},
		"open directory":      {openErr("dir", os.O_RDWR), syscall.EISDIR},
		"open table":          {openErr("t", os.O_RDWR), syscall.EINVAL},
		"open outside":        {openErr("../a", os.O_RDWR), syscall.EINVAL},
		"open absolute":       {openErr("/a", os.O_RDWR), syscall.EINVAL},
		"open below a file":   {openErr("a/b", os.O_RDWR|os.O_CREATE), syscall.ENOTDIR},
		"open truncating":     {openErr("a", os.O_RDWR|os.O_TRUNC), syscall.EINVAL},
		"table twice":         {tableErr("t"), blockfile.ErrLocked},
		"table of a file":     {tableErr("a"), syscall.EINVAL},
		"mkdir twice":         {d.Mkdir("dir"), fs.ErrExist},
		"mkdir below nothing": {d.Mkdir("b/c"), fs.ErrNotExist},
		"remove missing":      {d.Remove("b"), fs.ErrNotExist},
		"remove root":         {d.Remove("."), syscall.EBUSY},
		"rename missing":      {d.Rename("b", "c"), fs.ErrNotExist},
		"rename over dir":     {d.Rename("a", "dir"), syscall.EISDIR},
		"rename into itself":  {d.Rename("dir", "dir/x"), syscall.EINVAL},
		"rename dir to file":  {d.Rename("dir", "a"), syscall.ENOTDIR},
		"syncdir of a file":   {d.SyncDir("a"), syscall.ENOTDIR},
		"readdir of a file":   {readdir, syscall.ENOTDIR},
		"read-only":           {roErr, syscall.EBADF},
		"negative":            {negative, syscall.EINVAL},
		"overflow":            {overflow, syscall.EINVAL},
		"end of file":         {eof, io.EOF},
		"punch nothing":       {f.PunchHole(0, 0), syscall.EINVAL},
		"truncate below zero": {f.Truncate(-1), syscall.EINVAL},
		"closed":              {closed.Sync(), fs.ErrClosed},
		"closed twice":        {closed.Close(), fs.ErrClosed},
	} {
		if !errors.Is(tt.err, tt.want) {
			t.Errorf("%s: %v, want %v", what, tt.err, tt.want)
		}
	}
	must(t, d.Rename("a", "dir/a"))
	if err := d.Remove("dir"); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("remove a full directory: %v", err)
	}
}
