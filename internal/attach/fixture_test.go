package attach_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/internal/attach"
	"github.com/rowan-storage/rowan/internal/background"
)

// childVariable makes the test binary play a holder; it holds a childSpec.
const childVariable = "ATTACH_TEST_CHILD"

type childSpec struct{ Dir, ID, Export, File string }

func TestMain(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		os.Exit(child(text))
	}
	os.Exit(m.Run())
}

// child holds a device on a file of the disk.
func child(text string) int {
	var spec childSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	n, err := background.FromEnviron(os.Getenv)
	if err != nil || n == nil {
		fmt.Fprintln(os.Stderr, "no notifier:", err)
		return 2
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	detach := make(chan struct{})
	go func() {
		for range signals {
			detach <- struct{}{}
		}
	}()
	err = attach.Hold(context.Background(), attach.HoldOptions{
		Dir: spec.Dir, ID: spec.ID, Export: spec.Export, Backend: fileBackend{spec.File},
		Ready:  func(r attach.Record) error { return n.Ready(r) },
		Detach: detach, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		// Only the first word counts; the caller has gone on since otherwise.
		_ = n.Fail(err.Error(), 1)
		return 1
	}
	return 0
}

// fileBackend serves a file of the disk. Removing FILE.up breaks the
// connection.
type fileBackend struct{ file string }

func (fileBackend) Kernel(context.Context, string) (attach.KernelDevice, error) {
	return nil, errors.ErrUnsupported
}

// ServeFile mounts the directory of the file on dir.
func (b fileBackend) ServeFile(_ context.Context, _, dir string, _ bool) (attach.FileServer, error) {
	if _, err := os.Stat(b.file); err != nil {
		return nil, err
	}
	if err := unix.Mount(filepath.Dir(b.file), dir, "", unix.MS_BIND, ""); err != nil {
		return nil, err
	}
	s := &fileServer{file: b.file, dir: dir, lost: make(chan struct{}), closed: make(chan struct{})}
	go s.watch()
	return s, nil
}

type fileServer struct {
	file, dir    string
	lost, closed chan struct{}
}

func (s *fileServer) Path() string          { return filepath.Join(s.dir, filepath.Base(s.file)) }
func (s *fileServer) Lost() <-chan struct{} { return s.lost }

func (s *fileServer) Close() error {
	if err := unix.Unmount(s.dir, 0); err != nil {
		return err
	}
	close(s.closed)
	return nil
}

func (s *fileServer) watch() {
	for {
		if _, err := os.Stat(s.file + ".up"); err != nil {
			close(s.lost)
			return
		}
		select {
		case <-s.closed:
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// fixture is a manager whose holders serve one file.
type fixture struct {
	*attach.Manager
	t    *testing.T
	base string
	file string

	holders []int // that are children of this process
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	needLoop(t)
	dir := t.TempDir()
	f := &fixture{t: t, base: filepath.Join(dir, "base"), file: filepath.Join(dir, "data", "content")}
	if err := os.Mkdir(filepath.Dir(f.file), 0o700); err != nil {
		t.Fatal(err)
	}
	f.write("", 8<<20)
	f.write(".up", 0)
	f.Manager = &attach.Manager{Dir: attach.DirOf(f.base, "/run/x/api.sock"), Start: f.start}
	t.Cleanup(f.cleanup)
	return f
}

func (f *fixture) write(suffix string, size int64) {
	f.t.Helper()
	if err := os.WriteFile(f.file+suffix, nil, 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Truncate(f.file+suffix, size); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) start(ctx context.Context, id, export string, log *os.File) (attach.Record, error) {
	exe, err := os.Executable()
	if err != nil {
		return attach.Record{}, err
	}
	spec, err := json.Marshal(childSpec{f.Dir, id, export, f.file})
	if err != nil {
		return attach.Record{}, err
	}
	var r attach.Record
	err = background.Start(ctx, background.Command{
		Path: exe, Env: append(os.Environ(), childVariable+"="+string(spec)), Log: log,
	}, &r)
	return r, err
}

// cleanup detaches what is left and checks that nothing is.
func (f *fixture) cleanup() {
	records, err := f.List()
	if err != nil {
		f.t.Error(err)
	}
	for _, r := range records {
		if _, err := f.Detach(context.Background(), r.Device); err != nil {
			f.t.Error(err)
		}
	}
	f.expectNothingLeft()
	for _, pid := range f.holders {
		reap(pid)
	}
}

func (f *fixture) expectNothingLeft() {
	f.t.Helper()
	if _, err := os.Lstat(f.base); !os.IsNotExist(err) {
		left, _ := filepath.Glob(filepath.Join(f.base, "*", "*"))
		f.t.Errorf("left behind: %v (%v)", left, err)
	}
	out, err := exec.Command("losetup", "-j", f.file).Output()
	if err != nil || len(out) > 0 {
		f.t.Errorf("loop devices are left: %s (%v)", out, err)
	}
}

func (f *fixture) attach(export string) attach.Record {
	f.t.Helper()
	r, err := f.Attach(context.Background(), export)
	if err != nil {
		f.t.Fatal(err)
	}
	f.holders = append(f.holders, r.PID)
	return r
}

// reap waits for a holder that was our child.
func reap(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}

func needLoop(t *testing.T) {
	t.Helper()
	missing := ""
	if os.Geteuid() != 0 {
		missing = "root, to make loop devices"
	} else if _, err := os.Stat("/dev/loop-control"); err != nil {
		missing = err.Error()
	}
	for _, program := range []string{"losetup", "mkfs.ext4", "mount", "umount"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = program
		}
	}
	if missing == "" {
		return
	}
	if os.Getenv("ROWAN_CI") != "" {
		t.Fatal("missing: " + missing)
	}
	t.Skip("missing: " + missing)
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	reap(pid)
}
