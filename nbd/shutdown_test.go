package nbd

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/nbd/wire"
)

// shutdown calls Shutdown in the background.
func (s *testServer) shutdown(ctx context.Context) <-chan error {
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(ctx) }()
	return done
}

func TestShutdownLetsRequestsFinish(t *testing.T) {
	d := newMemDevice(8 << 20)
	release := make(chan struct{})
	d.onFlush = func(int64, int) error { <-release; return nil }
	s := serveDevice(t, d)
	idle, shaking := entered(t, s, wire.Simple), greeted(t, s)
	c := entered(t, s, wire.Structured)
	for range 5 {
		c.request(wire.Request{Type: wire.CmdFlush, Cookie: 9})
	}
	// A write whose payload is not there is not in flight.
	part := entered(t, s, wire.Simple)
	part.request(wire.Request{Type: wire.CmdWrite, Length: 4 << 20}, 1, 2, 3)
	eventually(t, "all flushes begin", func() bool { return d.flushes.Load() == 5 })
	done := s.shutdown(t.Context())
	idle.wantClosed()
	shaking.wantClosed()
	part.wantClosed()
	eventually(t, "the socket is closed", func() bool {
		conn, err := net.Dial("unix", s.socket)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	select {
	case err := <-done:
		t.Fatalf("Shutdown returned %v with requests in flight", err)
	case <-time.After(20 * time.Millisecond):
	}
	close(release)
	for range 5 {
		if a := c.read(wire.Request{Type: wire.CmdFlush, Cookie: 9}); a.errno != 0 {
			t.Errorf("error %d", a.errno)
		}
	}
	c.wantClosed()
	c.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if d.writes.Load() != 0 {
		t.Error("a write was done without its payload")
	}
}

// The replies to requests that were received reach a client that went on
// sending.
func TestShutdownUnderLoad(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		d := newMemDevice(8 << 20)
		s := serveDevice(t, d)
		address := s.socket
		if network == "tcp" {
			address = s.listen(t, "tcp", "127.0.0.1:0", nil)
		}
		c, err := Dial(t.Context(), network, address, ClientOptions{})
		if err != nil {
			t.Fatal(err)
		}
		const writers = 8
		acknowledged := make(chan int64, writers)
		for w := range int64(writers) {
			go func() {
				var n int64
				for {
					if _, err := c.WriteAt([]byte{1}, w<<20+n); err != nil {
						acknowledged <- n
						return
					}
					n++
				}
			}()
		}
		eventually(t, "there is load", func() bool { return d.writes.Load() > 1000 })
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		for range writers {
			<-acknowledged
		}
		c.Close()
	}
}

func TestShutdownGivesUp(t *testing.T) {
	d := newMemDevice(1 << 20)
	begun := make(chan struct{}, 1)
	s := serve(t, Config{}, map[string]*Export{"": {Device: waitingDevice{d, begun}}})
	c := entered(t, s, wire.Simple)
	c.request(wire.Request{Type: wire.CmdFlush})
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown returned %v", err)
	}
	io.Copy(io.Discard, c)
	eventually(t, "the request is cancelled", func() bool { return s.exports.count() == 0 })
}

func TestCloseCancelsRequests(t *testing.T) {
	begun := make(chan struct{}, 1)
	s := serve(t, Config{}, map[string]*Export{"": {Device: waitingDevice{newMemDevice(1 << 20), begun}}})
	c := entered(t, s, wire.Simple)
	c.request(wire.Request{Type: wire.CmdFlush})
	<-begun
	s.Close()
	if n := s.exports.count(); n != 0 {
		t.Errorf("%d exports are open after Close", n)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown after Close: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(l, nil); !errors.Is(err, ErrServerClosed) {
		t.Errorf("Serve after Close: %v", err)
	}
	if _, err := l.Accept(); err == nil {
		t.Error("Serve after Close leaves the listener open")
	}
}

// waitingDevice flushes until its context ends.
type waitingDevice struct {
	*memDevice
	begun chan struct{}
}

func (d waitingDevice) Flush(ctx context.Context) error {
	d.begun <- struct{}{}
	<-ctx.Done()
	return ctx.Err()
}

// A connection that breaks cancels what it asked for.
func TestBrokenConnectionCancelsRequests(t *testing.T) {
	begun := make(chan struct{}, 8)
	d := newMemDevice(32 << 20)
	d.fill(0, len(d.data))
	s := serve(t, Config{}, map[string]*Export{"": {Device: waitingDevice{d, begun}}})
	c := entered(t, s, wire.Simple)
	c.request(wire.Request{Type: wire.CmdFlush})
	<-begun
	// A reply that cannot be sent is what tells the server.
	c.request(wire.Request{Type: wire.CmdRead, Length: 32 << 20})
	mustReadFull(t, c, make([]byte, 1))
	c.Close()
	eventually(t, "the flush is cancelled", func() bool { return s.exports.count() == 0 })
}

// failingListener fails for a while, then for good.
type failingListener struct {
	net.Listener
	errs []error
}

func (l *failingListener) Accept() (net.Conn, error) {
	err := l.errs[0]
	l.errs = l.errs[1:]
	return nil, err
}

func TestServeOutlivesPassingErrors(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	final := errors.New("the network is gone")
	l := &failingListener{inner, []error{syscall.EMFILE, &net.OpError{Op: "accept", Err: syscall.ECONNABORTED}, final}}
	s := NewServer(Config{Exports: &memExports{}})
	defer s.Close()
	if err := s.Serve(l, nil); !errors.Is(err, final) || len(l.errs) != 0 {
		t.Errorf("Serve returned %v", err)
	}
}
