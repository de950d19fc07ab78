package jbd2

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/rowan-storage/rowan/snapfs/ext4/crc32c"
)

// The journal superblock, journal_superblock_t of include/linux/jbd2.h. It
// fills the first 1,024 bytes of block 0 of the journal:
//
//	0x000  h_magic              c0 3b 39 98
//	0x004  h_blocktype          3: version 1, without features; 4: version 2
//	0x008  h_sequence
//	0x00c  s_blocksize          bytes
//	0x010  s_maxlen             blocks in the journal
//	0x014  s_first              first block of the ring
//	0x018  s_sequence           first transaction in the log
//	0x01c  s_start              block where the log starts; 0: the log is empty
//	0x020  s_errno              why the journal was given up, negative errno
//	0x024  s_feature_compat     from here on version 2 only
//	0x028  s_feature_incompat
//	0x02c  s_feature_ro_compat
//	0x030  s_uuid               16 bytes
//	0x050  s_checksum_type      1 byte; 4: CRC-32C
//	0x054  s_num_fc_blks        blocks for fast commits; 0: 256
//	0x058  s_head
//	0x0fc  s_checksum           v2, v3: CRC-32C of these 1,024 bytes
//	0x100  s_users              48 times 16 bytes
const (
	superblockSize = 1024

	sbBlockSize     = 0x0c
	sbMaxLen        = 0x10
	sbFirst         = 0x14
	sbSequence      = 0x18
	sbStart         = 0x1c
	sbErrno         = 0x20
	sbCompat        = 0x24
	sbIncompat      = 0x28
	sbUUID          = 0x30
	sbChecksumType  = 0x50
	sbFastCommitLen = 0x54
	sbChecksum      = 0xfc

	checksumTypeCRC32C = 4

	defaultFastCommitBlocks = 256
)

// Features of the journal.
const (
	compatChecksum = 0x1 // v1 checksums

	incompatRevoke      = 0x01
	incompat64Bit       = 0x02
	incompatAsyncCommit = 0x04
	incompatChecksumV2  = 0x08
	incompatChecksumV3  = 0x10
	incompatFastCommit  = 0x20

	incompatKnown = incompatRevoke | incompat64Bit | incompatAsyncCommit |
		incompatChecksumV2 | incompatChecksumV3 | incompatFastCommit
)

// MaxBlocks is the largest journal that is read, in blocks: what mke2fs and
// tune2fs make at most.
const MaxBlocks = 10_240_000

// TID is the number of a transaction. It wraps around.
type TID uint32

// After says whether t is a later transaction than u.
func (t TID) After(u TID) bool { return int32(t-u) > 0 }

// A Journal is an opened journal, not yet recovered.
type Journal struct {
	r         io.ReaderAt
	blockSize int
	first     uint32 // first block of the ring
	last      uint32 // block after the last of the ring
	end       uint32 // block after the last of the journal
	sequence  TID
	start     uint32
	errno     int32
	incompat  uint32
	v1        bool   // checksums of v1
	seed      uint32 // of the checksums of v2 and v3
}

// Open reads the superblock of the journal in r, which is blocks blocks of
// blockSize bytes long. A superblock that is damaged is reported as
// [ErrCorrupt].
func Open(r io.ReaderAt, blockSize int, blocks uint32) (*Journal, error) {
	if blockSize < superblockSize || blocks == 0 {
		return nil, corruptf("%d blocks of %d bytes are too small for a journal", blocks, blockSize)
	}
	sb := make([]byte, superblockSize)
	if err := readFull(r, sb, 0); err != nil {
		return nil, fmt.Errorf("jbd2: reading the superblock: %w", err)
	}
	if m := be32(sb); m != magic {
		return nil, corruptf("superblock: magic number %#x", m)
	}
	typ := be32(sb[4:])
	if typ != typeSuperblockV1 && typ != typeSuperblockV2 {
		return nil, corruptf("superblock: type %d", typ)
	}
	j := &Journal{
		r:         r,
		blockSize: blockSize,
		first:     be32(sb[sbFirst:]),
		end:       be32(sb[sbMaxLen:]),
		sequence:  TID(be32(sb[sbSequence:])),
		start:     be32(sb[sbStart:]),
		errno:     int32(be32(sb[sbErrno:])),
	}
	j.last = j.end
	if typ == typeSuperblockV2 {
		if err := j.features(sb); err != nil {
			return nil, err
		}
	}
	return j, j.checkGeometry(int64(be32(sb[sbBlockSize:])), blocks)
}

// features takes over the fields that only a version 2 superblock has.
func (j *Journal) features(sb []byte) error {
	j.incompat = be32(sb[sbIncompat:])
	j.v1 = be32(sb[sbCompat:])&compatChecksum != 0
	if unknown := j.incompat &^ incompatKnown; unknown != 0 {
		return unsupportedf("incompatible features %#x", unknown)
	}
	const both = incompatChecksumV2 | incompatChecksumV3
	if j.incompat&both == both || j.v1 && j.incompat&both != 0 {
		return corruptf("superblock: more than one kind of checksum")
	}
	if j.checksummed() {
		if t := sb[sbChecksumType]; t != checksumTypeCRC32C {
			return unsupportedf("checksum type %d", t)
		}
		if want, got := be32(sb[sbChecksum:]), crc32c.Without(^uint32(0), sb, sbChecksum, 4); want != got {
			return corruptf("superblock: checksum %#08x, expected %#08x", got, want)
		}
		j.seed = crc32c.Update(^uint32(0), sb[sbUUID:sbUUID+16])
	}
	if j.incompat&incompatFastCommit != 0 {
		n := be32(sb[sbFastCommitLen:])
		if n == 0 {
			n = defaultFastCommitBlocks
		}
		if n >= j.end {
			return corruptf("superblock: %d blocks of fast commits in %d", n, j.end)
		}
		j.last = j.end - n
	}
	return nil
}

func (j *Journal) checkGeometry(blockSize int64, blocks uint32) error {
	switch {
	case blockSize != int64(j.blockSize):
		return corruptf("superblock: block size %d, expected %d", blockSize, j.blockSize)
	case j.end > blocks:
		return corruptf("superblock: %d blocks in a file of %d", j.end, blocks)
	case j.end > MaxBlocks:
		return unsupportedf("%d blocks", j.end)
	case j.first == 0 || j.first >= j.last:
		return corruptf("superblock: ring from block %d to %d", j.first, j.last)
	case j.start != 0 && (j.start < j.first || j.start >= j.last):
		return corruptf("superblock: log starts at block %d, outside of %d to %d", j.start, j.first, j.last)
	}
	return nil
}

// Clean says whether the log is empty: there is nothing to recover.
func (j *Journal) Clean() bool { return j.start == 0 }

// Errno is the error for which the kernel gave the journal up, as a positive
// errno; 0 if it did not.
func (j *Journal) Errno() int {
	if j.errno < 0 {
		return -int(j.errno)
	}
	return int(j.errno)
}

// FastCommits gives the blocks of the journal that fast commits are written
// to; n is 0 where there are none. They hold something only if they follow the
// transaction before [Recovery.Next].
func (j *Journal) FastCommits() (first, n uint32) {
	// The block at j.last belongs neither to the ring nor to the fast commits.
	if j.incompat&incompatFastCommit == 0 || j.last+1 >= j.end {
		return 0, 0
	}
	return j.last + 1, j.end - j.last - 1
}

// checksummed says whether the journal has checksums of v2 or v3.
func (j *Journal) checksummed() bool {
	return j.incompat&(incompatChecksumV2|incompatChecksumV3) != 0
}

// readBlocks fills p, whole blocks, from block on.
func (j *Journal) readBlocks(p []byte, block uint32) error {
	if err := readFull(j.r, p, int64(block)*int64(j.blockSize)); err != nil {
		return fmt.Errorf("jbd2: reading block %d: %w", block, err)
	}
	return nil
}

// readFull fills p from off. Less than that is an error, never io.EOF.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func be32(p []byte) uint32 { return binary.BigEndian.Uint32(p) }
