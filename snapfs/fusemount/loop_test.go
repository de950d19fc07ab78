package fusemount_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs/fusemount"
	"github.com/rowan-storage/rowan/snapfs/imagetest"
)

// memoryDisk is a block device in memory that counts what is asked of it and
// fails when told to.
type memoryDisk struct {
	mu        sync.Mutex
	data      []byte
	capture   bool
	flushed   []byte // data at the last flush, if capture
	flushes   int
	discarded int64
	zeroed    int64
	largest   int
	inFlight  int
	most      int // in flight at once
	slow      bool
	fail      map[string]error // by operation
}

func newMemoryDisk(sizeBytes int) *memoryDisk {
	return &memoryDisk{data: make([]byte, sizeBytes), fail: map[string]error{}}
}

// begin counts a request and returns the error that it shall fail with.
func (d *memoryDisk) begin(op string, n int) (func(), error) {
	d.mu.Lock()
	d.inFlight++
	d.most, d.largest = max(d.most, d.inFlight), max(d.largest, n)
	err, slow := d.fail[op], d.slow
	d.mu.Unlock()
	if slow {
		time.Sleep(2 * time.Millisecond) // the time that a disk would take
	}
	return func() {
		d.mu.Lock()
		d.inFlight--
		d.mu.Unlock()
	}, err
}

func (d *memoryDisk) Size() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return int64(len(d.data))
}

func (d *memoryDisk) ReadAt(p []byte, off int64) (int, error) {
	end, err := d.begin("read", len(p))
	defer end()
	if err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.NewReader(d.data).ReadAt(p, off)
}

func (d *memoryDisk) WriteAt(p []byte, off int64) (int, error) {
	end, err := d.begin("write", len(p))
	defer end()
	if err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if off+int64(len(p)) > int64(len(d.data)) {
		return 0, errors.New("write past the end")
	}
	return copy(d.data[off:], p), nil
}

func (d *memoryDisk) Flush(context.Context) error {
	end, err := d.begin("flush", 0)
	defer end()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		d.flushes++
		if d.capture {
			d.flushed = bytes.Clone(d.data)
		}
	}
	return err
}

func (d *memoryDisk) Discard(_ context.Context, off, n int64) error {
	end, err := d.begin("discard", 0)
	defer end()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		clear(d.data[off : off+n])
		d.discarded += n
	}
	return err
}

func (d *memoryDisk) WriteZeroes(_ context.Context, off, n int64) error {
	end, err := d.begin("zero", 0)
	defer end()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		clear(d.data[off : off+n])
		d.zeroed += n
	}
	return err
}

func (d *memoryDisk) setFail(op string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail[op] = err
}

// counts returns what was counted so far.
func (d *memoryDisk) counts() (flushes int, discarded, zeroed int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.flushes, d.discarded, d.zeroed
}

// serve serves a device and returns the path of the file.
func serve(t testing.TB, dev fusemount.BlockDevice, o fusemount.FileOptions) string {
	t.Helper()
	needFUSE(t)
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := fusemount.ServeFile(dir, dev, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Unmount(); err != nil {
			t.Error(err)
			if err := s.UnmountLazily(); err != nil {
				t.Error(err)
			}
		}
	})
	return s.Path()
}

// TestLoopDevice runs a filesystem on a loop device on the served file, with
// the loop device's own cache and with direct I/O.
func TestLoopDevice(t *testing.T) {
	for _, direct := range []string{"on", "off"} {
		t.Run("direct-io="+direct, func(t *testing.T) {
			imagetest.Tool(t, "mkfs.ext4", "fstrim", "e2fsck", "blkdiscard", "sync")
			dev := newMemoryDisk(96 * imagetest.MiB)
			loop := imagetest.Loop(t, serve(t, dev, fusemount.FileOptions{}), "--direct-io="+direct)
			if got := strings.TrimSpace(imagetest.Run(t, "losetup", "--noheadings", "--output", "DIO", loop)); got != map[string]string{"on": "1", "off": "0"}[direct] {
				t.Errorf("the loop device says that direct I/O is %q", got)
			}
			imagetest.Run(t, "mkfs.ext4", "-q", "-F", "-b", "4096", loop)
			_, discarded, zeroed := dev.counts()
			if discarded+zeroed == 0 {
				t.Error("mkfs.ext4 discarded nothing")
			}
			mnt := imagetest.Mount(t, loop, "rw")
			want := bytes.Repeat([]byte("what was written before sync\n"), 1<<20)
			if err := os.WriteFile(filepath.Join(mnt, "file"), want, 0o600); err != nil {
				t.Fatal(err)
			}
			dev.mu.Lock()
			dev.capture = true
			dev.mu.Unlock()
			before, _, _ := dev.counts()
			imagetest.Run(t, "sync", "-f", filepath.Join(mnt, "file"))
			flushes, _, _ := dev.counts()
			if flushes <= before {
				t.Errorf("%d flushes before sync of the filesystem, %d after", before, flushes)
			}
			expectOnDisk(t, dev, want)

			f, err := os.OpenFile(filepath.Join(mnt, "synced"), os.O_CREATE|os.O_WRONLY, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for i := range 5 {
				before, _, _ := dev.counts()
				if _, err := fmt.Fprintf(f, "line %d\n", i); err != nil {
					t.Fatal(err)
				}
				if err := f.Sync(); err != nil {
					t.Fatal(err)
				}
				if flushes, _, _ := dev.counts(); flushes <= before {
					t.Errorf("fsync %d of a file did not flush the device", i)
				}
			}
			if err := os.Remove(filepath.Join(mnt, "file")); err != nil {
				t.Fatal(err)
			}
			imagetest.Run(t, "sync", "-f", mnt)
			_, before64, _ := dev.counts()
			imagetest.Run(t, "fstrim", mnt)
			if _, discarded, _ := dev.counts(); discarded-before64 < int64(len(want)) {
				t.Errorf("fstrim discarded %d bytes, a file of %d was deleted", discarded-before64, len(want))
			}
			dev.mu.Lock()
			defer dev.mu.Unlock()
			if dev.largest < 256<<10 {
				t.Errorf("the largest request had %d bytes", dev.largest)
			}
		})
	}
}

// expectOnDisk takes what the device had at its last flush for what a power cut
// would leave, and looks for a file in it with the kernel.
func expectOnDisk(t *testing.T, dev *memoryDisk, want []byte) {
	t.Helper()
	dev.mu.Lock()
	flushed := dev.flushed
	dev.capture = false
	dev.mu.Unlock()
	path := filepath.Join(t.TempDir(), "flushed")
	if err := os.WriteFile(path, flushed, 0o600); err != nil {
		t.Fatal(err)
	}
	mnt := imagetest.Mount(t, path, "loop")
	got, err := os.ReadFile(filepath.Join(mnt, "file"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("after a power cut at the last flush the file has %d bytes, %v, want %d", len(got), err, len(want))
	}
}

// TestLoopDeviceErrors: errors of the device reach who writes through a loop
// device.
func TestLoopDeviceErrors(t *testing.T) {
	dev := newMemoryDisk(16 * imagetest.MiB)
	loop := imagetest.Loop(t, serve(t, dev, fusemount.FileOptions{}), "--direct-io=on")
	// Writes through the page cache of a block device fail with EIO, whatever
	// the device says: the kernel keeps no more of it.
	f, err := os.OpenFile(loop, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf, err := unix.Mmap(-1, 0, 64<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(buf)
	for _, want := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
		dev.setFail("write", want)
		_, err := f.WriteAt(buf, 0)
		dev.setFail("write", nil)
		if !errors.Is(err, want) {
			t.Errorf("write that fails with %v: %v", want, err)
		}
	}
	dev.setFail("read", syscall.EIO)
	if _, err := f.ReadAt(buf, 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("read that fails: %v, want EIO", err)
	}
	dev.setFail("read", nil)
	dev.setFail("flush", syscall.EIO)
	if _, err := f.WriteAt(buf, 0); err != nil {
		t.Error(err)
	}
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("fsync of a device that cannot flush: %v, want EIO", err)
	}
	dev.setFail("flush", nil)
}

// TestManyInFlight: a loop device with direct I/O has many requests under way.
func TestManyInFlight(t *testing.T) {
	imagetest.Tool(t, "fio")
	dev := newMemoryDisk(64 * imagetest.MiB)
	dev.slow = true // before it is used
	loop := imagetest.Loop(t, serve(t, dev, fusemount.FileOptions{}), "--direct-io=on")
	imagetest.Run(t, "fio", "--name=x", "--filename="+loop, "--rw=randwrite", "--bs=4k", "--ioengine=libaio", "--iodepth=32", "--direct=1", "--size=8m", "--verify=crc32c", "--randseed=1")
	dev.mu.Lock()
	defer dev.mu.Unlock()
	if dev.most < 16 {
		t.Errorf("%d requests at most were under way at once, want 16 of 32", dev.most)
	}
	t.Logf("%d requests were under way at once", dev.most)
}

// TestLoopDeviceGrows: a loop device sees a larger device when told to look.
func TestLoopDeviceGrows(t *testing.T) {
	dev := newMemoryDisk(8 * imagetest.MiB)
	loop := imagetest.Loop(t, serve(t, dev, fusemount.FileOptions{}), "--direct-io=on")
	dev.mu.Lock()
	dev.data = append(dev.data, make([]byte, 8*imagetest.MiB)...)
	dev.mu.Unlock()
	eventually(t, "the loop device has grown", func() bool {
		imagetest.Run(t, "losetup", "--set-capacity", loop)
		return strings.TrimSpace(imagetest.Run(t, "blockdev", "--getsize64", loop)) == fmt.Sprint(16*imagetest.MiB)
	})
}

// TestUnmountUnderLoopDevice: the mount does not go away under a loop device,
// and goes when that is gone.
func TestUnmountUnderLoopDevice(t *testing.T) {
	needFUSE(t)
	imagetest.Tool(t, "losetup")
	dir := t.TempDir()
	s, err := fusemount.ServeFile(dir, newMemoryDisk(imagetest.MiB), fusemount.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	loop := strings.TrimSpace(imagetest.Run(t, "losetup", "--find", "--show", s.Path()))
	err = s.Unmount()
	if !errors.Is(err, syscall.EBUSY) {
		t.Errorf("unmount under a loop device: %v, want EBUSY", err)
	}
	if out, err := exec.Command("losetup", "--detach", loop).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for range 2 {
		if err := s.Unmount(); err != nil {
			t.Error(err)
		}
	}
	s.Wait()
}
