package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// lingerTime is how long a drained connection waits for its client to hang up,
// so that the last replies are not lost to a reset.
const lingerTime = time.Second

// socketBufferBytes is how much of replies the system is asked to hold for a
// client on a unix socket. TCP finds its own measure.
const socketBufferBytes = 1 << 20

// conn is one client.
type conn struct {
	srv  *Server
	nc   net.Conn    // what was accepted
	tls  *tls.Config // nil: no TLS
	peer string      // who it is, for logs and listings
	// entered is called once when the handshake is over.
	entered func()

	mu       sync.Mutex
	session  *session // nil before the transmission phase
	draining bool
}

func newConn(s *Server, nc net.Conn, tlsConfig *tls.Config) *conn {
	return &conn{srv: s, nc: nc, tls: tlsConfig, peer: describePeer(nc), entered: func() {}}
}

// serve does all of a connection, from the greeting to the close.
func (c *conn) serve() {
	defer c.nc.Close()
	if c.srv.observer != nil {
		c.srv.observer.ConnectionOpened()
		defer c.srv.observer.ConnectionClosed()
	}
	ctx, cancel := context.WithTimeout(c.srv.ctx, c.srv.limits.HandshakeTimeout)
	c.setDeadline(time.Now().Add(c.srv.limits.HandshakeTimeout))
	h := &handshake{conn: c.nc, tlsConfig: c.tls, exports: c.srv.exports, limits: c.srv.limits, client: c.peer}
	n, err := h.run(ctx)
	cancel()
	c.entered()
	if err != nil {
		if !errors.Is(err, errAborted) && !errors.Is(err, io.EOF) {
			c.srv.log.Info("nbd: handshake failed", "client", h.client, "err", err)
		}
		closeTLS(h.conn)
		return
	}
	c.transmit(h, n)
}

// transmit does the transmission phase.
func (c *conn) transmit(h *handshake, n *negotiated) {
	log := c.srv.log.With("client", h.client, "export", n.export.Name)
	defer func() {
		if n.export.Close == nil {
			return
		}
		if err := n.export.Close(); err != nil {
			log.Warn("nbd: closing the export failed", "err", err)
		}
	}()
	if u, ok := c.nc.(*net.UnixConn); ok {
		// Larger pieces of large replies. The system may allow for less.
		u.SetWriteBuffer(socketBufferBytes)
	}
	s := newSession(c.srv, h.conn, n)
	if !c.begin(s) {
		return
	}
	log.Info("nbd: client connected", "read_only", n.export.ReadOnly, "tls", h.tls)
	err := s.run()
	if err != nil {
		log.Info("nbd: client disconnected", "err", err)
	} else {
		log.Info("nbd: client disconnected")
	}
	c.finish(h.conn, err)
}

// setDeadline bounds the handshake, unless drain has ended it.
func (c *conn) setDeadline(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.draining {
		c.nc.SetDeadline(t)
	}
}

// begin makes s known to drain. It reports false if that was called before.
func (c *conn) begin(s *session) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining {
		return false
	}
	c.nc.SetDeadline(time.Time{})
	c.session = s
	return true
}

// finish ends a connection in order if nothing is wrong with it: the client
// sees all replies, then the end.
func (c *conn) finish(nc net.Conn, err error) {
	if err != nil {
		return
	}
	closeTLS(nc)
	c.mu.Lock()
	draining := c.draining
	c.mu.Unlock()
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !draining || !ok || half.CloseWrite() != nil {
		return
	}
	// Requests that were not read any more make close send a reset.
	c.nc.SetReadDeadline(time.Now().Add(lingerTime))
	io.Copy(io.Discard, io.LimitReader(c.nc, 1<<30))
}

// drain ends the handshake at once, or the transmission phase when what was
// received is answered.
func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	if c.session == nil {
		c.nc.SetDeadline(time.Unix(1, 0))
		return
	}
	c.session.drain()
}

// abort breaks the connection and cancels its requests.
func (c *conn) abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	if c.session != nil {
		c.session.cancel()
	}
	c.nc.Close()
}

// stalled tells whether the client stalls the transmission phase. The
// handshake has a deadline.
func (c *conn) stalled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session != nil && c.session.stalled()
}

// closeTLS says goodbye if nc speaks TLS ("the server MUST close down the TLS
// session").
func closeTLS(nc net.Conn) {
	if t, ok := nc.(*tls.Conn); ok {
		t.CloseWrite()
	}
}
