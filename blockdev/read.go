package blockdev

import (
	"errors"
	"fmt"
	"io"
	"syscall"
)

// readMap reads from the segments that a map names. With try it does not wait
// for a disk: what is not in memory is an error. The caller has entered the
// grace.
func (p *Pool) readMap(m *extentMap, b []byte, off int64, try bool) error {
	first := uint64(off / BlockSize)
	last := uint64((off + int64(len(b)) + BlockSize - 1) / BlockSize)
	var buf [16]mapRun
	runs, err := m.lookUp(buf[:0], first, last-first, try)
	if err != nil {
		return err
	}
	read := p.readPlace
	if try {
		read = p.tryReadPlace
	}
	for _, r := range runs {
		start := max(off, int64(r.block)*BlockSize)
		n := min(int64(len(b)), int64(r.block+r.count)*BlockSize-start)
		if err := read(r.place, b[:n], start); err != nil {
			return err
		}
		b, off = b[n:], start+n
	}
	return nil
}

// tryReadPlace is readPlace for what is in the page cache, else an error.
func (p *Pool) tryReadPlace(at place, b []byte, off int64) error {
	if !at.isData() {
		clear(b)
		return nil
	}
	return p.eachShard(at.origin(), off, int64(len(b)), false, func(s *segment, segOff, i, n int64) error {
		return s.TryReadAt(b[i:i+n], segOff)
	})
}

// readPlace fills b with the LUN's bytes from off on, all at one place.
func (p *Pool) readPlace(at place, b []byte, off int64) error {
	if !at.isData() {
		clear(b)
		return nil
	}
	return p.eachShard(at.origin(), off, int64(len(b)), false, func(s *segment, segOff, i, n int64) error {
		k, err := s.ReadAt(b[i:i+n], segOff)
		if int64(k) == n {
			return nil
		}
		if errors.Is(err, io.EOF) {
			return errorf(ErrCorrupt, segmentName(s.key.origin, s.key.shard), "offset %d: mapped blocks are past the end of the file", segOff)
		}
		return &Error{Object: segmentName(s.key.origin, s.key.shard), Class: syscall.EIO, Detail: fmt.Sprintf("read at offset %d", segOff), Cause: err}
	})
}

// eachShard calls fn for each segment of an origin that n bytes of a LUN from
// off on fall into: segOff is the offset in the segment, i where the n bytes
// begin in the whole.
func (p *Pool) eachShard(origin uint32, off, length int64, create bool, fn func(s *segment, segOff, i, n int64) error) error {
	for i := int64(0); i < length; {
		at := off + i
		segOff := at % p.shardBytes
		n := min(length-i, p.shardBytes-segOff)
		s, err := p.segments.get(segmentKey{origin, uint32(at / p.shardBytes)}, create)
		if err != nil {
			return err
		}
		err = fn(s, segOff, i, n)
		p.segments.put(s)
		if err != nil {
			return err
		}
		i += n
	}
	return nil
}
