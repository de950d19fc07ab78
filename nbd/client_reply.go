package nbd

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/rowan-storage/rowan/nbd/wire"
)

const (
	// maxStatusBytes is the length of the longest block status that a client
	// takes: as many extents as the specification lets a server send.
	maxStatusBytes = 8 + 16<<20
	// maxErrorBytes is the length of the longest error that a client takes.
	maxErrorBytes = 2 * wire.MaxString
	// maxGaps is how scattered the chunks of a read may arrive.
	maxGaps = 1024
)

// replyState is what has arrived of a reply.
type replyState struct {
	err      error               // of the first error chunk
	covered  coverage            // by the data and holes of a read
	extents  []wire.StatusExtent // the status of the call's context
	contexts []uint32            // the contexts whose status is there
}

// errReply is a reply that makes no sense.
var errReply = errors.New("the server broke the protocol")

func badReply(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errReply}, args...)...)
}

// receive takes replies until the connection ends or makes no sense.
func (l *link) receive() error {
	for {
		b, err := l.r.Peek(4)
		if err != nil {
			if err == io.EOF && len(b) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		n, err := l.style.ReplyBytes(b)
		if err != nil {
			return err
		}
		if b, err = l.r.Peek(n); err != nil {
			return io.ErrUnexpectedEOF
		}
		r, err := wire.ParseReply(b, l.style)
		if err != nil {
			return err
		}
		l.r.Discard(n)
		i, s := l.slot(r.Cookie)
		if s == nil {
			return badReply("a reply to no request")
		}
		done, err := l.take(s, &r)
		if err != nil {
			return err
		}
		if done {
			l.finish(i, s.reply.err)
		}
	}
}

// slot returns the slot whose call a cookie belongs to, nil if there is none.
// While it is busy only receive and fail, which follows it, look at its call.
func (l *link) slot(cookie uint64) (uint32, *slot) {
	i := uint32(cookie)
	if i >= linkDepth {
		return 0, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.slots[i]
	if !s.busy || s.Cookie != cookie {
		return 0, nil
	}
	return i, s
}

// take takes what follows the header of a reply and tells whether the reply is
// complete. An error is one of the connection.
func (l *link) take(s *slot, r *wire.Reply) (done bool, err error) {
	if r.Simple {
		return true, l.takeSimple(s, r)
	}
	if l.style == wire.Extended && r.Offset != s.Offset {
		return false, badReply("a reply with the offset of another request")
	}
	done = r.Flags&wire.ChunkFlagDone != 0
	switch {
	case r.Type.IsError():
		err = l.takeError(s, r)
	case r.Type == wire.ChunkNone:
		if r.Length != 0 || !done {
			return false, badReply("an empty chunk of %d bytes", r.Length)
		}
	case r.Type == wire.ChunkOffsetData && s.Type == wire.CmdRead:
		err = l.takeData(s, r)
	case r.Type == wire.ChunkOffsetHole && s.Type == wire.CmdRead:
		err = l.takeHole(s, r)
	case (r.Type == wire.ChunkBlockStatus || r.Type == wire.ChunkBlockStatusExt) && s.Type == wire.CmdBlockStatus:
		err = l.takeStatus(s, r)
	default:
		return false, badReply("a chunk of type %d in reply to %v", r.Type, s.Type)
	}
	if err != nil || !done || s.reply.err != nil {
		return done, err
	}
	if s.Type == wire.CmdRead && !s.reply.covered.all(s.Length) {
		return false, badReply("a read with parts missing")
	}
	if s.Type == wire.CmdBlockStatus && len(s.reply.extents) == 0 {
		return false, badReply("a block status without the context asked for")
	}
	return true, nil
}

func (l *link) takeSimple(s *slot, r *wire.Reply) error {
	if r.Errno != 0 {
		s.reply.err = r.Errno.Errno()
		return nil
	}
	switch {
	case s.Type == wire.CmdBlockStatus || s.Type == wire.CmdRead && l.style != wire.Simple:
		return badReply("a simple reply to %v", s.Type)
	case s.Type == wire.CmdRead:
		return l.full(s.data)
	}
	return nil
}

// full reads all of p.
func (l *link) full(p []byte) error {
	_, err := io.ReadFull(l.r, p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// payload reads a payload that is no longer than a limit.
func (l *link) payload(r *wire.Reply, limit uint64) ([]byte, error) {
	if r.Length > limit {
		return nil, badReply("a chunk of type %d with %d bytes", r.Type, r.Length)
	}
	b := make([]byte, r.Length)
	return b, l.full(b)
}

func (l *link) takeError(s *slot, r *wire.Reply) error {
	b, err := l.payload(r, maxErrorBytes)
	if err != nil {
		return err
	}
	errno, message, err := wire.ParseError(b)
	if err != nil {
		return err
	}
	if s.reply.err == nil {
		s.reply.err = errno.Errno()
		if message != "" {
			s.reply.err = fmt.Errorf("%w: server says %q", errno.Errno(), message)
		}
	}
	return nil
}

func (l *link) takeData(s *slot, r *wire.Reply) error {
	if r.Length <= wire.DataOffsetSize || r.Length-wire.DataOffsetSize > s.Length {
		return badReply("%d bytes of data in reply to a read of %d", r.Length, s.Length)
	}
	b := l.scratch[:wire.DataOffsetSize]
	if err := l.full(b); err != nil {
		return err
	}
	offset, err := wire.ParseDataOffset(b)
	if err != nil {
		return err
	}
	p, err := s.part(offset, r.Length-wire.DataOffsetSize)
	if err != nil {
		return err
	}
	return l.full(p)
}

func (l *link) takeHole(s *slot, r *wire.Reply) error {
	if r.Length != wire.HoleSize {
		return badReply("a hole of %d bytes", r.Length)
	}
	b := l.scratch[:wire.HoleSize]
	if err := l.full(b); err != nil {
		return err
	}
	offset, n, err := wire.ParseHole(b)
	if err != nil {
		return err
	}
	p, err := s.part(offset, n)
	if err != nil {
		return err
	}
	clear(p)
	return nil
}

// part returns the room for n bytes from offset of a read, which must not have
// arrived before.
func (s *slot) part(offset, n uint64) ([]byte, error) {
	start := offset - s.Offset
	if offset < s.Offset || start > s.Length || n > s.Length-start {
		return nil, badReply("data from beyond the range of the read")
	}
	if !s.reply.covered.add(start, start+n) {
		return nil, badReply("data twice, or in too many pieces")
	}
	return s.data[start : start+n], nil
}

func (l *link) takeStatus(s *slot, r *wire.Reply) error {
	b, err := l.payload(r, maxStatusBytes)
	if err != nil {
		return err
	}
	id, extents, err := wire.ParseStatus(b, r.Type)
	if err != nil {
		return err
	}
	if !l.contexts[id] || slices.Contains(s.reply.contexts, id) {
		return badReply("a status of context %d", id)
	}
	s.reply.contexts = append(s.reply.contexts, id)
	if id == s.context {
		s.reply.extents = extents
	}
	return nil
}

// coverage is which parts of a read have arrived: ranges in order, none
// touching the next.
type coverage struct {
	ranges []span
}

// span is the range from start up to end.
type span struct{ start, end uint64 }

// add adds [start, end). It reports false if a part of it was there before, or
// if there are too many ranges.
func (c *coverage) add(start, end uint64) bool {
	i, _ := slices.BinarySearchFunc(c.ranges, start, func(r span, at uint64) int {
		if r.end < at {
			return -1
		}
		return 1
	})
	// ranges[i] is the first that ends at or after start.
	if i < len(c.ranges) && c.ranges[i].end == start {
		if i+1 < len(c.ranges) && c.ranges[i+1].start < end {
			return false
		}
		c.ranges[i].end = end
		if i+1 < len(c.ranges) && c.ranges[i+1].start == end {
			c.ranges[i].end = c.ranges[i+1].end
			c.ranges = slices.Delete(c.ranges, i+1, i+2)
		}
		return true
	}
	if i < len(c.ranges) && c.ranges[i].start < end {
		return false
	}
	if i < len(c.ranges) && c.ranges[i].start == end {
		c.ranges[i].start = start
		return true
	}
	if len(c.ranges) == maxGaps {
		return false
	}
	c.ranges = slices.Insert(c.ranges, i, span{start, end})
	return true
}

// all tells whether [0, n) is covered.
func (c *coverage) all(n uint64) bool {
	return n == 0 || len(c.ranges) == 1 && c.ranges[0] == span{0, n}
}
