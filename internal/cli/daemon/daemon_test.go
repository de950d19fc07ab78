package daemon_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/internal/cli/daemon"
)

// argsVariable makes the test binary play rowand with these arguments.
const argsVariable = "DAEMON_TEST_ARGS"

func TestMain(m *testing.M) {
	if args := os.Getenv(argsVariable); args != "" {
		os.Exit(daemon.Main(strings.Fields(args), os.Stdout, os.Stderr, "v1"))
	}
	os.Exit(m.Run())
}

// process is a running daemon.
type process struct {
	cmd    *exec.Cmd
	dir    string
	stderr string
}

func start(t *testing.T, flags ...string) *process {
	t.Helper()
	dir, err := os.MkdirTemp("", "rowan-")
	if err != nil {
		t.Fatal(err)
	}
	p := &process{dir: dir, stderr: filepath.Join(dir, "stderr")}
	t.Cleanup(func() { os.RemoveAll(dir) })
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(p.stderr)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	args := append([]string{"--config", "/dev/null", "--pool", dir + "/pool", "--api", dir + "/api.sock"}, flags...)
	p.cmd = exec.Command(exe)
	p.cmd.Env = append(os.Environ(), argsVariable+"="+strings.Join(args, " "))
	p.cmd.Stderr = f
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	p.waitFor(t, "ready")
	return p
}

// waitFor waits until the log has a text.
func (p *process) waitFor(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if log := p.log(t); strings.Contains(log, text) {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("%q does not come up in\n%s", text, log)
		}
	}
}

func (p *process) log(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(p.stderr)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit == nil {
		return 0
	}
	return exit.ExitCode()
}

func TestSignalsStopItCleanly(t *testing.T) {
	for _, s := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		p := start(t)
		p.signal(t, s)
		if code := exitCode(t, p.cmd.Wait()); code != 0 {
			t.Errorf("%v: exit code %d\n%s", s, code, p.log(t))
		}
		if !strings.Contains(p.log(t), "msg=stopped") {
			t.Errorf("%v: the log does not say that it stopped:\n%s", s, p.log(t))
		}
	}
}

// TestSecondSignalDoesNotWait has a request in flight that never ends.
func TestSecondSignalDoesNotWait(t *testing.T) {
	p := start(t, "--stop-timeout", "10m")
	c, err := net.Dial("unix", p.dir+"/api.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("POST /v1/luns HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")); err != nil {
		t.Fatal(err)
	}
	p.signal(t, syscall.SIGTERM)
	p.waitFor(t, "stopping")
	p.signal(t, syscall.SIGTERM)
	begin := time.Now()
	if code := exitCode(t, p.cmd.Wait()); code != 1 && code != 0 {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("it took %v", took)
	}
}

func TestLogAsJSON(t *testing.T) {
	p := start(t, "--log-format", "json", "--log-level", "debug")
	p.signal(t, syscall.SIGTERM)
	if code := exitCode(t, p.cmd.Wait()); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for line := range strings.Lines(p.log(t)) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
}

func TestFilesAreItsOwn(t *testing.T) {
	p := start(t)
	for name, want := range map[string]os.FileMode{"pool": 0o700, "api.sock": 0o660, "nbd.sock": 0o660, "api.sock.lock": 0o600} {
		info, err := os.Lstat(filepath.Join(p.dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v (%v), want %o", name, info.Mode().Perm(), err, want)
		}
	}
	p.signal(t, syscall.SIGTERM)
	if code := exitCode(t, p.cmd.Wait()); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestHelpNamesEveryFlag(t *testing.T) {
	var out, errs bytes.Buffer
	if code := daemon.Main([]string{"--help"}, &out, &errs, "v1"); code != 0 {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	for _, flag := range []string{"--config", "--check-config", "--pool", "--api", "--nbd ", "--nbd-allow-plaintext",
		"--nbd-tls-cert", "--nbd-tls-key", "--nbd-tls-client-ca", "--log-level", "--log-format", "--stop-timeout"} {
		if !strings.Contains(out.String(), flag) {
			t.Errorf("%s is missing in\n%s", flag, out.String())
		}
	}
}
