package jbd2

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"
)

// hugeLog is a journal of the largest size, with blocks of 64 KiB 640 GB of it.
// Of those one block in 8,191 is a descriptor, of as many tags; what they tell of
// is zeros. A thin disk has 80 MB of it.
type hugeLog struct {
	blockSize  int64
	super      []byte
	descriptor []byte
	bytesRead  int64
	onRead     func()
}

func newHugeLog(t *testing.T, compat uint32, blockSize int) (*hugeLog, *Journal) {
	t.Helper()
	b := newBuilder(compat, incompatRevoke)
	b.end = MaxBlocks
	b.blockSize = blockSize
	b.data = make([]byte, blockSize)
	h := &hugeLog{
		blockSize: int64(blockSize), super: b.finish(b.first, b.tid),
		descriptor: make([]byte, blockSize), onRead: func() {},
	}
	put32(h.descriptor, magic)
	put32(h.descriptor[4:], typeDescriptor)
	put32(h.descriptor[8:], uint32(b.tid))
	for off := headerSize; off+8 <= blockSize; off += 8 {
		binary.BigEndian.PutUint16(h.descriptor[off+6:], tagSameUUID)
	}
	j, err := Open(h, blockSize, MaxBlocks)
	if err != nil {
		t.Fatal(err)
	}
	h.bytesRead = 0
	return h, j
}

func (h *hugeLog) ReadAt(p []byte, off int64) (int, error) {
	h.bytesRead += int64(len(p))
	h.onRead()
	clear(p)
	tags := (h.blockSize - headerSize) / 8
	switch block := off / h.blockSize; {
	case block == 0:
		copy(p, h.super)
	case (block-1)%(tags+1) == 0:
		copy(p, h.descriptor)
	}
	return len(p), nil
}

// TestLogTooLong: a log is read up to a bound, and no further.
func TestLogTooLong(t *testing.T) {
	h, j := newHugeLog(t, compatChecksum, 64<<10)
	s := newScan(j)
	if s.left > maxScanBytes || s.left <= 0 {
		t.Errorf("%d bytes may be read", s.left)
	}
	s.left = 64 << 20
	if err := s.run(t.Context()); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
	if h.bytesRead > 64<<20 || h.bytesRead < 32<<20 {
		t.Errorf("%d bytes were read", h.bytesRead)
	}
}

// TestTooManyBlocks: without checksums the descriptors alone are read, 80 MB of
// ten million tags with blocks of 1 KiB. They are kept up to a bound.
func TestTooManyBlocks(t *testing.T) {
	h, j := newHugeLog(t, 0, 1024)
	s := newScan(j)
	if err := s.run(t.Context()); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
	if len(s.records) > maxRecords || len(s.records) < maxRecords/2 || h.bytesRead > 32<<20 {
		t.Errorf("%d records of %d bytes", len(s.records), h.bytesRead)
	}
}

// TestRecoverGivenUp: a recovery ends when nobody wants it any more.
func TestRecoverGivenUp(t *testing.T) {
	h, j := newHugeLog(t, compatChecksum, 64<<10)
	ctx, cancel := context.WithCancel(t.Context())
	reads := 0
	h.onRead = func() {
		if reads++; reads == 20 {
			cancel()
		}
	}
	if _, err := j.Recover(ctx, testLimit); !errors.Is(err, context.Canceled) || errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
	if reads != 20 {
		t.Errorf("%d reads, given up at the 20th", reads)
	}
}
