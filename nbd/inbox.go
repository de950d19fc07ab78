package nbd

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// inboxBytes is the size of the buffer that requests are read into.
	inboxBytes = 128 << 10
	// maxInboxPayload is the length in bytes of the longest payload that is
	// served from there. Longer ones have buffers of their own.
	maxInboxPayload = 64 << 10
	// afterLargeBytes is how much is read at a time after a large payload: the
	// next request is likely to have one too, which is better read to where it
	// belongs than copied there.
	afterLargeBytes = 64
)

// inbox reads the requests of one connection, as many with one system call as
// have arrived.
type inbox struct {
	conn   net.Conn
	socket syscall.RawConn // nil if conn is none itself, as with TLS
	buf    []byte
	r, w   int // what lies in buf[r:w] was received and not taken yet
	// afterLarge is set when the last request had a large payload.
	afterLarge bool
}

func newInbox(conn net.Conn) inbox {
	in := inbox{conn: conn, buf: make([]byte, inboxBytes)}
	if c, ok := conn.(syscall.Conn); ok {
		in.socket, _ = c.SyscallConn()
	}
	return in
}

// arrived tells whether more has arrived than was taken. It is never sure that
// nothing has, where the connection is no socket itself.
func (in *inbox) arrived() bool {
	if len(in.peek()) > 0 || in.socket == nil {
		return true
	}
	n := 0
	err := in.socket.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return err != nil || n > 0
}

// peek returns what was received and not taken yet.
func (in *inbox) peek() []byte { return in.buf[in.r:in.w] }

// take marks the next n bytes of peek as taken. They stay valid until fill.
func (in *inbox) take(n int) { in.r += n }

// fill waits for more to arrive. It invalidates what peek returned.
func (in *inbox) fill() error {
	switch {
	case in.r == in.w:
		in.r, in.w = 0, 0
	case in.r > 0 && len(in.buf)-in.w < len(in.buf)/2:
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	room := in.buf[in.w:]
	if in.afterLarge {
		room = room[:min(len(room), afterLargeBytes)]
		in.afterLarge = false
	}
	n, err := in.conn.Read(room)
	in.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// readAtLeast takes from least to len(p) bytes into p, as many as have arrived,
// and returns how many.
func (in *inbox) readAtLeast(p []byte, least int) (int, error) {
	n := copy(p, in.peek())
	in.take(n)
	in.afterLarge = true
	if n >= least {
		return n, nil
	}
	k, err := io.ReadAtLeast(in.conn, p[n:], least-n)
	return n + k, unexpected(err)
}

// discard takes n bytes and forgets them.
func (in *inbox) discard(n int) error {
	for {
		have := min(n, len(in.peek()))
		in.take(have)
		if n -= have; n == 0 {
			return nil
		}
		if err := in.fill(); err != nil {
			return err
		}
	}
}
