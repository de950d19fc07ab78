package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/test/harness"
)

// TestSocketActivation: where somebody else, as systemd does, listens for the
// daemon, clients wait while it is not there and none is refused.
func TestSocketActivation(t *testing.T) {
	harness.Need(t, "nbdinfo")
	dir := harness.ShortDir(t)
	api, nbdSocket := filepath.Join(dir, "api.sock"), filepath.Join(dir, "nbd.sock")
	var files []*os.File
	for _, path := range []string{api, nbdSocket} {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f, err := l.(*net.UnixListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	start := func() *exec.Cmd {
		t.Helper()
		// The shell knows the number of the process that the daemon will be.
		cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=2 exec "$@"`, "sh",
			harness.Bin("rowand"), "--pool", filepath.Join(dir, "pool"), "--api", api, "--nbd", "unix:"+nbdSocket)
		cmd.ExtraFiles, cmd.Stderr = files, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	stop := func(cmd *exec.Cmd) {
		t.Helper()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatalf("stopping: %v", err)
		}
	}
	early := make(chan harness.Result, 1)
	ask := func(name string, args ...string) {
		r, err := harness.Exec(t.Context(), name, args...)
		if err != nil {
			t.Error(err)
		}
		early <- r
	}
	go ask(harness.Bin("rowan"), "--api", api, "lun", "create", "web", "--size", "16M")
	time.Sleep(50 * time.Millisecond) // nobody is there yet
	daemon := start()
	if r := <-early; r.Code != 0 {
		t.Errorf("a client that came before the daemon: %s", r.Stderr)
	}
	stop(daemon)

	go ask("nbdinfo", "nbd+unix:///web?socket="+nbdSocket)
	time.Sleep(50 * time.Millisecond)
	daemon = start()
	if r := <-early; r.Code != 0 {
		t.Errorf("a client that came between two daemons: %s", r.Stderr)
	}
	stop(daemon)
}
