package jbd2

import (
	"bytes"
	"encoding/binary"

	"github.com/rowan-storage/rowan/snapfs/ext4/crc32c"
)

// builder writes a journal as the kernel does.
type builder struct {
	blockSize int
	first     uint32
	end       uint32
	compat    uint32
	incompat  uint32
	fcBlocks  uint32

	data    []byte
	pos     uint32
	tid     TID
	seconds uint64
	sum     uint32 // v1
}

const testUUIDByte = 0x5a

func newBuilder(compat, incompat uint32) *builder {
	b := &builder{
		blockSize: 1024, first: 1, end: 64,
		compat: compat, incompat: incompat,
		tid: 100, seconds: 1_000_000, sum: ^uint32(0),
	}
	b.data = make([]byte, int(b.end)*b.blockSize)
	b.pos = b.first
	return b
}

// journal is the reader's view of the format, for its sizes and checksums.
func (b *builder) journal() *Journal {
	j := &Journal{blockSize: b.blockSize, first: b.first, last: b.last(), end: b.end, incompat: b.incompat, v1: b.compat&1 != 0}
	j.seed = crc32c.Update(^uint32(0), bytes.Repeat([]byte{testUUIDByte}, 16))
	return j
}

func (b *builder) last() uint32 {
	if b.incompat&incompatFastCommit != 0 {
		return b.end - b.fcBlocks
	}
	return b.end
}

func (b *builder) block(n uint32) []byte {
	return b.data[int(n)*b.blockSize : int(n+1)*b.blockSize]
}

// next takes the next block of the ring.
func (b *builder) next(typ uint32) []byte {
	p := b.block(b.pos)
	if b.pos++; b.pos == b.last() {
		b.pos = b.first
	}
	clear(p)
	if typ != 0 {
		put32(p, magic)
		put32(p[4:], typ)
		put32(p[8:], uint32(b.tid))
	}
	return p
}

func put32(p []byte, v uint32) { binary.BigEndian.PutUint32(p, v) }

// content of block target in transaction tid.
func content(target uint64, tid TID, blockSize int) []byte {
	p := bytes.Repeat([]byte{byte(target), byte(tid), 7, 9}, blockSize/4)
	binary.BigEndian.PutUint64(p[8:], target)
	return p
}

// seal writes the checksum at the end of a descriptor or revoke block.
func (b *builder) seal(p []byte) {
	j := b.journal()
	if j.checksummed() {
		put32(p[len(p)-4:], crc32c.Without(j.seed, p, len(p)-4, 4))
	}
}

// write adds descriptors and data for the targets. A target with bit 62 set has
// data that begins with the magic number.
func (b *builder) write(targets ...uint64) {
	j := b.journal()
	for len(targets) > 0 {
		d := b.next(typeDescriptor)
		off := headerSize
		var blocks [][]byte
		for len(targets) > 0 && off+j.tagSize()+uuidSize+j.tailSize() <= b.blockSize {
			target, escaped := targets[0]&^(1<<62), targets[0]&(1<<62) != 0
			targets = targets[1:]
			p := b.next(0)
			copy(p, content(target, b.tid, b.blockSize))
			if escaped {
				clear(p[:4])
			}
			blocks = append(blocks, p)
			flags := uint32(0)
			if escaped {
				flags |= tagEscaped
			}
			if off > headerSize {
				flags |= tagSameUUID
			}
			if len(targets) == 0 || off+2*j.tagSize()+j.tailSize() > b.blockSize {
				flags |= tagLast
			}
			b.tag(d[off:], target, flags, p)
			off += j.tagSize()
			if flags&tagSameUUID == 0 {
				off += uuidSize
			}
			if flags&tagLast != 0 {
				break
			}
		}
		b.seal(d)
		b.sum = crc32BE(b.sum, d)
		for _, p := range blocks {
			b.sum = crc32BE(b.sum, p)
		}
	}
}

func (b *builder) tag(p []byte, target uint64, flags uint32, data []byte) {
	j := b.journal()
	var seq [4]byte
	put32(seq[:], uint32(b.tid))
	sum := crc32c.Update(crc32c.Update(j.seed, seq[:]), data)
	put32(p, uint32(target))
	if b.incompat&incompatChecksumV3 != 0 {
		put32(p[4:], flags)
		put32(p[12:], sum)
	} else {
		binary.BigEndian.PutUint16(p[6:], uint16(flags))
		if b.incompat&incompatChecksumV2 != 0 {
			binary.BigEndian.PutUint16(p[4:], uint16(sum))
		}
	}
	if b.incompat&incompat64Bit != 0 {
		put32(p[8:], uint32(target>>32))
	}
}

func (b *builder) revoke(targets ...uint64) {
	p := b.next(typeRevoke)
	off := revokeRecords
	for _, t := range targets {
		if b.incompat&incompat64Bit != 0 {
			binary.BigEndian.PutUint64(p[off:], t)
			off += 8
		} else {
			put32(p[off:], uint32(t))
			off += 4
		}
	}
	put32(p[revokeCount:], uint32(off))
	b.seal(p)
}

// commit ends the transaction.
func (b *builder) commit() {
	j := b.journal()
	p := b.next(typeCommit)
	b.seconds++
	binary.BigEndian.PutUint64(p[commitSeconds:], b.seconds)
	if j.v1 {
		p[commitChecksumType], p[commitChecksumSize] = 1, 4
		put32(p[commitChecksum:], b.sum)
	}
	if j.checksummed() {
		put32(p[commitChecksum:], crc32c.Without(j.seed, p, commitChecksum, 4))
	}
	b.sum = ^uint32(0)
	b.tid++
}

// finish writes the superblock of a log that starts at block start with
// transaction tid.
func (b *builder) finish(start uint32, tid TID) []byte {
	p := b.block(0)[:superblockSize]
	put32(p, magic)
	put32(p[4:], typeSuperblockV2)
	put32(p[sbBlockSize:], uint32(b.blockSize))
	put32(p[sbMaxLen:], b.end)
	put32(p[sbFirst:], b.first)
	put32(p[sbSequence:], uint32(tid))
	put32(p[sbStart:], start)
	put32(p[sbCompat:], b.compat)
	put32(p[sbIncompat:], b.incompat)
	put32(p[sbFastCommitLen:], b.fcBlocks)
	copy(p[sbUUID:], bytes.Repeat([]byte{testUUIDByte}, 16))
	p[sbChecksumType] = checksumTypeCRC32C
	put32(p[sbChecksum:], crc32c.Without(^uint32(0), p, sbChecksum, 4))
	return b.data
}
