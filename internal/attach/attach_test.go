package attach_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/internal/attach"
)

func TestAttachAndDetach(t *testing.T) {
	f := newFixture(t)
	r := f.attach("web")
	if r.Export != "web" || r.Method != attach.MethodLoop || r.ReadOnly || r.PID == os.Getpid() {
		t.Errorf("record is %+v", r)
	}
	if got := run(t, "blockdev", "--getsize64", "--getss", "--getro", r.Device); got != "8388608\n512\n0" {
		t.Errorf("size, sector size and read-only are %q", got)
	}
	if got := run(t, "losetup", "--noheadings", "-O", "DIO", r.Device); got != "1" {
		t.Errorf("direct I/O is %q", got)
	}
	run(t, "mkfs.ext4", "-q", r.Device)
	list, err := f.List()
	if err != nil || len(list) != 1 || list[0].Device != r.Device || len(list[0].Users) != 0 {
		t.Errorf("list is %+v (%v)", list, err)
	}
	done, err := f.Detach(context.Background(), "web")
	if err != nil || len(done) != 1 || done[0].Device != r.Device {
		t.Errorf("detached %+v (%v)", done, err)
	}
	content, err := os.ReadFile(f.file)
	if err != nil {
		t.Fatal(err)
	}
	// The magic number of an ext4 superblock.
	if content[1024+56] != 0x53 || content[1024+57] != 0xef {
		t.Error("what mkfs wrote is not in the content")
	}
	f.expectNothingLeft()
	if _, err := f.Detach(context.Background(), "web"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("detached twice: %v", err)
	}
}

func TestLUNIsAttachedOnce(t *testing.T) {
	f := newFixture(t)
	r := f.attach("web")
	_, err := f.Attach(context.Background(), "web")
	var attached *attach.AttachedError
	if !errors.As(err, &attached) || attached.Record.Device != r.Device || !errors.Is(err, unix.EBUSY) {
		t.Errorf("attached twice: %v", err)
	}
	// Another appliance's LUN of this name is another LUN.
	other := &attach.Manager{Dir: attach.DirOf(f.base, "/run/y/api.sock"), Start: f.Start}
	if _, err := other.Find("web"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("the LUN of another appliance is found: %v", err)
	}
}

func TestSnapshotIsReadOnlyAndAttachedManyTimes(t *testing.T) {
	f := newFixture(t)
	a, b := f.attach("web@mon"), f.attach("web@mon")
	if a.Device == b.Device || !a.ReadOnly || !b.ReadOnly {
		t.Errorf("devices are %+v and %+v", a, b)
	}
	if got := run(t, "blockdev", "--getro", a.Device); got != "1" {
		t.Errorf("read-only is %s", got)
	}
	if done, err := f.Detach(context.Background(), a.Device); err != nil || len(done) != 1 {
		t.Errorf("detached %v (%v)", done, err)
	}
	if done, err := f.Detach(context.Background(), "web@mon"); err != nil || len(done) != 1 || done[0].Device != b.Device {
		t.Errorf("detached %v (%v), want %s", done, err, b.Device)
	}
}

func TestMountedDeviceIsNotDetached(t *testing.T) {
	f := newFixture(t)
	r := f.attach("web")
	run(t, "mkfs.ext4", "-q", r.Device)
	dir := filepath.Join(t.TempDir(), "a mount")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", r.Device, dir)
	_, err := f.Detach(context.Background(), "web")
	var inUse *attach.InUseError
	if !errors.As(err, &inUse) || !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "mounted on "+dir) {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "still"), []byte("there"), 0o600); err != nil {
		t.Error(err)
	}
	run(t, "umount", dir)
	if _, err := f.Detach(context.Background(), "web"); err != nil {
		t.Errorf("after it was unmounted: %v", err)
	}
}

// TestClaimedDeviceIsNotDetached goes past the look that Detach takes first.
func TestClaimedDeviceIsNotDetached(t *testing.T) {
	f := newFixture(t)
	r := f.attach("web")
	fd, err := unix.Open(r.Device, unix.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	// This process does not count as a user, the kernel's claim does.
	_, err = f.Detach(context.Background(), "web")
	if !errors.As(err, new(*attach.InUseError)) || !strings.Contains(err.Error(), r.Device) {
		t.Errorf("got %v", err)
	}
	unix.Close(fd)
	if _, err := f.Detach(context.Background(), "web"); err != nil {
		t.Errorf("after it was closed: %v", err)
	}
}

func TestProcessThatHasItOpen(t *testing.T) {
	f := newFixture(t)
	r := f.attach("web")
	reader := exec.Command("sh", "-c", "exec 3<"+r.Device+"; echo; read line")
	in, err := reader.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := reader.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := reader.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_, err = f.Detach(context.Background(), "web")
	if want := fmt.Sprintf("open in process %d (sh)", reader.Process.Pid); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q in it", err, want)
	}
	in.Close()
	_ = reader.Wait() // read ends without a line
}

func TestKilledHolderIsCleanedUp(t *testing.T) {
	f := newFixture(t)
	r := f.attach("web")
	kill(t, r.PID)
	if list, err := f.List(); err != nil || len(list) != 0 {
		t.Errorf("list is %+v (%v)", list, err)
	}
	if _, err := f.Detach(context.Background(), "web"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("detach: %v", err)
	}
	f.expectNothingLeft()

	r = f.attach("web")
	kill(t, r.PID)
	again := f.attach("web")
	if out := run(t, "losetup", "-j", f.file); strings.Count(out, "\n") != 0 || !strings.HasPrefix(out, again.Device+":") {
		t.Errorf("loop devices: %s, want %s", out, again.Device)
	}
}

// TestKilledHolderUnderAMount keeps the device until it is unmounted.
func TestKilledHolderUnderAMount(t *testing.T) {
	f := newFixture(t)
	r := f.attach("web")
	run(t, "mkfs.ext4", "-q", r.Device)
	dir := t.TempDir()
	run(t, "mount", r.Device, dir)
	kill(t, r.PID)
	if _, err := f.Detach(context.Background(), "web"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("detach: %v", err)
	}
	run(t, "umount", dir)
	f.expectNothingLeft()
}

// TestReusedLoopDeviceIsLeftAlone has the device of a killed holder go to
// somebody else.
func TestReusedLoopDeviceIsLeftAlone(t *testing.T) {
	f := newFixture(t)
	r := f.attach("web")
	kill(t, r.PID)
	run(t, "losetup", "-d", r.Device)
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "losetup", r.Device, other)
	defer run(t, "losetup", "-d", r.Device)
	if _, err := f.Detach(context.Background(), "web"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("detach: %v", err)
	}
	if out := run(t, "losetup", "-j", other); !strings.HasPrefix(out, r.Device+":") {
		t.Errorf("the loop device of somebody else was taken away: %q", out)
	}
}

func TestLostDaemon(t *testing.T) {
	f := newFixture(t)
	r := f.attach("web")
	if err := os.Remove(f.file + ".up"); err != nil {
		t.Fatal(err)
	}
	swept := make(chan error, 1)
	go func() { swept <- f.Sweep(context.Background(), "web") }()
	reap(r.PID)
	if err := <-swept; err != nil {
		t.Error(err)
	}
	f.expectNothingLeft()
	if list, err := f.List(); err != nil || len(list) != 0 {
		t.Errorf("list is %+v (%v)", list, err)
	}
	if _, err := f.Detach(context.Background(), "web"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("detach: %v", err)
	}
}

func TestFailureToStartLeavesNothing(t *testing.T) {
	f := newFixture(t)
	if err := os.Remove(f.file); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Attach(context.Background(), "web"); err == nil || !strings.Contains(err.Error(), "content") {
		t.Errorf("got %v", err)
	}
	f.expectNothingLeft()
	f.write("", 1<<20)
}

func TestForeignDirectoryIsRefused(t *testing.T) {
	f := newFixture(t)
	if err := os.MkdirAll(f.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(f.Dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Attach(context.Background(), "web"); !errors.Is(err, os.ErrPermission) {
		t.Errorf("got %v", err)
	}
	if err := os.Remove(f.Dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(t.TempDir(), f.Dir); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Attach(context.Background(), "web"); !errors.Is(err, os.ErrPermission) {
		t.Errorf("a symbolic link: %v", err)
	}
	if err := os.RemoveAll(f.base); err != nil {
		t.Fatal(err)
	}
}

// TestHolderThatIsToldToEndTooEarly goes on while its file is in use.
func TestHolderThatIsToldToEndTooEarly(t *testing.T) {
	f := newFixture(t)
	r := f.attach("web")
	if err := syscall.Kill(r.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// It gives up trying after a while, and says why.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(f.Dir, "web.refused")); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not say why it goes on")
		}
	}
	run(t, "mkfs.ext4", "-q", r.Device)
	if _, err := f.Detach(context.Background(), "web"); err != nil {
		t.Error(err)
	}
}

// TestBrokenOffAttachIsCleanedUp has the attaching process die before the
// device is recorded.
func TestBrokenOffAttachIsCleanedUp(t *testing.T) {
	f := newFixture(t)
	if err := os.MkdirAll(f.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(f.Dir, "web.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	r, err := f.start(context.Background(), "web", "web", log)
	if err != nil {
		t.Fatal(err)
	}
	f.holders = append(f.holders, r.PID)
	if list, err := f.List(); err != nil || len(list) != 0 {
		t.Errorf("list is %+v (%v)", list, err)
	}
	again := f.attach("web")
	if again.PID == r.PID {
		t.Error("the holder without a device is still the holder")
	}
}

func TestTwoAtOnce(t *testing.T) {
	f := newFixture(t)
	type outcome struct {
		r   attach.Record
		err error
	}
	results := make(chan outcome, 2)
	for range 2 {
		go func() {
			r, err := f.Attach(context.Background(), "web")
			results <- outcome{r, err}
		}()
	}
	won, refused := 0, 0
	for range 2 {
		o := <-results
		if o.err == nil {
			won++
			f.holders = append(f.holders, o.r.PID)
		} else if errors.As(o.err, new(*attach.AttachedError)) {
			refused++
		} else {
			t.Error(o.err)
		}
	}
	if won != 1 || refused != 1 {
		t.Errorf("%d attached it and %d were refused, want 1 and 1", won, refused)
	}
}

func TestDirOf(t *testing.T) {
	dirs := map[string]string{}
	long := "/" + strings.Repeat("x", 100)
	for _, socket := range []string{"/run/rowan/api.sock", "/run/rowan-api.sock", "/run-rowan-api.sock", long + "/a", long + "/b", "/"} {
		d := attach.DirOf("/b", socket)
		if filepath.Dir(d) != "/b" || len(filepath.Base(d)) > 80 {
			t.Errorf("%s: %s", socket, d)
		}
		if other, ok := dirs[d]; ok {
			t.Errorf("%s and %s share %s", socket, other, d)
		}
		dirs[d] = socket
	}
}
