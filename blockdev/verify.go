package blockdev

import (
	"errors"
	"fmt"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// badSum is the error of a block that is not what its sum says.
type badSum struct {
	at    place
	block uint64
	got   uint32
	want  uint32
}

func (e *badSum) Error() string {
	return fmt.Sprintf("block %d has CRC32C %08x, not %08x", e.block, e.got, e.want)
}

// Unwrap makes it damage for errors.Is.
func (e *badSum) Unwrap() error { return ErrCorrupt }

// readSummed fills b with the LUN's bytes from off on, all at one place, and
// verifies every block that it touches and that has a sum. With try it does
// not wait for a disk: it returns blockfile.ErrWouldBlock instead.
func (p *Pool) readSummed(at place, b []byte, off int64, try bool) error {
	if !at.isData() {
		clear(b)
		return nil
	}
	for len(b) > 0 {
		lead := off % BlockSize
		n := int64(len(b)) / BlockSize * BlockSize
		if lead == 0 && n > 0 {
			if err := p.readVerified(at, b[:n], off, try); err != nil {
				return err
			}
		} else {
			n = min(int64(len(b)), BlockSize-lead)
			if err := p.readPartVerified(at, b[:n], off, try); err != nil {
				return err
			}
		}
		b, off = b[n:], off+n
	}
	return nil
}

// readPartVerified reads a part of one block.
func (p *Pool) readPartVerified(at place, b []byte, off int64, try bool) error {
	block, _ := p.sums.blocks.Get().(*[BlockSize]byte)
	if block == nil {
		block = new([BlockSize]byte)
	}
	defer p.sums.blocks.Put(block)
	lead := off % BlockSize
	if err := p.readVerified(at, block[:], off-lead, try); err != nil {
		return err
	}
	copy(b, block[lead:])
	return nil
}

// readVerified reads whole blocks.
func (p *Pool) readVerified(at place, b []byte, off int64, try bool) error {
	var err error
	if try {
		err = p.tryReadPlace(at, b, off)
	} else {
		err = p.readPlace(at, b, off)
	}
	if err != nil {
		return err
	}
	for block := uint64(off / BlockSize); len(b) > 0; {
		first := block % leafBlocks
		n := min(leafBlocks-first, uint64(len(b)/BlockSize))
		l, ok := p.cachedSums(at.origin(), block/leafBlocks)
		if !ok && try {
			return blockfile.ErrWouldBlock
		}
		if !ok {
			if l, err = p.sumsOf(at.origin(), block/leafBlocks); err != nil {
				return err
			}
		}
		if err := l.verify(at, b[:n*BlockSize], block); err != nil {
			return err
		}
		b, block = b[n*BlockSize:], block+n
	}
	return nil
}

// verify compares whole blocks of the leaf, at one place, with their sums.
func (l *sumLeaf) verify(at place, b []byte, block uint64) error {
	for i := block % leafBlocks; len(b) > 0; i, block, b = i+1, block+1, b[BlockSize:] {
		if l.places[i] != at {
			continue
		}
		if got := crcOf(b[:BlockSize]); got != l.sums[i] {
			return &badSum{at: at, block: block, got: got, want: l.sums[i]}
		}
	}
	return nil
}

// segmentOffset says where the segment file of a block holds it.
func (p *Pool) segmentOffset(at place, block uint64) (name string, off int64) {
	byteAt := int64(block) * BlockSize
	return segmentName(at.origin(), uint32(byteAt/p.shardBytes)), byteAt % p.shardBytes
}

// damaged makes the error of a block of an object that has a wrong sum, and
// puts it in the log once.
func (p *Pool) damaged(object string, bad *badSum, attrs ...any) error {
	name, off := p.segmentOffset(bad.at, bad.block)
	if p.sums.report(reportKey{bad.at, bad.block}) {
		attrs = append(attrs, "offset", bad.block*BlockSize, "length", BlockSize, "file", name, "file_offset", off,
			"crc32c", fmt.Sprintf("%08x", bad.got), "want", fmt.Sprintf("%08x", bad.want))
		p.log.Error("a block is damaged", attrs...)
	}
	return &Error{
		Object: object, Class: ErrCorrupt,
		Detail: fmt.Sprintf("offset %d: wrong checksum of %s at offset %d", bad.block*BlockSize, name, off), Cause: bad,
	}
}

// readSnapshot is readMap for a snapshot: it verifies what has sums. With try
// it does not wait for a disk.
func (v *Volume) readSnapshot(b []byte, off int64, try bool) error {
	first := uint64(off / BlockSize)
	last := uint64((off + int64(len(b)) + BlockSize - 1) / BlockSize)
	var buf [16]mapRun
	runs, err := v.m.lookUp(buf[:0], first, last-first, try)
	if err != nil {
		return err
	}
	for _, r := range runs {
		start := max(off, int64(r.block)*BlockSize)
		n := min(int64(len(b)), int64(r.block+r.count)*BlockSize-start)
		if err := v.pool.readSummed(r.place, b[:n], start, try); err != nil {
			return v.readError(err)
		}
		b, off = b[n:], start+n
	}
	return nil
}

// readError makes the error of a read that failed. Once the snapshot is deleted
// its blocks may be punched or overwritten, which is no damage.
func (v *Volume) readError(err error) error {
	bad, ok := errors.AsType[*badSum](err)
	if !ok {
		return err
	}
	if err := v.usable(); err != nil {
		return err
	}
	lun, name := v.names()
	return v.pool.damaged(snapshotObject(lun, name), bad, "lun", lun, "snapshot", name)
}

// names returns the present names of a snapshot and its LUN.
func (v *Volume) names() (lun, snapshot string) {
	c := v.pool.cat
	c.mu.RLock()
	defer c.mu.RUnlock()
	if r := c.luns[v.lunID]; r != nil {
		lun = r.Name
	}
	if r := c.snapshots[v.snapshot]; r != nil {
		snapshot = r.Name
	}
	return lun, snapshot
}
