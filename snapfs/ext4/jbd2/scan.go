package jbd2

import (
	"context"
	"encoding/binary"
	"fmt"
)

// record is one block that the log says is to be written.
type record struct {
	target  uint64
	source  uint32 // block of the journal
	tid     TID
	escaped bool
	bad     bool // contradicts the checksum in its tag
}

// revokeBlock is where a revoke block was seen.
type revokeBlock struct {
	block uint32
	tid   TID
}

// scan is one walk over the log, from its start to where it breaks off.
type scan struct {
	j    *Journal
	pos  uint32 // next block
	used uint32 // blocks of the ring walked over

	tid         TID      // transaction being read
	records     []record // of all transactions so far
	revokes     []revokeBlock
	committed   int // how many of the records are of committed transactions
	revokesKept int // and of the revokes

	v1Sum      uint32 // of the transaction being read
	suspect    error  // a descriptor or revoke block of it that fails its checksum
	lastCommit uint64 // seconds
	damage     error  // why the walk ended, if that is not how a crash leaves a log

	buf  []byte // for data blocks
	left int64  // bytes that may still be read
}

const (
	// dataChunk is how many bytes of data blocks are read at once.
	dataChunk = 1 << 20

	// maxScanBytes is how much of a log is read. The largest journal that mke2fs
	// makes by itself is 1 GiB, and a log is shorter than its journal.
	maxScanBytes = 16 << 30

	// maxRecords is how many blocks a log may write: 8 GiB with blocks of 4 KiB.
	maxRecords = 1 << 21

	// maxLookBeyond is how many blocks beyond the end of the log are looked at.
	maxLookBeyond = 1 << 14
)

func newScan(j *Journal) *scan {
	return &scan{
		j:     j,
		pos:   j.start,
		tid:   j.sequence,
		v1Sum: ^uint32(0),
		buf:   make([]byte, max(dataChunk/j.blockSize, 1)*j.blockSize),
		left:  maxScanBytes,
	}
}

// read fills p, whole blocks, from block on. It ends the scan when ctx does, or
// when the log is longer than any is.
func (s *scan) read(ctx context.Context, p []byte, block uint32) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("jbd2: reading the log: %w", err)
	}
	if s.left -= int64(len(p)); s.left < 0 {
		return unsupportedf("more than %d bytes in the log", int64(maxScanBytes))
	}
	return s.j.readBlocks(p, block)
}

// run walks the log. Afterwards only what was committed is left in records and
// revokes. An error is one of read.
func (s *scan) run(ctx context.Context) error {
	block := make([]byte, s.j.blockSize)
	for more := true; more; {
		if s.used >= s.j.last-s.j.first {
			s.damage = corruptf("the log has no end")
			break
		}
		if err := s.read(ctx, block, s.pos); err != nil {
			return err
		}
		h, ok := parseHeader(block)
		if !ok || h.tid != s.tid {
			if err := s.checkEnd(ctx); err != nil {
				return err
			}
			break
		}
		s.advance(1)
		var err error
		switch h.typ {
		case typeDescriptor:
			more, err = s.descriptor(ctx, block)
		case typeRevoke:
			s.revoke(block)
		case typeCommit:
			more, err = s.commit(ctx, block)
		default:
			more = false
		}
		if err != nil {
			return err
		}
	}
	s.records = s.records[:s.committed]
	s.revokes = s.revokes[:s.revokesKept]
	return nil
}

// advance moves n blocks on; n is less than the ring is long.
func (s *scan) advance(n uint32) {
	s.used += n
	s.pos = s.j.wrap(uint64(s.pos) + uint64(n))
}

// wrap brings a block number that may lie beyond the ring back into it.
func (j *Journal) wrap(block uint64) uint32 {
	if block >= uint64(j.last) {
		block -= uint64(j.last - j.first)
	}
	return uint32(block)
}

// descriptor takes the data blocks that a descriptor block tells of. It
// returns false at the end of the walk.
func (s *scan) descriptor(ctx context.Context, block []byte) (more bool, err error) {
	if !s.j.tailOK(block) && s.suspect == nil {
		s.suspect = corruptf("transaction %d: descriptor block before block %d: wrong checksum", s.tid, s.pos)
	}
	if s.j.v1 {
		s.v1Sum = crc32BE(s.v1Sum, block)
	}
	tags := s.j.tags(block)
	if uint32(len(tags)) >= s.j.last-s.j.first-s.used {
		s.damage = corruptf("transaction %d: longer than the log", s.tid)
		return false, nil
	}
	if len(s.records) > maxRecords-len(tags) {
		return false, unsupportedf("more than %d blocks in the log", maxRecords)
	}
	if s.suspect != nil { // nothing will come of it, but its commit block is wanted
		s.advance(uint32(len(tags)))
		return true, nil
	}
	return true, s.data(ctx, tags)
}

// data notes, and where there are checksums verifies, the blocks of the tags,
// which follow in the log.
func (s *scan) data(ctx context.Context, tags []tag) error {
	bs := s.j.blockSize
	verify := s.j.checksummed() || s.j.v1
	for len(tags) > 0 {
		n := min(len(tags), len(s.buf)/bs, int(s.j.last-s.pos))
		if verify {
			if err := s.read(ctx, s.buf[:n*bs], s.pos); err != nil {
				return err
			}
		}
		for i, t := range tags[:n] {
			r := record{target: t.target, source: s.pos + uint32(i), tid: s.tid, escaped: t.flags&tagEscaped != 0}
			if verify {
				data := s.buf[i*bs : (i+1)*bs]
				r.bad = !s.j.dataOK(t, s.tid, data)
				if s.j.v1 {
					s.v1Sum = crc32BE(s.v1Sum, data)
				}
			}
			s.records = append(s.records, r)
		}
		s.advance(uint32(n))
		tags = tags[n:]
	}
	return nil
}

func (s *scan) revoke(block []byte) {
	_, err := s.j.revoked(block)
	if !s.j.tailOK(block) {
		err = corruptf("wrong checksum")
	}
	if err != nil && s.suspect == nil {
		s.suspect = fmt.Errorf("transaction %d: revoke block before block %d: %w", s.tid, s.pos, err)
	}
	s.revokes = append(s.revokes, revokeBlock{s.j.wrapBack(s.pos), s.tid})
}

// wrapBack is the block before block in the ring.
func (j *Journal) wrapBack(block uint32) uint32 {
	if block == j.first {
		return j.last - 1
	}
	return block - 1
}

// commit ends a transaction. It returns false at the end of the walk.
//
// A transaction with a wrong checksum is one of two things: damage, or what an
// earlier lap around the ring, or an earlier journal in the same place, left
// there. The commit time tells: time does not run backwards along a log.
func (s *scan) commit(ctx context.Context, block []byte) (more bool, err error) {
	seconds := binary.BigEndian.Uint64(block[commitSeconds:])
	bad := s.suspect
	if bad == nil && !s.j.commitOK(block, s.v1Sum) {
		bad = corruptf("transaction %d: wrong checksum in its commit block", s.tid)
		// With asynchronous commits the commit block may reach the disk before
		// the rest: a crash, unless the log goes on after it.
		if s.j.incompat&incompatAsyncCommit != 0 {
			follows, err := s.follows(ctx)
			if err != nil || !follows {
				return false, err
			}
		}
	}
	if bad != nil {
		if seconds >= s.lastCommit {
			s.damage = bad
		}
		return false, nil
	}
	s.lastCommit = seconds
	s.committed, s.revokesKept = len(s.records), len(s.revokes)
	s.v1Sum = ^uint32(0)
	s.tid++
	return true, nil
}

// follows says whether a block of the next transaction is at pos.
func (s *scan) follows(ctx context.Context) (bool, error) {
	block := make([]byte, s.j.blockSize)
	if err := s.read(ctx, block, s.pos); err != nil {
		return false, err
	}
	h, ok := parseHeader(block)
	return ok && h.tid == s.tid+1, nil
}

// checkEnd looks beyond the block that ended the walk for a commit block of the
// transaction that was being read, or of a later one. Such a transaction was on
// disk as a whole, so the end is damage. Only the checksums of v2 and v3 tell a
// commit block of this log from one of an earlier filesystem on the same disk;
// without them nothing is looked for. With asynchronous commits the commit block
// of the transaction that was being read proves nothing.
//
// A transaction takes at most a quarter of the journal, and hardly ever as many
// blocks as are looked at, so the next commit block is among them.
func (s *scan) checkEnd(ctx context.Context) error {
	if !s.j.checksummed() {
		return nil
	}
	bs := s.j.blockSize
	proof := s.tid
	if s.j.incompat&incompatAsyncCommit != 0 {
		proof++
	}
	left := min(s.j.end/4+1, maxLookBeyond, s.j.last-s.j.first-s.used)
	for pos := s.pos; left > 0; {
		n := min(uint32(len(s.buf)/bs), left, s.j.last-pos)
		if err := s.read(ctx, s.buf[:int(n)*bs], pos); err != nil {
			return err
		}
		for i := range int(n) {
			b := s.buf[i*bs : (i+1)*bs]
			h, ok := parseHeader(b)
			if ok && h.typ == typeCommit && !proof.After(h.tid) && s.j.commitOK(b, 0) &&
				binary.BigEndian.Uint64(b[commitSeconds:]) >= s.lastCommit {
				s.damage = corruptf("transaction %d: block %d of the journal does not continue the log, but transaction %d was committed",
					s.tid, s.pos, h.tid)
				return nil
			}
		}
		left -= n
		pos = s.j.wrap(uint64(pos) + uint64(n))
	}
	return nil
}
