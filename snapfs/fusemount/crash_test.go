package fusemount_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/fusemount"
	"github.com/rowan-storage/rowan/snapfs/imagetest"
)

// The environment of a test program that only mounts: on a directory, and
// whether others may look.
const (
	childDir        = "FUSEMOUNT_TEST_DIR"
	childAllowOther = "FUSEMOUNT_TEST_ALLOW_OTHER"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(mountChild(dir))
	}
	os.Exit(m.Run())
}

// mountChild mounts a tree without LUNs, says so or what went wrong, and ends
// when its standard input does.
func mountChild(dir string) int {
	root := snapfs.New(&imagetest.Source{}, snapfs.Options{})
	s, err := fusemount.Mount(dir, root, fusemount.Options{AllowOther: os.Getenv(childAllowOther) != ""})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("mounted")
	io.Copy(io.Discard, os.Stdin)
	if err := errors.Join(s.Unmount(), root.Close()); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("unmounted")
	return 0
}

// child is a process that mounts.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	lines *bufio.Scanner
}

func startChild(t *testing.T, dir string, adjust func(*exec.Cmd)) *child {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	if adjust != nil {
		adjust(cmd)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		unix.Unmount(dir, unix.MNT_DETACH) // if it was killed while mounted
	})
	return &child{cmd, stdin, bufio.NewScanner(stdout)}
}

func (c *child) line() string {
	c.lines.Scan()
	return c.lines.Text()
}

// TestKilled: what a killed process leaves on its mount point is taken away by
// the next one.
func TestKilled(t *testing.T) {
	needFUSE(t)
	dir := t.TempDir()
	for range 2 {
		c := startChild(t, dir, nil)
		if got := c.line(); got != "mounted" {
			t.Fatal(got)
		}
		c.cmd.Process.Kill()
		c.cmd.Wait()
		if _, err := os.Stat(dir); !errors.Is(err, syscall.ENOTCONN) {
			t.Errorf("after the process was killed: %v, want ENOTCONN", err)
		}
	}
	root := snapfs.New(imagetest.NewSource(t), snapfs.Options{})
	defer root.Close()
	s, err := fusemount.Mount(dir, root, fusemount.Options{})
	if err != nil {
		t.Fatal(err)
	}
	expectNames(t, dir)
	if err := s.Unmount(); err != nil {
		t.Error(err)
	}
	if mounts := imagetest.Run(t, "cat", "/proc/self/mountinfo"); strings.Contains(mounts, " "+dir+" ") {
		t.Errorf("mounts are left on %s:\n%s", dir, mounts)
	}
	c := startChild(t, dir, nil)
	if got := c.line(); got != "mounted" {
		t.Fatal(got)
	}
	c.stdin.Close()
	if got := c.line(); got != "unmounted" {
		t.Error(got)
	}
}

// TestDeadMountOfOthers: a dead mount that is not ours is explained and left.
func TestDeadMountOfOthers(t *testing.T) {
	needFUSE(t)
	dir := t.TempDir()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("other", dir, "fuse.other", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)); err != nil {
		t.Fatal(err)
	}
	defer imagetest.Run(t, "umount", dir)
	unix.Close(fd)
	root := snapfs.New(imagetest.NewSource(t), snapfs.Options{})
	defer root.Close()
	_, err = fusemount.Mount(dir, root, fusemount.Options{})
	if !errors.Is(err, syscall.ENOTCONN) || !strings.Contains(err.Error(), `unmount it with "fusermount3 -u `+dir) {
		t.Errorf("%v, want a sentence that says what to do", err)
	}
}

func TestBadMountPoint(t *testing.T) {
	root := snapfs.New(imagetest.NewSource(t), snapfs.Options{})
	defer root.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]error{file: syscall.ENOTDIR, file + "/x": syscall.ENOTDIR, file + "x": os.ErrNotExist} {
		if _, err := fusemount.Mount(dir, root, fusemount.Options{}); !errors.Is(err, want) || !strings.Contains(err.Error(), file) {
			t.Errorf("mount on %s: %v, want %v", dir, err, want)
		}
	}
}

// TestMountThroughLink: a mount point given by a symbolic link.
func TestMountThroughLink(t *testing.T) {
	needFUSE(t)
	dir := filepath.Join(t.TempDir(), "with space")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	c := startChild(t, link, nil)
	if got := c.line(); got != "mounted" {
		t.Fatal(got)
	}
	c.cmd.Process.Kill()
	c.cmd.Wait()
	root := snapfs.New(imagetest.NewSource(t), snapfs.Options{})
	defer root.Close()
	s, err := fusemount.Mount(link, root, fusemount.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Dir() != dir {
		t.Errorf("mounted on %s, want %s", s.Dir(), dir)
	}
	if err := s.Unmount(); err != nil {
		t.Error(err)
	}
}

const nobody = 65534

// asNobody gives a directory on which another user may mount, and starts
// children as that user.
func asNobody(t *testing.T) (dir string, run func(env ...string) *child) {
	t.Helper()
	parent, err := os.MkdirTemp("", "fusemount") // t.TempDir may be root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(parent) })
	dir = filepath.Join(parent, "mnt")
	for _, err := range []error{os.Chmod(parent, 0o755), os.Mkdir(dir, 0o700), os.Chown(dir, nobody, nobody)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(parent, "fusemount.test") // where nobody may start it
	imagetest.Run(t, "cp", exe, copied)
	return dir, func(env ...string) *child {
		return startChild(t, dir, func(cmd *exec.Cmd) {
			cmd.Path = copied
			cmd.Env = append(cmd.Env, env...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		})
	}
}

// setFUSEMode sets the mode of /dev/fuse until the test ends.
func setFUSEMode(t *testing.T, mode os.FileMode) {
	t.Helper()
	info, err := os.Stat("/dev/fuse")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod("/dev/fuse", info.Mode()) })
	if err := os.Chmod("/dev/fuse", mode); err != nil {
		t.Fatal(err)
	}
}

// TestWithoutRoot mounts as another user, with the help of fusermount3.
func TestWithoutRoot(t *testing.T) {
	needFUSE(t)
	imagetest.Tool(t, "fusermount3")
	dir, run := asNobody(t)
	setFUSEMode(t, 0o666) // as udev does
	c := run()
	if got := c.line(); got != "mounted" {
		t.Fatal(got)
	}
	if options := imagetest.Run(t, "cat", "/proc/mounts"); !strings.Contains(options, dir+" fuse.rowan ro,nosuid,nodev") {
		t.Errorf("mounted otherwise:\n%s", options)
	}
	if _, err := os.ReadDir(dir); !errors.Is(err, syscall.EACCES) {
		t.Errorf("another user looks: %v, want EACCES", err)
	}
	c.cmd.Process.Kill()
	c.cmd.Wait()
	c = run() // takes the dead one away
	if got := c.line(); got != "mounted" {
		t.Fatal(got)
	}
	c.stdin.Close()
	if got := c.line(); got != "unmounted" {
		t.Error(got)
	}
}

// TestWithoutRootExplained: what is missing is said.
func TestWithoutRootExplained(t *testing.T) {
	needFUSE(t)
	imagetest.Tool(t, "fusermount3")
	_, run := asNobody(t)
	setFUSEMode(t, 0o600)
	if got := run().line(); !strings.Contains(got, "needs leave to open /dev/fuse") {
		t.Errorf("without leave it says %q", got)
	}
	setFUSEMode(t, 0o666)
	if got := run("PATH=/nowhere").line(); !strings.Contains(got, "install the package fuse3") {
		t.Errorf("without fusermount3 it says %q", got)
	}
	conf, err := os.ReadFile("/etc/fuse.conf")
	allowed := err == nil && strings.Contains("\n"+string(conf), "\nuser_allow_other")
	c := run(childAllowOther + "=yes")
	if got := c.line(); allowed != (got == "mounted") || !allowed && !strings.Contains(got, `needs the line "user_allow_other" in /etc/fuse.conf`) {
		t.Errorf("when others shall look it says %q", got)
	}
	c.stdin.Close()
	c.line()
}

// TestReaderFailsUnderMount: the kernel is told that a filesystem has become a
// README, though it was told that nothing would change.
func TestReaderFailsUnderMount(t *testing.T) {
	src := imagetest.NewSource(t)
	src.Add(t, "web", "a", small(t, "one"))
	src.Add(t, "web", "b", small(t, "two"))
	mnt := mountSource(t, src, snapfs.Options{})
	dir := filepath.Join(mnt, "web/a/fs")
	expectNames(t, dir, "dir", "file", "link", "lost+found")
	if _, err := os.Stat(filepath.Join(dir, "README")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("README of a sound filesystem: %v", err)
	}
	src.SetPanic(true)
	if _, err := os.ReadFile(filepath.Join(dir, "file")); !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("read with a reader that fails: %v, want EUCLEAN", err)
	}
	src.SetPanic(false)
	eventually(t, "the kernel knows that there is only a README", func() bool {
		entries, err := os.ReadDir(dir)
		return err == nil && len(entries) == 1 && entries[0].Name() == "README"
	})
	expectFile(t, filepath.Join(dir, "README"), "ext4 filesystem: damaged: its reader failed on it, so that its files cannot be read.\n")
	expectFile(t, filepath.Join(mnt, "web/b/fs/file"), "two")
}
