package nbd

import (
	"time"

	"github.com/rowan-storage/rowan/nbd/wire"
)

const (
	// maxInlineRead is the length in bytes up to which the reader serves reads
	// itself: what is copied in less time than it takes to wake a worker.
	maxInlineRead = 256 << 10

	// arrivingBytes is how much of a large payload is held while it arrives,
	// more than a socket holds. minPieceBytes is the least that is written at a
	// time but for the last piece; pieces end at multiples of pieceAlign.
	arrivingBytes = 256 << 10
	minPieceBytes = 64 << 10
	pieceAlign    = 4096

	// batchBytes is the size of a batch of replies. One that has no room for
	// the next reply is handed out. maxBatchedRead is the length in bytes of
	// the longest read whose data goes into a batch.
	batchBytes     = 128 << 10
	maxBatchedRead = 32 << 10

	// A write that took longer than slowWrite makes the writes of the next
	// slowPause go to the workers.
	slowWrite = time.Millisecond
	slowPause = 50 * time.Millisecond

	// accompanyFlushes is how many flushes go to the workers at first, and after
	// one during which other requests arrived.
	accompanyFlushes = 100
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
	if s.writesAreSlow() {
		return false, nil
	}
	start := began
	if start.IsZero() {
		start = time.Now()
	}
	return true, s.reply(req, s.writeAt(payload, int64(req.Offset), start), began)
}

// writeArriving serves a large write while its payload arrives: what was just
// received still is in the processor's cache when it is written, and the client
// sends on meanwhile. Of a payload that breaks off, a part is written. After a
// piece that could not be written the rest is taken, and the request fails.
func (s *session) writeArriving(req *wire.Request, payload int, began time.Time) error {
	x, err := s.exchange(*req, arrivingBytes, began)
	if err != nil {
		return err
	}
	defer s.free(x)
	buf := x.buf.payload(arrivingBytes)
	var failed error
	have := 0 // in buf, not written yet
	for off, end := int64(req.Offset), int64(req.Offset)+int64(payload); off < end; {
		left := int(end - off)
		n, err := s.receivePayload(buf[have:min(len(buf), left)], min(left, minPieceBytes)-have, left-have)
		if err != nil {
			return err
		}
		have += n
		piece := have
		if have < left {
			// The last block may be there in part only.
			piece -= int((off + int64(have)) % pieceAlign)
		}
		if failed == nil {
			failed = s.writeAt(buf[:piece], off, time.Now())
		}
		have = copy(buf, buf[piece:have])
		off += int64(piece)
	}
	return s.reply(req, failed, began)
}

// alone tells whether the client seems to wait for the reply to each request
// before it sends the next, as one that flushes after each write, so that the
// reader may wait too.
func (s *session) alone() bool {
	if s.accompany > 0 {
		s.accompany--
		return false
	}
	return len(s.slots) == 0 && !s.in.arrived()
}

// flushInline serves a flush at once, which saves waking a worker. It holds up
// what arrives meanwhile: if anything does, the next flushes go to workers.
func (s *session) flushInline(req *wire.Request, began time.Time) error {
	if err := s.flush(); err != nil {
		return err
	}
	failed := s.export.Flush(s.ctx)
	if s.in.arrived() {
		s.accompany = accompanyFlushes
	}
	return s.reply(req, failed, began)
}

// receivePayload takes from least to len(p) bytes of a payload, as many as have
// arrived, after waiting for the least; left bytes of it are still to come.
func (s *session) receivePayload(p []byte, least, left int) (int, error) {
	if len(s.in.peek()) < least {
		if err := s.flush(); err != nil {
			return 0, err
		}
	}
	s.receiving.begin(left)
	defer s.receiving.end()
	return s.in.readAtLeast(p, least)
}

// writesAreSlow tells whether writes lately had to wait, so that the workers
// had better carry them out.
func (s *session) writesAreSlow() bool {
	if s.slowUntil.IsZero() {
		return false
	}
	if time.Now().Before(s.slowUntil) {
		return true
	}
	s.slowUntil = time.Time{}
	return false
}

// writeAt writes for the reader and sees whether that is slow; it is start now.
func (s *session) writeAt(p []byte, off int64, start time.Time) error {
	_, err := s.export.WriteAt(p, off)
	if now := time.Now(); now.Sub(start) > slowWrite {
		s.slowUntil = now.Add(slowPause)
	}
	return err
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
