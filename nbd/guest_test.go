package nbd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/rowan-storage/rowan/test/harness"
)

// The kernel's nbd driver is tried in a guest, under emulation, so that the
// host needs neither the module nor privileges: its init runs this test program
// again, which finds guestVariable set and then does runGuest.
const guestVariable = "ROWAN_NBD_GUEST"

func TestMain(m *testing.M) {
	if os.Getenv(guestVariable) == "" {
		os.Exit(m.Run())
	}
	if err := runGuest(); err != nil {
		fmt.Println("GUEST FAILED:", err)
		os.Exit(1)
	}
}

func TestKernelAttachInGuest(t *testing.T) {
	t.Log(harness.Guest{
		Modules:  []string{"crc16", "crc32c_generic", "libcrc32c", "mbcache", "jbd2", "ext4", "nbd"},
		Programs: map[string]string{"nbd.test": harness.GuestTests(t)},
		Script:   guestVariable + "=1 nbd.test\n",
	}.Run(t))
}

// runGuest is what is done in the guest.
func runGuest() error {
	const size = 64 << 20
	began := time.Now()
	d := newMemDevice(size)
	exports := &memExports{byName: map[string]*Export{"lun": {Device: d}, "lun@monday": {Device: d, ReadOnly: true}}}
	s := NewServer(Config{Exports: exports})
	l, err := net.Listen("unix", "/tmp/socket")
	if err != nil {
		return err
	}
	go s.Serve(l, nil)
	defer s.Close()
	for _, step := range []struct {
		name string
		do   func(*Server, *memDevice) error
	}{
		{"raw device", guestRawDevice}, {"filesystem", guestFilesystem}, {"read-only", guestReadOnly},
		{"two devices", guestTwoDevices}, {"server gone", guestServerGone},
	} {
		if err := step.do(s, d); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Println("guest:", step.name, "passed after", time.Since(began).Round(time.Millisecond))
	}
	return nil
}

// attachLUN attaches the export of the guest's server.
func attachLUN(export string) (*KernelDevice, error) {
	ctx, cancel := context.WithTimeout(context.Background(), waitTime)
	defer cancel()
	return AttachKernel(ctx, "unix", "/tmp/socket", KernelOptions{Export: export})
}

// all runs steps until one fails.
func all(steps ...func() error) error {
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

func check(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// The requests for ranges of a block device, of <linux/fs.h>.
const (
	ioctlBLKDISCARD = 0x1277
	ioctlBLKZEROOUT = 0x127f
	ioctlBLKSSZGET  = 0x1268
)

func rangeIoctl(f *os.File, request uintptr, off, n uint64) error {
	r := [2]uint64{off, n}
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return errno
	}
	return nil
}

func guestRawDevice(_ *Server, d *memDevice) error {
	k, err := attachLUN("lun")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(k.Path(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	pattern := []byte(strings.Repeat("0123456789abcdef", 1<<16))
	var block int32
	return all(
		func() error { _, err := f.WriteAt(pattern, 4096); return err },
		func() error { return check(d.flushes.Load() == 0, "a flush nobody asked for") },
		f.Sync,
		func() error { return check(d.flushes.Load() > 0, "fsync does not flush") },
		func() error { return check(string(d.bytes(4096, 1<<20)) == string(pattern), "the write is not there") },
		func() error {
			// Signals to the process must not end the connection.
			for range 50 {
				syscall.Kill(os.Getpid(), syscall.SIGURG)
				time.Sleep(time.Millisecond)
			}
			return nil
		},
		func() error { return rangeIoctl(f, ioctlBLKDISCARD, 4096, 8192) },
		func() error { return check(d.discards.Load() > 0, "BLKDISCARD does not trim") },
		func() error { return rangeIoctl(f, ioctlBLKZEROOUT, 16384, 4096) },
		func() error {
			return check(string(d.bytes(16384, 4096)) == strings.Repeat("\x00", 4096), "BLKZEROOUT does not zero")
		},
		func() error {
			_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), ioctlBLKSSZGET, uintptr(unsafe.Pointer(&block)))
			return check(errno == 0 && block == 512, "block size %d", block)
		},
		f.Close,
		k.Detach,
		k.Detach, // twice is no harm
		func() error { return check(errors.Is(k.Wait(), ErrDetached), "Wait returns %v", k.Wait()) },
	)
}

func guestRun(args ...string) func() error {
	return func() error {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%q: %w\n%s", args, err, out)
		}
		return nil
	}
}

func guestFilesystem(_ *Server, d *memDevice) error {
	k, err := attachLUN("lun")
	if err != nil {
		return err
	}
	before := d.flushes.Load()
	return all(
		guestRun("mke2fs", "-F", k.Path()),
		guestRun("mount", "-t", "ext4", k.Path(), "/mnt"),
		func() error { return guestFiles(os.WriteFile) },
		func() error { syscall.Sync(); return nil },
		func() error { return check(d.flushes.Load() > before, "sync on the filesystem does not flush") },
		func() error { return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0) },
		func() error {
			return guestFiles(func(name string, want []byte, _ os.FileMode) error {
				got, err := os.ReadFile(name)
				return errors.Join(err, check(string(got) == string(want), "%s differs", name))
			})
		},
		func() error {
			return check(errors.Is(k.Detach(), syscall.EBUSY), "a mounted device is detached")
		},
		guestRun("umount", "/mnt"),
		k.Detach,
	)
}

// guestFiles does something to each of some files and what they hold.
func guestFiles(do func(name string, content []byte, mode os.FileMode) error) error {
	for i := range 60 {
		content := []byte(strings.Repeat(fmt.Sprintf("file %d\n", i), 12345))
		if err := do(fmt.Sprintf("/mnt/%d", i), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func guestReadOnly(*Server, *memDevice) error {
	k, err := attachLUN("lun@monday")
	if err != nil {
		return err
	}
	err = all(
		guestRun("mount", "-t", "ext4", "-o", "ro", k.Path(), "/mnt"),
		func() error { _, err := os.ReadFile("/mnt/59"); return err },
		guestRun("umount", "/mnt"),
	)
	if err != nil {
		return err
	}
	ro, err := os.ReadFile("/sys/block/" + filepath.Base(k.Path()) + "/ro")
	if err := errors.Join(err, check(string(ro) == "1\n", "ro is %q", ro)); err != nil {
		return err
	}
	return k.Detach()
}

func guestTwoDevices(*Server, *memDevice) error {
	a, err := attachLUN("lun")
	if err != nil {
		return err
	}
	b, err := attachLUN("lun@monday")
	if err != nil {
		return err
	}
	if err := check(a.Path() == "/dev/nbd0" && b.Path() == "/dev/nbd1", "%s and %s", a.Path(), b.Path()); err != nil {
		return err
	}
	return errors.Join(a.Detach(), b.Detach())
}

// When the server goes, the device says so, and is free again.
func guestServerGone(s *Server, _ *memDevice) error {
	k, err := attachLUN("lun")
	if err != nil {
		return err
	}
	s.Close()
	if err := k.Wait(); err == nil || errors.Is(err, ErrDetached) {
		return fmt.Errorf("Wait returns %v", err)
	}
	if err := k.Detach(); err != nil {
		return err
	}
	_, err = os.Stat("/sys/block/" + filepath.Base(k.Path()) + "/pid")
	return check(errors.Is(err, os.ErrNotExist), "the driver did not let go")
}
