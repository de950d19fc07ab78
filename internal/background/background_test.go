package background_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/internal/background"
)

// roleVariable makes the test binary play the new process.
const roleVariable = "BACKGROUND_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(child(role))
	}
	os.Exit(m.Run())
}

// facts is what a ready child says of itself.
type facts struct {
	PID, SID int
	Dir      string
}

func child(role string) int {
	n, err := background.FromEnviron(os.Getenv)
	if err != nil || n == nil {
		fmt.Fprintln(os.Stderr, "no notifier:", err)
		return 1
	}
	switch role {
	case "ready":
		sid, _ := unix.Getsid(0)
		dir, _ := os.Getwd()
		fmt.Fprintln(os.Stderr, "a line for the log")
		if err := n.Ready(facts{os.Getpid(), sid, dir}); err != nil {
			return 1
		}
		time.Sleep(time.Minute)
	case "fail":
		if err := n.Fail(strings.Repeat("because ", 10000), 11); err != nil {
			return 1
		}
	case "die":
		return 3
	case "keep":
		// A thread that cannot end is like this: the pipe stays open.
		keeper := exec.Command("sleep", "30")
		keeper.ExtraFiles = []*os.File{os.NewFile(3, "ready")}
		if err := keeper.Start(); err != nil {
			return 1
		}
		fmt.Fprintln(os.Stderr, keeper.Process.Pid)
		return 3
	case "hang":
		time.Sleep(time.Minute)
	case "babble":
		f := os.NewFile(3, "ready")
		fmt.Fprintln(f, strings.Repeat("x", 1<<20))
	}
	return 0
}

func command(t *testing.T, role string) background.Command {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return background.Command{Path: exe, Env: append(os.Environ(), roleVariable+"="+role)}
}

func TestReady(t *testing.T) {
	c := command(t, "ready")
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c.Log = log
	var f facts
	if err := background.Start(context.Background(), c, &f); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Kill(f.PID, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		// Here it is still our child.
		if _, err := unix.Wait4(f.PID, nil, 0, nil); err != nil {
			t.Error(err)
		}
	}()
	if f.PID == os.Getpid() || f.SID != f.PID || f.Dir != "/" {
		t.Errorf("it runs as %+v, want a session of its own in /", f)
	}
	text, err := os.ReadFile(log.Name())
	if err != nil || string(text) != "a line for the log\n" {
		t.Errorf("the log holds %q (%v)", text, err)
	}
}

func TestFail(t *testing.T) {
	err := background.Start(context.Background(), command(t, "fail"), nil)
	var e *background.Error
	if !errors.As(err, &e) || e.Code != 11 || !strings.HasPrefix(e.Text, "because ") {
		t.Errorf("got %.100v", err)
	}
}

func TestEndWithoutAWord(t *testing.T) {
	for _, role := range []string{"die", "babble"} {
		err := background.Start(context.Background(), command(t, role), nil)
		if err == nil || !strings.Contains(err.Error(), "before it was ready") {
			t.Errorf("%s: got %v", role, err)
		}
	}
}

func TestEndWithThePipeOpen(t *testing.T) {
	c := command(t, "keep")
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c.Log = log
	start := time.Now()
	err = background.Start(context.Background(), c, nil)
	if err == nil || !strings.Contains(err.Error(), "before it was ready") || time.Since(start) > 20*time.Second {
		t.Errorf("got %v after %v", err, time.Since(start))
	}
	text, err := os.ReadFile(log.Name())
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}

func TestGivingUpKillsIt(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := background.Start(ctx, command(t, "hang"), nil)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 30*time.Second {
		t.Errorf("got %v after %v", err, time.Since(start))
	}
}

func TestNotifierOfAnotherProcess(t *testing.T) {
	env := func(value string) func(string) string { return func(string) string { return value } }
	if n, err := background.FromEnviron(env("")); n != nil || err != nil {
		t.Errorf("without the variable: %v, %v", n, err)
	}
	for _, bad := range []string{"x", "0", "1", "2", strconv.Itoa(-1)} {
		if _, err := background.FromEnviron(env(bad)); err == nil {
			t.Errorf("%q is taken for a file descriptor", bad)
		}
	}
}
