package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"
)

// ErrServerClosed is returned by Serve after Shutdown or Close.
var ErrServerClosed = errors.New("nbd: server closed")

// Config says what a Server serves.
type Config struct {
	Exports  Exports
	Logger   *slog.Logger // nil: nothing is logged
	Observer Observer     // nil: nobody is told
	Limits   Limits
}

// Server serves exports to NBD clients. Its methods may be called
// concurrently.
type Server struct {
	exports  Exports
	log      *slog.Logger
	observer Observer
	limits   Limits

	pool   bufferPool
	memory *semaphore.Weighted // Limits.TotalMemoryBytes
	zeros  []byte              // never written to
	clock  stallClock

	// ctx ends all requests. It is cancelled when waiting for them is given up.
	ctx    context.Context
	cancel context.CancelFunc

	running   sync.WaitGroup // connections, and the watch over them
	mu        sync.Mutex
	closing   bool
	watching  chan struct{} // closed to end the watch; nil before it starts
	listeners map[net.Listener]struct{}
	// handshakes counts the clients of each listener that are in the handshake.
	handshakes map[net.Listener]int
	conns      map[*conn]struct{}
	full       bool // clients are turned away, and the log says so
}

// NewServer returns a server that Serve makes serve.
func NewServer(c Config) *Server {
	s := &Server{
		exports: c.Exports, log: c.Logger, observer: c.Observer, limits: c.Limits.withDefaults(),
		zeros:     make([]byte, scratchBytes),
		listeners: map[net.Listener]struct{}{}, handshakes: map[net.Listener]int{},
		conns: map[*conn]struct{}{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.memory = semaphore.NewWeighted(s.limits.TotalMemoryBytes)
	s.clock.timeout = s.limits.StallTimeout
	s.clock.period = max(s.limits.StallTimeout/16, time.Millisecond)
	s.clock.tick.Store(1)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Serve accepts clients from l until Shutdown or Close, and then returns
// ErrServerClosed, or until accepting fails for good. It closes l. It may be
// called for several listeners at the same time.
//
// If tlsConfig is not nil, clients have to start TLS before they are told
// anything ("FORCEDTLS mode"); client certificates are asked for as it says.
// If it is nil, there is no TLS ("NOTLS mode").
func (s *Server) Serve(l net.Listener, tlsConfig *tls.Config) error {
	if tlsConfig != nil {
		tlsConfig = tlsConfig.Clone()
		tlsConfig.MinVersion = max(tlsConfig.MinVersion, tls.VersionTLS12)
	}
	if !s.track(l) {
		l.Close()
		return ErrServerClosed
	}
	defer s.untrack(l)
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			s.accepted(l, nc, tlsConfig)
		case s.isClosing():
			return ErrServerClosed
		case passing(err):
			s.log.Warn("nbd: accepting a client failed", "err", err)
			select {
			case <-time.After(100 * time.Millisecond): // file descriptors may come free
			case <-s.ctx.Done():
			}
		default:
			return err
		}
	}
}

// Shutdown stops accepting clients, lets the requests that were received
// finish, and disconnects all. When ctx ends first, it disconnects them at
// once, cancels their requests and returns the context's error without waiting
// further.
func (s *Server) Shutdown(ctx context.Context) error {
	for _, c := range s.stop() {
		c.drain()
	}
	done := make(chan struct{})
	go func() {
		s.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		s.cancel()
		return nil
	case <-ctx.Done():
		s.abort()
		return ctx.Err()
	}
}

// Close disconnects all clients at once, cancels their requests, and waits
// until those have returned.
func (s *Server) Close() error {
	s.stop()
	s.abort()
	s.running.Wait()
	return nil
}

// stop stops accepting clients and watching them, and returns those there are.
func (s *Server) stop() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing && s.watching != nil {
		close(s.watching)
	}
	s.closing = true
	for l := range s.listeners {
		l.Close()
	}
	return s.connections()
}

// abort breaks all connections.
func (s *Server) abort() {
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.abort()
	}
}

func (s *Server) track(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.listeners[l] = struct{}{}
	if s.watching == nil {
		s.watching = make(chan struct{})
		s.running.Go(func() { s.watch(s.watching) })
	}
	return true
}

func (s *Server) untrack(l net.Listener) {
	l.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

func (s *Server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// connections lists the clients. s.mu is held.
func (s *Server) connections() []*conn {
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}

// accepted serves a new client, unless there are too many.
func (s *Server) accepted(l net.Listener, nc net.Conn, tlsConfig *tls.Config) {
	c := newConn(s, nc, tlsConfig)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || !s.roomFor(l) {
		nc.Close()
		if !s.closing && !s.full {
			s.full = true
			s.log.Warn("nbd: too many clients, turning more away", "limit", s.limits.MaxConnections, "client", c.peer)
		}
		return
	}
	s.full = false
	s.conns[c] = struct{}{}
	s.handshakes[l]++
	c.entered = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.handshakes[l]--; s.handshakes[l] == 0 {
			delete(s.handshakes, l)
		}
	}
	s.running.Go(func() {
		c.serve()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	})
}

// roomFor tells whether there is room for one more client of a listener. Who
// can only reach one that anybody reaches keeps nobody from another. s.mu is
// held.
func (s *Server) roomFor(l net.Listener) bool {
	most := s.limits.MaxConnections
	if l.Addr().Network() != "unix" {
		most -= most / 8
	}
	return len(s.conns) < most && s.handshakes[l] < max(s.limits.MaxConnections/4, 16)
}

// watch disconnects clients that have stalled, until end is closed.
func (s *Server) watch(end <-chan struct{}) {
	t := time.NewTicker(s.clock.period)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-end:
			return
		}
		s.clock.tick.Add(1)
		s.mu.Lock()
		conns := s.connections()
		s.mu.Unlock()
		for _, c := range conns {
			if c.stalled() {
				s.log.Warn("nbd: client has stalled", "client", c.peer, "timeout", s.limits.StallTimeout)
				c.abort()
			}
		}
	}
}

// passing tells whether accepting may succeed later.
func passing(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.ECONNABORTED, syscall.EPROTO, syscall.EPERM,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
