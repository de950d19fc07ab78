package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/nbd/wire"
)

// dial connects a Client that is closed at the end of the test.
func dial(t testing.TB, s *testServer, o ClientOptions) *Client {
	t.Helper()
	c, err := Dial(t.Context(), "unix", s.socket, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// A Client is a Device, with all that is optional but TryReadAt.
var (
	_ Device   = (*Client)(nil)
	_ extenter = (*Client)(nil)
	_ changer  = (*Client)(nil)
)

func TestClientIsADevice(t *testing.T) {
	d := newMemDevice(5<<20 + 100)
	s := serveDevice(t, d)
	for _, connections := range []int{0, 1, 3} {
		c := dial(t, s, ClientOptions{Connections: connections})
		if len(c.links) != max(1, connections) {
			t.Errorf("%d connections", len(c.links))
		}
		if c.Size() != 5<<20+100 || c.ReadOnly() || c.BlockSizes() != blockSizes() {
			t.Errorf("size %d, read-only %v, block sizes %v", c.Size(), c.ReadOnly(), c.BlockSizes())
		}
		random := rand.NewChaCha8([32]byte{byte(connections)})
		for _, n := range []int{1, 512, 4096, 100 << 10, 3 << 20} {
			p, q := make([]byte, n), make([]byte, n)
			random.Read(p)
			if m, err := c.WriteAt(p, 333); m != n || err != nil {
				t.Fatal(m, err)
			}
			if m, err := c.ReadAt(q, 333); m != n || err != nil || !bytes.Equal(p, q) {
				t.Fatal(m, err)
			}
			wantEqual(t, d.bytes(333, n), p)
		}
		flushes := d.flushes.Load()
		if err := c.Flush(t.Context()); err != nil || d.flushes.Load() != flushes+1 {
			t.Errorf("flush: %v", err)
		}
		if err := errors.Join(c.Discard(t.Context(), 0, 1<<20), c.WriteZeroes(t.Context(), 1<<20, 1<<20)); err != nil {
			t.Error(err)
		}
		wantEqual(t, d.bytes(0, 2<<20), make([]byte, 2<<20))
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := c.Flush(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

func TestClientReadsLikeAReaderAt(t *testing.T) {
	d := newMemDevice(1000)
	d.fill(0, 1000)
	c := dial(t, serveDevice(t, d), ClientOptions{})
	for _, test := range []struct {
		off  int64
		n    int
		want int
		err  error
	}{
		{0, 1000, 1000, nil}, {0, 1001, 1000, io.EOF}, {999, 5, 1, io.EOF}, {1000, 1, 0, io.EOF},
		{1 << 60, 1, 0, io.EOF}, {5, 0, 0, nil}, {-1, 1, 0, syscall.EINVAL},
	} {
		p := make([]byte, test.n)
		n, err := c.ReadAt(p, test.off)
		if n != test.want || !errors.Is(err, test.err) {
			t.Errorf("%d bytes at %d: %d, %v; want %d, %v", test.n, test.off, n, err, test.want, test.err)
		}
		if n > 0 {
			wantEqual(t, p[:n], d.data[test.off:test.off+int64(n)])
		}
	}
	if _, err := c.WriteAt(make([]byte, 2), 999); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a write beyond the end: %v", err)
	}
	if err := c.Extents(t.Context(), 999, 2, nil); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("extents beyond the end: %v", err)
	}
}

func TestClientErrorsCarryErrnos(t *testing.T) {
	d := newMemDevice(1 << 20)
	var fail error
	h := func(int64, int) error { return fail }
	d.onRead, d.onWrite, d.onFlush = h, h, h
	s := serve(t, Config{}, map[string]*Export{"": {Device: d}, "ro": {Device: d, ReadOnly: true}})
	c := dial(t, s, ClientOptions{})
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC, syscall.EPERM, syscall.ENOMEM, syscall.ESHUTDOWN} {
		fail = errno
		_, read := c.ReadAt(make([]byte, 512), 0)
		_, write := c.WriteAt(make([]byte, 512), 0)
		for _, err := range []error{read, write, c.Flush(t.Context())} {
			if got, ok := errors.AsType[syscall.Errno](err); !ok || got != errno {
				t.Errorf("%v, want %v", err, errno)
			}
		}
	}
	ro := dial(t, s, ClientOptions{Export: "ro"})
	if _, err := ro.WriteAt([]byte{1}, 0); !ro.ReadOnly() || !errors.Is(err, syscall.EROFS) {
		t.Errorf("%v", err)
	}
	if err := ro.Discard(t.Context(), 0, 1); !errors.Is(err, syscall.EROFS) {
		t.Errorf("%v", err)
	}
}

// collect returns what a query yields, merged.
func collect(t *testing.T, query func(yield func(int64, bool) bool) error) []run {
	t.Helper()
	var runs []run
	at := 0
	err := query(func(n int64, data bool) bool {
		if last := len(runs) - 1; last >= 0 && runs[last].data == data {
			runs[last].n += int(n)
		} else {
			runs = append(runs, run{at, int(n), data})
		}
		at += int(n)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return runs
}

func TestClientExtentsAndChanges(t *testing.T) {
	s := serveStatus(t, statusDevice())
	c := dial(t, s, ClientOptions{ChangesSince: []string{"monday"}})
	got := collect(t, func(yield func(int64, bool) bool) error { return c.Extents(t.Context(), 100, 5*testPage, yield) })
	want := []run{{0, 2*testPage - 100, false}, {2*testPage - 100, 2 * testPage, true}, {4*testPage - 100, testPage + 100, false}}
	if !slices.Equal(got, want) {
		t.Errorf("extents %v, want %v", got, want)
	}
	got = collect(t, func(yield func(int64, bool) bool) error {
		return c.Changes(t.Context(), "monday", 0, 10*testPage, yield)
	})
	want = []run{{0, 3 * testPage, false}, {3 * testPage, testPage, true}, {4 * testPage, 6 * testPage, false}}
	if !slices.Equal(got, want) {
		t.Errorf("changes %v, want %v", got, want)
	}
	calls := 0
	if err := c.Extents(t.Context(), 0, 10*testPage, func(int64, bool) bool { calls++; return false }); err != nil || calls != 1 {
		t.Errorf("stopped after %d calls, %v", calls, err)
	}
	if err := c.Changes(t.Context(), "tuesday", 0, 1, nil); !errors.Is(err, syscall.ENOTSUP) {
		t.Errorf("a snapshot that Dial was not told of: %v", err)
	}
	if err := c.Changes(t.Context(), "", 0, 1, nil); !errors.Is(err, syscall.ENOTSUP) {
		t.Errorf("no snapshot: %v", err)
	}
	if _, err := Dial(t.Context(), "unix", s.socket, ClientOptions{ChangesSince: []string{"tuesday"}}); !errors.Is(err, syscall.ENOTSUP) {
		t.Errorf("a snapshot that is not there: %v", err)
	}
}

func TestClientMapsALargeExport(t *testing.T) {
	const pages = 3 * 7000
	d := newMemDevice(pages * testPage)
	for p := 0; p < pages; p += 3 {
		d.mapped[p] = true
	}
	c := dial(t, serveDevice(t, d), ClientOptions{})
	got := collect(t, func(yield func(int64, bool) bool) error { return c.Extents(t.Context(), 0, pages*testPage, yield) })
	if len(got) != pages/3*2 {
		t.Errorf("%d extents", len(got))
	}
	for _, r := range got {
		if p := r.start / testPage; r.data != (p%3 == 0) || r.n != testPage*(1+p%3) {
			t.Fatalf("%v", r)
		}
	}
	huge := dial(t, serveDevice(t, &hugeDevice{size: 100 << 40}), ClientOptions{})
	got = collect(t, func(yield func(int64, bool) bool) error { return huge.Extents(t.Context(), 0, 100<<40, yield) })
	if want := []run{{0, 100 << 40, false}}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestClientWithoutExtents(t *testing.T) {
	c := dial(t, serveDevice(t, plainDevice{newMemDevice(1 << 20)}), ClientOptions{})
	got := collect(t, func(yield func(int64, bool) bool) error { return c.Extents(t.Context(), 0, 1<<20, yield) })
	if want := []run{{0, 1 << 20, true}}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

// Many goroutines at the same time, checked against a model.
func TestClientConcurrently(t *testing.T) {
	for _, connections := range []int{1, 4} {
		d := newMemDevice(16 << 20)
		c := dial(t, serveDevice(t, d), ClientOptions{Connections: connections})
		var all sync.WaitGroup
		for g := range 16 {
			all.Go(func() {
				random := rand.New(rand.NewPCG(uint64(g), 7))
				model := make([]byte, 1<<20) // each has a MiB of its own
				base := int64(g) << 20
				p := make([]byte, 1<<20)
				for range 150 {
					n := 1 + random.IntN(9000)
					if random.IntN(20) == 0 {
						n = 1 + random.IntN(200<<10)
					}
					off := random.IntN(len(model) - n)
					if err := step(t.Context(), random.IntN(6), c, model, base, off, p[:n], random); err != nil {
						t.Errorf("goroutine %d: %v", g, err)
						return
					}
				}
			})
		}
		all.Wait()
	}
}

// step does one operation on the client and on the model.
func step(ctx context.Context, what int, c *Client, model []byte, base int64, off int, p []byte, random *rand.Rand) error {
	at := base + int64(off)
	switch what {
	case 0:
		clear(model[off : off+len(p)])
		return c.WriteZeroes(ctx, at, int64(len(p)))
	case 1:
		return c.Flush(ctx)
	case 2, 3:
		for i := range p {
			p[i] = byte(random.Uint32())
		}
		copy(model[off:], p)
		_, err := c.WriteAt(p, at)
		return err
	}
	if _, err := c.ReadAt(p, at); err != nil {
		return err
	}
	if !bytes.Equal(p, model[off:off+len(p)]) {
		return fmt.Errorf("%d bytes at %d differ", len(p), at)
	}
	return nil
}

func TestClientContextEndsWaiting(t *testing.T) {
	d := newMemDevice(1 << 20)
	release := make(chan struct{})
	d.onFlush = func(int64, int) error { <-release; return nil }
	c := dial(t, serveDevice(t, d), ClientOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 2 * linkDepth { // half of them do not even get a slot
		all.Go(func() {
			if err := c.Flush(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
		})
	}
	eventually(t, "flushes begin", func() bool { return d.flushes.Load() > 0 })
	cancel()
	all.Wait()
	close(release)
	// The slots come free when the replies are there.
	for range 2 * linkDepth {
		if err := c.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ended, "unix", "/nowhere", ClientOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Dial: %v", err)
	}
}

func TestClientFailsWhenTheServerIsGone(t *testing.T) {
	d := newMemDevice(1 << 20)
	begun := make(chan struct{}, 64)
	s := serveDevice(t, waitingDevice{d, begun})
	c := dial(t, s, ClientOptions{})
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() { errs <- c.Flush(context.Background()) }()
	}
	<-begun
	s.Close()
	for range cap(errs) {
		if err := <-errs; err == nil {
			t.Error("a flush succeeded")
		}
	}
	_, err := c.ReadAt(make([]byte, 1), 0)
	if errno, ok := errors.AsType[syscall.Errno](err); !ok || errno == 0 {
		t.Errorf("%v carries no errno", err)
	}
}

func TestClientCloseEndsRequests(t *testing.T) {
	begun := make(chan struct{}, 1)
	c := dial(t, serveDevice(t, waitingDevice{newMemDevice(1 << 20), begun}), ClientOptions{})
	done := make(chan error, 1)
	go func() { done <- c.Flush(context.Background()) }()
	<-begun
	c.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
}

func TestDialTimeout(t *testing.T) {
	address, _ := fakeServer(t, []byte("NBD"))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, "tcp", address, ClientOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// Servers that can do less than ours.
func TestClientInEveryStyle(t *testing.T) {
	d := newMemDevice(3 << 20)
	d.fill(1<<20, 1<<20)
	s := serveDevice(t, d)
	for _, style := range styles() {
		conn, info, err := negotiate(t.Context(), "unix", s.socket, ClientOptions{}, style)
		if err != nil {
			t.Fatal(err)
		}
		if info.style != style {
			t.Errorf("style %d, want %d", info.style, style)
		}
		c := &Client{links: []*link{newLink(conn, &info)}, info: info}
		p := make([]byte, 3<<20)
		if _, err := c.ReadAt(p, 0); err != nil || !bytes.Equal(p, d.bytes(0, 3<<20)) {
			t.Errorf("style %d: reading: %v", style, err)
		}
		if _, err := c.WriteAt(p[1<<20:], 0); err != nil {
			t.Errorf("style %d: writing: %v", style, err)
		}
		if _, err := c.WriteAt(p[:1<<20], 0); err != nil || !bytes.Equal(p[:1<<20], d.bytes(0, 1<<20)) {
			t.Errorf("style %d: writing: %v", style, err)
		}
		d.WriteAt(p, 0)
		if err := c.Discard(t.Context(), 0, 4096); err != nil {
			t.Errorf("style %d: %v", style, err)
		}
		_, known := c.info.contexts[""]
		if known != (style != wire.Simple) {
			t.Errorf("style %d: contexts %v", style, c.info.contexts)
		}
		c.Close()
	}
}
