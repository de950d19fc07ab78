package jbd2

import (
	"encoding/binary"

	"github.com/rowan-storage/rowan/snapfs/ext4/crc32c"
)

// Every block of the log but the data begins with journal_header_t:
//
//	0x0  h_magic      c0 3b 39 98
//	0x4  h_blocktype
//	0x8  h_sequence   number of the transaction
const (
	magic      = 0xc03b3998
	headerSize = 12

	typeDescriptor   = 1
	typeCommit       = 2
	typeSuperblockV1 = 3
	typeSuperblockV2 = 4
	typeRevoke       = 5
)

// header is the decoded start of a block of the log.
type header struct {
	typ uint32
	tid TID
}

// parseHeader decodes the header of a block; ok is false if it is not one of
// the log's.
func parseHeader(b []byte) (h header, ok bool) {
	return header{be32(b[4:]), TID(be32(b[8:]))}, be32(b) == magic
}

// Descriptor and revoke blocks end with journal_block_tail, if there are
// checksums of v2 or v3:
//
//	end-4  t_checksum  CRC-32C of the block
func (j *Journal) tailSize() int {
	if j.checksummed() {
		return 4
	}
	return 0
}

func (j *Journal) tailOK(b []byte) bool {
	if !j.checksummed() {
		return true
	}
	off := len(b) - 4
	return crc32c.Without(j.seed, b, off, 4) == be32(b[off:])
}

// A tag in a descriptor block. journal_block_tag3_t, with checksums of v3:
//
//	0x0  t_blocknr       low 32 bits
//	0x4  t_flags         4 bytes
//	0x8  t_blocknr_high
//	0xc  t_checksum      CRC-32C
//
// and journal_block_tag_t otherwise:
//
//	0x0  t_blocknr
//	0x4  t_checksum      low 16 bits of a CRC-32C; used by v2 only
//	0x6  t_flags         2 bytes
//	0x8  t_blocknr_high  with 64-bit block numbers only
//
// where a tag of v2 is followed by two bytes of nothing. After the tag come 16
// bytes of UUID, unless its flags say that it is the same as the last one's.
type tag struct {
	target   uint64 // block of the filesystem
	flags    uint32
	checksum uint32
}

const (
	tagEscaped  = 0x1
	tagSameUUID = 0x2
	tagLast     = 0x8

	uuidSize = 16
)

func (j *Journal) tagSize() int {
	switch {
	case j.incompat&incompatChecksumV3 != 0:
		return 16
	case j.incompat&incompat64Bit != 0 && j.incompat&incompatChecksumV2 != 0:
		return 14
	case j.incompat&incompat64Bit != 0:
		return 12
	case j.incompat&incompatChecksumV2 != 0:
		return 10
	}
	return 8
}

// tags decodes the tags of a descriptor block.
func (j *Journal) tags(b []byte) []tag {
	var out []tag
	size, end := j.tagSize(), len(b)-j.tailSize()
	for off := headerSize; off+size <= end; {
		t := tag{target: uint64(be32(b[off:]))}
		if j.incompat&incompatChecksumV3 != 0 {
			t.flags = be32(b[off+4:])
			t.checksum = be32(b[off+12:])
		} else {
			t.checksum = uint32(binary.BigEndian.Uint16(b[off+4:]))
			t.flags = uint32(binary.BigEndian.Uint16(b[off+6:]))
		}
		if j.incompat&incompat64Bit != 0 {
			t.target |= uint64(be32(b[off+8:])) << 32
		}
		out = append(out, t)
		off += size
		if t.flags&tagSameUUID == 0 {
			off += uuidSize
		}
		if t.flags&tagLast != 0 {
			break
		}
	}
	return out
}

// dataOK compares a data block with the checksum in its tag.
func (j *Journal) dataOK(t tag, tid TID, data []byte) bool {
	if !j.checksummed() {
		return true
	}
	var seq [4]byte
	binary.BigEndian.PutUint32(seq[:], uint32(tid))
	sum := crc32c.Update(crc32c.Update(j.seed, seq[:]), data)
	if j.incompat&incompatChecksumV3 == 0 {
		sum &= 0xffff
	}
	return sum == t.checksum
}

// A revoke block, jbd2_journal_revoke_header_t:
//
//	0x0c  r_count  bytes used in this block, this header included
//	0x10  block numbers, of 8 bytes with 64-bit block numbers, else of 4
const (
	revokeCount   = 0x0c
	revokeRecords = 0x10
)

// revoked decodes the block numbers of a revoke block.
func (j *Journal) revoked(b []byte) ([]uint64, error) {
	count := int64(be32(b[revokeCount:]))
	if count > int64(len(b)-j.tailSize()) {
		return nil, corruptf("revoke block: %d bytes of records", count)
	}
	width := 4
	if j.incompat&incompat64Bit != 0 {
		width = 8
	}
	var out []uint64
	for off := revokeRecords; off+width <= int(count); off += width {
		if width == 8 {
			out = append(out, binary.BigEndian.Uint64(b[off:]))
		} else {
			out = append(out, uint64(be32(b[off:])))
		}
	}
	return out, nil
}

// A commit block, struct commit_header:
//
//	0x0c  h_chksum_type  1 byte; 1: CRC-32 (v1 checksums)
//	0x0d  h_chksum_size  1 byte; 4
//	0x10  h_chksum       32 bytes, of which the first 4 are used
//	0x30  h_commit_sec   8 bytes, seconds since 1970
//	0x38  h_commit_nsec  4 bytes
const (
	commitChecksumType = 0x0c
	commitChecksumSize = 0x0d
	commitChecksum     = 0x10
	commitSeconds      = 0x30
)

// commitOK compares a commit block with its checksum. sum is the CRC-32 of the
// descriptors and data of the transaction; it matters to v1 only, where all
// zeros mean that the commit block has none.
func (j *Journal) commitOK(b []byte, sum uint32) bool {
	stored := be32(b[commitChecksum:])
	if j.v1 {
		typ, size := b[commitChecksumType], b[commitChecksumSize]
		return stored == sum && typ == 1 && size == 4 || stored == 0 && typ == 0 && size == 0
	}
	return !j.checksummed() || crc32c.Without(j.seed, b, commitChecksum, 4) == stored
}
