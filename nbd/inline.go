package nbd

import (
	"time"

	"github.com/rowan-storage/rowan/nbd/wire"
)

const (
	// maxInlineRead and maxInlineWrite are the lengths in bytes up to which
	// the reader serves requests itself: what is copied in less time than it
	// takes to wake a worker.
	maxInlineRead  = 256 << 10
	maxInlineWrite = 256 << 10

	// batchBytes is the size of a batch of replies. One that has no room for
	// the next reply is handed out. maxBatchedRead is the length in bytes of
	// the longest read whose data goes into a batch.
	batchBytes     = 128 << 10
	maxBatchedRead = 32 << 10

	// A write that took longer than slowWrite makes the writes of the next
	// slowPause go to the workers.
	slowWrite = time.Millisecond
	slowPause = 50 * time.Millisecond
)

// readInline serves a read at once if that needs no waiting.
func (s *session) readInline(req *wire.Request, began time.Time) (done bool, err error) {
	n := int(req.Length)
	head := s.dataHeadBytes()
	b, err := s.room(head + n)
	if err != nil {
		return false, err
	}
	if s.try.TryReadAt(b[head:], int64(req.Offset)) != nil {
		return false, nil
	}
	s.putDataHead(b, req, req.Offset, n, wire.ChunkFlagDone)
	s.commit(head + n)
	s.observe(req, 0, began)
	return true, nil
}

// readAlone serves a read that is too long for a batch, at once if that needs
// no waiting.
func (s *session) readAlone(req wire.Request, began time.Time) error {
	n := int(req.Length)
	x, err := s.exchange(req, n, began)
	if err != nil {
		return err
	}
	if s.try.TryReadAt(x.buf.payload(n), int64(req.Offset)) != nil {
		return s.enqueue(x)
	}
	s.addData(x, 0, n, wire.ChunkFlagDone)
	s.observe(&req, 0, began)
	if err := s.flush(); err != nil {
		s.free(x)
		return err
	}
	s.out.send(x)
	return nil
}

// writeInline serves a write at once, unless writes have been slow.
func (s *session) writeInline(req *wire.Request, payload []byte, began time.Time) (done bool, err error) {
	start := began
	if start.IsZero() {
		start = time.Now()
	}
	if start.Before(s.slowUntil) {
		return false, nil
	}
	_, failed := s.export.WriteAt(payload, int64(req.Offset))
	if now := time.Now(); now.Sub(start) > slowWrite {
		s.slowUntil = now.Add(slowPause)
	}
	return true, s.reply(req, failed, began)
}

// refuse answers a request that is not carried out.
func (s *session) refuse(req *wire.Request, why error, began time.Time) error {
	return s.reply(req, why, began)
}

// reply adds to the batch the reply to a request that returns no data.
func (s *session) reply(req *wire.Request, failed error, began time.Time) error {
	b, err := s.room(maxHeadBytes)
	if err != nil {
		return err
	}
	errno := wire.FromError(failed)
	s.commit(len(s.appendResult(b[:0], req, errno, failed)))
	s.observe(req, errno, began)
	return nil
}

// room returns n bytes at the end of the batch, which commit adds to it.
func (s *session) room(n int) ([]byte, error) {
	if s.batch != nil && s.batched()+n > batchBytes {
		if err := s.flush(); err != nil {
			return nil, err
		}
	}
	if s.batch == nil {
		x := s.unusedExchange()
		x.buf = s.pool.get(batchBytes)
		x.out = append(x.out, x.buf.payload(0))
		s.batch = x
	}
	return s.batch.buf.payload(batchBytes)[s.batched():][:n], nil
}

// batched is the length of the batch.
func (s *session) batched() int { return len(s.batch.out[0]) }

// commit adds the first n bytes of what room returned to the batch.
func (s *session) commit(n int) {
	s.batch.out[0] = s.batch.buf.payload(s.batched() + n)
}

// flush hands the batch to the outbox. It waits while the client has too many
// replies to take.
func (s *session) flush() error {
	if s.batch == nil {
		return nil
	}
	x := s.batch
	s.batch = nil
	if err := s.out.waitRoom(); err != nil {
		s.free(x)
		return err
	}
	s.out.send(x)
	return nil
}
