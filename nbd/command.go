package nbd

import (
	"errors"
	"io"
	"syscall"

	"github.com/rowan-storage/rowan/nbd/wire"
)

// scratchBytes is how much is read or zeroed at a time by a command that has
// no payload.
const scratchBytes = 256 << 10

// check returns why req is not carried out, nil if nothing speaks against it.
// The range of a block status with a payload is checked later.
func (s *session) check(req *wire.Request) error {
	if why := s.checkFlags(req); why != nil {
		return why
	}
	if s.export.ReadOnly && (req.Type == wire.CmdWrite || req.Type == wire.CmdTrim || req.Type == wire.CmdWriteZeroes) {
		return &refusal{syscall.EPERM, "the export is read-only"}
	}
	switch req.Type {
	case wire.CmdFlush:
		if req.Offset != 0 || req.Length != 0 {
			return &refusal{syscall.EINVAL, "a flush has neither offset nor length"}
		}
		return nil
	case wire.CmdDisc:
		return nil
	case wire.CmdRead, wire.CmdCache:
		if req.Length > wire.MaxPayload {
			return &refusal{syscall.EINVAL, "longer than the maximum block size"}
		}
	case wire.CmdBlockStatus:
		if len(s.contexts) == 0 {
			return &refusal{syscall.EINVAL, "no metadata context was selected"}
		}
		if req.Flags&wire.CmdFlagPayloadLen != 0 {
			if req.Length > 8+4*maxContexts {
				return &refusal{syscall.EINVAL, "too many metadata contexts"}
			}
			return nil
		}
		if req.Length == 0 {
			return &refusal{syscall.EINVAL, "block status of no bytes"}
		}
	}
	return s.checkRange(req.Type, req.Offset, req.Length)
}

// checkFlags returns why the command or its flags are not understood.
func (s *session) checkFlags(req *wire.Request) error {
	allowed := wire.CmdFlagFUA
	switch req.Type {
	case wire.CmdRead:
		if s.style != wire.Simple {
			allowed |= wire.CmdFlagDF
		}
	case wire.CmdWrite:
		if s.style == wire.Extended {
			if req.Flags&wire.CmdFlagPayloadLen == 0 {
				return &refusal{syscall.EINVAL, "a write without a payload"}
			}
			allowed |= wire.CmdFlagPayloadLen
		}
	case wire.CmdWriteZeroes:
		allowed |= wire.CmdFlagNoHole | wire.CmdFlagFastZero
	case wire.CmdBlockStatus:
		allowed |= wire.CmdFlagReqOne
		if s.style == wire.Extended {
			allowed |= wire.CmdFlagPayloadLen
		}
	case wire.CmdDisc, wire.CmdFlush, wire.CmdTrim, wire.CmdCache:
	default:
		return &refusal{syscall.EINVAL, "no such command"}
	}
	if req.Flags&^allowed != 0 {
		return &refusal{syscall.EINVAL, "a command flag that does not apply"}
	}
	return nil
}

// checkRange returns why [off, off+n) may not be used by a command. The errors
// are those that the specification names under "Error values".
func (s *session) checkRange(c wire.Command, off, n uint64) error {
	size := uint64(s.export.Size())
	if off <= size && n <= size-off {
		return nil
	}
	errno := syscall.EINVAL
	if c == wire.CmdWrite || c == wire.CmdWriteZeroes {
		errno = syscall.ENOSPC
	}
	return &refusal{errno, "beyond the end of the export"}
}

// bufferFor is the size of the buffer that a request with a payload of n bytes
// needs, 0 if it needs none.
func (s *session) bufferFor(req *wire.Request, n int) int {
	switch req.Type {
	case wire.CmdRead:
		return int(req.Length)
	case wire.CmdCache:
		return int(min(req.Length, scratchBytes))
	case wire.CmdBlockStatus:
		return max(n, s.statusBytes(req))
	default:
		return n
	}
}

// carryOut does what x asks for and makes the reply.
func (s *session) carryOut(x *exchange) {
	var err error
	made := false
	switch x.Type {
	case wire.CmdRead:
		made, err = s.readData(x)
	case wire.CmdWrite:
		_, err = s.export.WriteAt(x.in, int64(x.Offset))
	case wire.CmdFlush:
		err = s.export.Flush(s.ctx)
	case wire.CmdTrim:
		err = s.trim(x)
	case wire.CmdCache:
		err = s.cache(x)
	case wire.CmdWriteZeroes:
		err = s.writeZeroes(x)
	case wire.CmdBlockStatus:
		made, err = s.blockStatus(x)
	}
	if err == nil && x.Flags&wire.CmdFlagFUA != 0 && !s.export.ReadOnly {
		switch x.Type {
		case wire.CmdWrite, wire.CmdTrim, wire.CmdWriteZeroes:
			err = s.export.Flush(s.ctx)
		}
	}
	errno := wire.FromError(err)
	if !made || errno != 0 {
		s.freeBuffer(x)
		x.out = append(x.out[:0], s.appendResult(x.head[:0], &x.Request, errno, err))
	}
	s.observe(&x.Request, errno, x.began)
}

// readData reads what x asks for and makes the reply, unless that fails.
func (s *session) readData(x *exchange) (made bool, err error) {
	n := int(x.Length)
	if n >= minSparseRead && s.style != wire.Simple && x.Flags&wire.CmdFlagDF == 0 {
		if made, err := s.readSparse(x); made || err != nil {
			return made, err
		}
	}
	if err := s.readAt(x.buf.payload(n), int64(x.Offset)); err != nil {
		return false, err
	}
	s.addData(x, 0, n, wire.ChunkFlagDone)
	return true, nil
}

// readAt reads all of p.
func (s *session) readAt(p []byte, off int64) error {
	n, err := s.export.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// addData adds to the reply the n bytes at start of the payload of x, with
// their header right before them.
func (s *session) addData(x *exchange, start, n int, flags uint16) {
	head := s.dataHeadBytes()
	b := x.buf.mem[headroom+start-head : headroom+start+n]
	s.putDataHead(b, &x.Request, x.Offset+uint64(start), n, flags)
	x.out = append(x.out, b)
}

// trim tells the device that a range is not needed. Whether it can make use of
// that is its own matter: the command is a hint.
func (s *session) trim(x *exchange) error {
	err := s.export.Discard(s.ctx, int64(x.Offset), int64(x.Length))
	if errors.Is(err, syscall.ENOTSUP) {
		return nil
	}
	return err
}

// cache reads the range, so that the next read finds it in memory.
func (s *session) cache(x *exchange) error {
	for off, end := x.Offset, x.Offset+x.Length; off < end; {
		n := min(end-off, scratchBytes)
		if err := s.readAt(x.buf.payload(int(n)), int64(off)); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// writeZeroes zeroes the range. NBD_CMD_FLAG_NO_HOLE asks for space to be
// taken up, so the zeros are written.
func (s *session) writeZeroes(x *exchange) error {
	off, n := int64(x.Offset), int64(x.Length)
	fast := x.Flags&wire.CmdFlagFastZero != 0
	if x.Flags&wire.CmdFlagNoHole == 0 {
		err := s.export.WriteZeroes(s.ctx, off, n)
		if fast || !errors.Is(err, syscall.ENOTSUP) {
			return err
		}
	} else if fast {
		return &refusal{syscall.ENOTSUP, "zeros without holes have to be written"}
	}
	for n > 0 {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		piece := min(n, int64(len(s.zeros)))
		if _, err := s.export.WriteAt(s.zeros[:piece], off); err != nil {
			return err
		}
		off += piece
		n -= piece
	}
	return nil
}
