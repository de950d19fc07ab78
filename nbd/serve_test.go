package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// waitTime bounds every wait of a test for something that has to happen.
const waitTime = 20 * time.Second

// testServer is a Server on a unix socket.
type testServer struct {
	*Server
	exports *memExports
	socket  string
}

// serve serves exports until the end of the test, and checks that each one
// opened is closed then.
func serve(t testing.TB, c Config, byName map[string]*Export) *testServer {
	t.Helper()
	exports := &memExports{byName: byName, errs: map[string]error{}}
	c.Exports = exports
	s := &testServer{Server: NewServer(c), exports: exports, socket: filepath.Join(socketDir(t), "s")}
	s.listen(t, "unix", s.socket, nil)
	t.Cleanup(func() {
		s.Close()
		if n := exports.count(); n != 0 {
			t.Errorf("%d exports are still open", n)
		}
	})
	return s
}

// socketDir is a folder with a name that is short enough for a socket.
func socketDir(t testing.TB) string {
	dir, err := os.MkdirTemp("", "nbd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// listen makes s serve on one more address, which it returns.
func (s *testServer) listen(t testing.TB, network, address string, config *tls.Config) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l, config) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; !errors.Is(err, ErrServerClosed) {
			t.Errorf("Serve returned %v", err)
		}
	})
	return l.Addr().String()
}

// serveDevice serves one device as the default export.
func serveDevice(t testing.TB, d Device) *testServer {
	t.Helper()
	return serve(t, Config{Logger: testLogger(t)}, map[string]*Export{"": {Device: d}})
}

func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// need returns the path of a program. Without it the test cannot be made:
// then it is skipped, or fails in CI.
func need(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	if os.Getenv("ROWAN_CI") != "" {
		t.Fatalf("%s is not installed", program)
	}
	t.Skipf("%s is not installed", program)
	return ""
}

// mustRun runs a program that has to succeed and returns what it says.
func mustRun(t testing.TB, program string, args ...string) string {
	t.Helper()
	out, err := tryRun(t, program, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return out
}

// tryRun runs a program.
func tryRun(t testing.TB, program string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, need(t, program), args...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// uri is how libnbd and its kin call an export.
func (s *testServer) uri(export string) string {
	return "nbd+unix:///" + export + "?socket=" + s.socket
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(waitTime); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, waitTime)
		}
	}
}

// mustReadFull reads len(p) bytes.
func mustReadFull(t testing.TB, r io.Reader, p []byte) {
	t.Helper()
	if _, err := io.ReadFull(r, p); err != nil {
		t.Fatalf("reading %d bytes: %v", len(p), err)
	}
}

func wantEqual(t testing.TB, got, want []byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d bytes, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("byte %d is %#x, want %#x", i, got[i], want[i])
		}
	}
}

func wantFile(t testing.TB, file string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, got, want)
}

// noTime is a deadline that leaves a moment to receive what was sent before.
func noTime() time.Time { return time.Now().Add(50 * time.Millisecond) }
