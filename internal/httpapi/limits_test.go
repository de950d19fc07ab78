package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/internal/httpapi/client"
	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

func TestAPanicIsAnAnswer(t *testing.T) {
	f := start(t)
	f.engine.panics = true
	_, err := f.client.LUNs(context.Background())
	var p *wire.Problem
	if !errors.As(err, &p) || p.Code != wire.Internal {
		t.Errorf("got %v, want a problem", err)
	}
	f.engine.panics = false
	if _, err := f.client.LUNs(context.Background()); err != nil {
		t.Errorf("the server does not answer any more: %v", err)
	}
}

func TestTooManyRequests(t *testing.T) {
	f := start(t)
	f.engine.block = make(chan struct{})
	f.engine.entered = make(chan struct{})
	var wg sync.WaitGroup
	const allowed = 64
	for range allowed {
		wg.Go(func() {
			if _, err := f.client.CreateLUN(context.Background(), "a", 4096); err != nil {
				t.Error(err)
			}
		})
		<-f.engine.entered
	}
	_, err := f.client.Status(context.Background())
	var p *wire.Problem
	if !errors.As(err, &p) || p.Code != wire.Busy {
		t.Errorf("request %d: %v, want %s", allowed+1, err, wire.Busy)
	}
	close(f.engine.block)
	wg.Wait()
	if _, err := f.client.Status(context.Background()); err != nil {
		t.Errorf("after the rush: %v", err)
	}
}

func TestAClientThatLeavesIsNoticed(t *testing.T) {
	f := start(t)
	f.engine.block = make(chan struct{})
	f.engine.entered = make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := f.client.CreateLUN(ctx, "a", 4096)
		done <- err
	}()
	<-f.engine.entered
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	// The engine's call ends with the request, so that the cleanup's Shutdown
	// does not wait for it.
}

func TestShutdownLetsRequestsEnd(t *testing.T) {
	f := start(t)
	f.engine.block = make(chan struct{})
	f.engine.entered = make(chan struct{})
	answered := make(chan error, 1)
	go func() {
		_, err := f.client.CreateLUN(context.Background(), "a", 4096)
		answered <- err
	}()
	<-f.engine.entered
	down := make(chan error, 1)
	go func() { down <- f.server.Shutdown(context.Background()) }()
	// New clients are refused from then on.
	for {
		c, err := net.Dial("unix", f.socket)
		if err != nil {
			break
		}
		c.Close()
		time.Sleep(time.Millisecond)
	}
	close(f.engine.block)
	if err := <-answered; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
}

func TestShutdownIsBounded(t *testing.T) {
	f := start(t)
	f.engine.block = make(chan struct{})
	f.engine.entered = make(chan struct{})
	answered := make(chan error, 1)
	go func() {
		_, err := f.client.CreateLUN(context.Background(), "a", 4096)
		answered <- err
	}()
	<-f.engine.entered
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.server.Shutdown(ctx); err == nil {
		t.Error("no error though a request was cut off")
	}
	if err := <-answered; err == nil {
		t.Error("the request that was cut off succeeded")
	}
}

func TestHugeHeaderIsRefused(t *testing.T) {
	f := start(t)
	c, err := net.Dial("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The server may close before it has read all of this.
	go fmt.Fprintf(c, "GET /v1/status HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", strings.Repeat("x", 1<<20))
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %d", res.StatusCode)
	}
}

// TestHugeBodyIsNotRead sends a body without end. The server answers or hangs
// up before it has taken more than a little of it.
func TestHugeBodyIsNotRead(t *testing.T) {
	f := start(t)
	c, err := net.Dial("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "POST /v1/luns HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", int64(1)<<40); err != nil {
		t.Fatal(err)
	}
	sent, chunk := 0, []byte(strings.Repeat(" ", 1<<16))
	for err == nil {
		if sent > 16<<20 {
			t.Fatalf("the server took %d bytes", sent)
		}
		var n int
		n, err = c.Write(chunk)
		sent += n
	}
}

// TestBodyThatIsCutOff: that is the client's doing.
func TestBodyThatIsCutOff(t *testing.T) {
	f := start(t)
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: f.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("POST /v1/luns HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var p wire.Problem
	if err := json.NewDecoder(res.Body).Decode(&p); err != nil || res.StatusCode != http.StatusBadRequest || p.Code != wire.Invalid {
		t.Errorf("status %d, problem %+v (%v), want 400 and %s", res.StatusCode, p, err, wire.Invalid)
	}
}

// TestShutdownEndsSilentConnections: who has not asked for anything is not
// waited for.
func TestShutdownEndsSilentConnections(t *testing.T) {
	f := start(t)
	c, err := net.Dial("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := f.client.Status(context.Background()); err != nil { // accepted after c
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	if err := f.server.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

func TestUnreachable(t *testing.T) {
	c := client.New(t.TempDir() + "/none.sock")
	_, err := c.Status(context.Background())
	var u *client.UnreachableError
	if !errors.As(err, &u) || !strings.Contains(err.Error(), "none.sock") {
		t.Errorf("got %v", err)
	}
}

func TestServerThatIsNotAnAppliance(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 500 Oops\r\nContent-Length: 5\r\n\r\nsorry",
		"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<ht>",
		"220 mail.example ESMTP\r\n",
	} {
		socket := t.TempDir() + "/s"
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			c, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
				t.Error(err)
			}
			if _, err := c.Write([]byte(answer)); err != nil {
				t.Error(err)
			}
		})
		c := client.New(socket)
		_, err = c.Status(context.Background())
		var u *client.UnreachableError
		if !errors.As(err, &u) {
			t.Errorf("%q: got %v", answer, err)
		}
		wg.Wait()
		l.Close()
		c.Close()
	}
}
