package jbd2

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"
)

// hugeLog is a journal of the largest size, with v1 checksums and blocks of 64
// KiB, 640 GB of it. One block in 8,191 is a descriptor, of as many tags; what
// they tell of is zeros. A thin disk has 80 MB of it.
type hugeLog struct {
	super      []byte
	descriptor []byte
	bytesRead  int64
	onRead     func()
}

const hugeBlock = 64 << 10

func newHugeLog() *hugeLog {
	b := newBuilder(compatChecksum, incompatRevoke)
	b.end = MaxBlocks
	b.blockSize = hugeBlock
	b.data = make([]byte, hugeBlock)
	h := &hugeLog{super: b.finish(b.first, b.tid), descriptor: make([]byte, hugeBlock), onRead: func() {}}
	put32(h.descriptor, magic)
	put32(h.descriptor[4:], typeDescriptor)
	put32(h.descriptor[8:], uint32(b.tid))
	for off := headerSize; off+8 <= hugeBlock; off += 8 {
		binary.BigEndian.PutUint16(h.descriptor[off+6:], tagSameUUID)
	}
	return h
}

func (h *hugeLog) ReadAt(p []byte, off int64) (int, error) {
	h.bytesRead += int64(len(p))
	h.onRead()
	clear(p)
	tags := int64((hugeBlock - headerSize) / 8)
	switch block := off / hugeBlock; {
	case block == 0:
		copy(p, h.super)
	case (block-1)%(tags+1) == 0:
		copy(p, h.descriptor)
	}
	return len(p), nil
}

// TestLogTooLong: a log is read up to a bound, and no further.
func TestLogTooLong(t *testing.T) {
	h := newHugeLog()
	j, err := Open(h, hugeBlock, MaxBlocks)
	if err != nil {
		t.Fatal(err)
	}
	s := newScan(j)
	if s.left > maxScanBytes || s.left <= 0 {
		t.Errorf("%d bytes may be read", s.left)
	}
	s.left = 64 << 20
	h.bytesRead = 0
	if err := s.run(t.Context()); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
	if h.bytesRead > 64<<20 || h.bytesRead < 32<<20 {
		t.Errorf("%d bytes were read", h.bytesRead)
	}
}

// TestRecoverGivenUp: a recovery ends when nobody wants it any more.
func TestRecoverGivenUp(t *testing.T) {
	h := newHugeLog()
	j, err := Open(h, hugeBlock, MaxBlocks)
	if err != nil {
		t.Fatal(err)
	}
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
