package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"sync/atomic"
	"syscall"

	"github.com/rowan-storage/rowan/nbd/wire"
)

// ClientOptions says what Dial connects to.
type ClientOptions struct {
	// Export is the name of the export, "" for the default one.
	Export string
	// TLS, if not nil, makes Dial insist on TLS: it fails where the server has
	// none. An empty ServerName is taken from the address.
	TLS *tls.Config
	// ChangesSince names the snapshots since which Changes will be asked for.
	// Dial fails if the server cannot tell.
	ChangesSince []string
	// Connections is how many connections to use (1), if the server allows for
	// more than one.
	Connections int
}

// Client is an export of a server, in user space. All methods may be called
// concurrently; many requests are under way at a time. An error of the server
// carries a syscall.Errno. Once a connection is lost, all requests fail; the
// client does not connect anew.
type Client struct {
	links []*link
	next  atomic.Uint32
	info  exportInfo
}

// exportInfo is what the handshake told about the export.
type exportInfo struct {
	style     wire.Style
	sizeBytes int64
	flags     uint16
	blocks    wire.BlockSizes
	// contexts are the ids of the metadata contexts by the snapshot since
	// which they tell changes, "" for base:allocation.
	contexts map[string]uint32
}

// maxConnections bounds ClientOptions.Connections.
const maxConnections = 64

// Dial connects to the server at an address as in net.Dial and opens an export
// there. ctx bounds the connecting only.
func Dial(ctx context.Context, network, address string, o ClientOptions) (*Client, error) {
	first, info, err := dialLink(ctx, network, address, o)
	if err != nil {
		return nil, err
	}
	c := &Client{links: []*link{first}, info: info}
	if info.flags&wire.FlagCanMultiConn == 0 {
		return c, nil
	}
	for len(c.links) < min(o.Connections, maxConnections) {
		l, other, err := dialLink(ctx, network, address, o)
		if err == nil && (other.sizeBytes != info.sizeBytes || other.flags != info.flags) {
			l.close()
			err = errors.New("nbd: the export changed while connecting")
		}
		if err != nil {
			c.Close()
			return nil, err
		}
		c.links = append(c.links, l)
	}
	return c, nil
}

// dialLink makes one connection.
func dialLink(ctx context.Context, network, address string, o ClientOptions) (*link, exportInfo, error) {
	conn, info, err := negotiate(ctx, network, address, o, wire.Extended)
	if err != nil {
		return nil, exportInfo{}, err
	}
	return newLink(conn, &info), info, nil
}

// link chooses the connection for the next request.
func (c *Client) link() *link {
	if len(c.links) == 1 {
		return c.links[0]
	}
	return c.links[c.next.Add(1)%uint32(len(c.links))]
}

// Close ends the connections. Requests that are under way fail.
func (c *Client) Close() error {
	for _, l := range c.links {
		l.close()
	}
	return nil
}

// Size returns the length of the export in bytes, as it was when Dial opened
// it.
func (c *Client) Size() int64 { return c.info.sizeBytes }

// ReadOnly tells whether the export takes no writes.
func (c *Client) ReadOnly() bool { return c.info.flags&wire.FlagReadOnly != 0 }

// BlockSizes returns the constraints of the server. Offsets and lengths must be
// multiples of the minimum; what is longer than the maximum is split.
func (c *Client) BlockSizes() wire.BlockSizes { return c.info.blocks }

// ReadAt implements io.ReaderAt.
func (c *Client) ReadAt(p []byte, off int64) (int, error) {
	var end error
	if size := c.info.sizeBytes; off < 0 {
		return 0, c.fail("read", off, syscall.EINVAL)
	} else if off >= size {
		return 0, io.EOF
	} else if int64(len(p)) > size-off {
		p, end = p[:size-off], io.EOF
	}
	done := 0
	for done < len(p) {
		piece := p[done:min(len(p), done+c.maxPayload())]
		err := c.link().do(context.Background(), call{
			Request: wire.Request{Type: wire.CmdRead, Offset: uint64(off) + uint64(done), Length: uint64(len(piece))},
			data:    piece,
		})
		if err != nil {
			return done, c.fail("read", off+int64(done), err)
		}
		done += len(piece)
	}
	return done, end
}

// WriteAt implements io.WriterAt.
func (c *Client) WriteAt(p []byte, off int64) (int, error) {
	if err := c.checkWrite(off, int64(len(p))); err != nil {
		return 0, c.fail("write", off, err)
	}
	done := 0
	for done < len(p) {
		piece := p[done:min(len(p), done+c.maxPayload())]
		err := c.link().do(context.Background(), call{
			Request: wire.Request{Type: wire.CmdWrite, Offset: uint64(off) + uint64(done), Length: uint64(len(piece))},
			data:    piece,
		})
		if err != nil {
			return done, c.fail("write", off+int64(done), err)
		}
		done += len(piece)
	}
	return done, nil
}

// Flush returns once every write that has returned is durable. It does nothing
// if the server does not offer that.
func (c *Client) Flush(ctx context.Context) error {
	if c.info.flags&wire.FlagSendFlush == 0 {
		return nil
	}
	if err := c.link().do(ctx, call{Request: wire.Request{Type: wire.CmdFlush}}); err != nil {
		return c.fail("flush", 0, err)
	}
	return nil
}

// Discard tells the server that a range is not needed any more. It returns
// ENOTSUP if the server does not offer that.
func (c *Client) Discard(ctx context.Context, off, n int64) error {
	return c.effect(ctx, "discard", wire.CmdTrim, wire.FlagSendTrim, off, n)
}

// WriteZeroes makes a range read as zeros. It returns ENOTSUP if the server
// does not offer that.
func (c *Client) WriteZeroes(ctx context.Context, off, n int64) error {
	return c.effect(ctx, "write zeroes", wire.CmdWriteZeroes, wire.FlagSendWriteZeroes, off, n)
}

// effect sends a command that changes a range and has no payload.
func (c *Client) effect(ctx context.Context, what string, cmd wire.Command, flag uint16, off, n int64) error {
	if err := c.checkWrite(off, n); err != nil {
		return c.fail(what, off, err)
	}
	if c.info.flags&flag == 0 {
		return c.fail(what, off, syscall.ENOTSUP)
	}
	for n > 0 {
		piece := min(n, c.maxEffect())
		err := c.link().do(ctx, call{
			Request: wire.Request{Type: cmd, Offset: uint64(off), Length: uint64(piece)},
		})
		if err != nil {
			return c.fail(what, off, err)
		}
		off += piece
		n -= piece
	}
	return nil
}

// Extents calls yield for consecutive extents that cover [off, off+n), until
// yield returns false. An extent that is not data reads as zeros. If the server
// cannot tell, all is data.
func (c *Client) Extents(ctx context.Context, off, n int64, yield func(length int64, data bool) bool) error {
	id, ok := c.info.contexts[""]
	if !ok {
		if err := c.checkRange(off, n); err != nil {
			return c.fail("extents", off, err)
		}
		if n > 0 {
			yield(n, true)
		}
		return nil
	}
	return c.status(ctx, id, off, n, func(length int64, flags uint64) bool {
		return yield(length, flags&uint64(wire.StateZero) == 0)
	})
}

// Changes calls yield for consecutive extents that cover [off, off+n), until
// yield returns false. Where changed is false the content is what it was in the
// snapshot since, which ClientOptions.ChangesSince must have named.
func (c *Client) Changes(ctx context.Context, since string, off, n int64, yield func(length int64, changed bool) bool) error {
	id, ok := c.info.contexts[since]
	if !ok || since == "" {
		return c.fail("changes since "+since, off, syscall.ENOTSUP)
	}
	return c.status(ctx, id, off, n, func(length int64, flags uint64) bool {
		return yield(length, flags&uint64(wire.StateDirty) != 0)
	})
}

// status calls yield for what a metadata context says of [off, off+n).
func (c *Client) status(ctx context.Context, id uint32, off, n int64, yield func(int64, uint64) bool) error {
	if err := c.checkRange(off, n); err != nil {
		return c.fail("block status", off, err)
	}
	for n > 0 {
		piece := min(n, c.maxEffect())
		var extents []wire.StatusExtent
		err := c.link().do(ctx, call{
			Request: wire.Request{Type: wire.CmdBlockStatus, Offset: uint64(off), Length: uint64(piece)},
			context: id, extents: &extents,
		})
		if err != nil {
			return c.fail("block status", off, err)
		}
		for _, e := range extents {
			// The last extent may reach beyond what was asked for.
			length := int64(min(e.Length, uint64(n)))
			if !yield(length, e.Flags) {
				return nil
			}
			off += length
			if n -= length; n == 0 {
				break
			}
		}
	}
	return nil
}

func (c *Client) checkWrite(off, n int64) error {
	if c.ReadOnly() {
		return syscall.EROFS
	}
	if err := c.checkRange(off, n); err != nil {
		return syscall.ENOSPC
	}
	return nil
}

func (c *Client) checkRange(off, n int64) error {
	if off < 0 || n < 0 || off > c.info.sizeBytes || n > c.info.sizeBytes-off {
		return syscall.EINVAL
	}
	return nil
}

// maxPayload is the length of the longest read or write, in bytes.
func (c *Client) maxPayload() int {
	return int(min(c.info.blocks.Maximum, wire.MaxPayload))
}

// maxEffect is the length of the longest command without a payload, in bytes.
func (c *Client) maxEffect() int64 {
	if c.info.style == wire.Extended {
		return math.MaxInt64
	}
	return 1 << 31
}

func (c *Client) fail(what string, off int64, err error) error {
	return fmt.Errorf("nbd: %s at %d: %w", what, off, err)
}
