package systemd

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fileOf is a listening socket as systemd passes it.
func fileOf(t *testing.T, network, address string) (*os.File, string) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	f, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	return f, l.Addr().String()
}

func TestSocketsAreFoundByTheirAddresses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	unix, _ := fileOf(t, "unix", path)
	tcp, port := fileOf(t, "tcp", "127.0.0.1:0")
	s, err := take([]*os.File{unix, tcp})
	if err != nil {
		t.Fatal(err)
	}
	if s.Listener("unix", path+"x") != nil || s.Listener("tcp", path) != nil {
		t.Error("a socket was found under an address that is not its own")
	}
	for _, a := range [][2]string{{"unix", path}, {"tcp", port}} {
		l := s.Listener(a[0], a[1])
		if l == nil {
			t.Fatalf("no socket for %v", a)
		}
		if s.Listener(a[0], a[1]) != nil {
			t.Errorf("the socket for %v was handed over twice", a)
		}
		l.Close()
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the socket's file was removed: %v", err)
	}
}

func TestSocketsThatNobodyWants(t *testing.T) {
	tcp, port := fileOf(t, "tcp", "127.0.0.1:0")
	s, err := take([]*os.File{tcp})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), port) {
		t.Errorf("the error is %v, want one that names %s", err, port)
	}
}

func TestNoSocket(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := take([]*os.File{f}); err == nil {
		t.Error("a file was taken for a socket")
	}
	t.Setenv("LISTEN_PID", "1")
	t.Setenv("LISTEN_FDS", "1")
	s, err := TakeSockets()
	if err != nil || len(s.byAddress) != 0 {
		t.Errorf("sockets of another process were taken: %v, %v", s, err)
	}
}
