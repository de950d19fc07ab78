package ext4

import (
	"fmt"
	"strings"

	"github.com/rowan-storage/rowan/snapfs/ext4/crc32c"
)

// The superblock, struct ext4_super_block: 1,024 bytes at byte 1,024 of the
// filesystem, little endian. The fields that are read:
//
//	0x000  s_inodes_count
//	0x004  s_blocks_count_lo
//	0x00c  s_free_blocks_count_lo
//	0x014  s_first_data_block      1 with blocks of 1 KiB, else 0
//	0x018  s_log_block_size        block size is 1024 << this
//	0x01c  s_log_cluster_size      bigalloc: cluster size is 1024 << this
//	0x020  s_blocks_per_group
//	0x028  s_inodes_per_group
//	0x038  s_magic                 53 ef
//	0x03a  s_state                 1: unmounted cleanly; 2: has errors
//	0x04c  s_rev_level             0: inodes of 128 bytes, no features
//	0x054  s_first_ino             first inode that is not reserved
//	0x058  s_inode_size
//	0x05c  s_feature_compat
//	0x060  s_feature_incompat
//	0x064  s_feature_ro_compat
//	0x068  s_uuid                  16 bytes
//	0x078  s_volume_name           16 bytes
//	0x0e0  s_journal_inum          inode of the journal
//	0x0e8  s_last_orphan           head of the list of orphans
//	0x0fe  s_desc_size             of a group descriptor, with 64bit
//	0x104  s_first_meta_bg
//	0x150  s_blocks_count_hi       with 64bit
//	0x158  s_free_blocks_count_hi  with 64bit
//	0x168  s_mmp_block             8 bytes, with mmp
//	0x175  s_checksum_type         1: CRC-32C
//	0x24c  s_backup_bgs            2 groups, with sparse_super2
//	0x270  s_checksum_seed         with metadata_csum_seed
//	0x280  s_orphan_file_inum      with orphan_file
//	0x3fc  s_checksum              CRC-32C of the bytes before it
const (
	superblockOffset = 1024
	superblockSize   = 1024
	superblockMagic  = 0xef53

	stateValid  = 1
	stateErrors = 2

	checksumTypeCRC32C = 1

	rootIno     = 2
	oldFirstIno = 11

	// A block is at most 64 KiB.
	maxLogBlockSize = 6
	// The largest cluster that mke2fs makes is 512 MiB; a block number in a
	// group fits in 32 bits in any case.
	maxLogClusterSize = 20
)

// superblock is the decoded superblock.
type superblock struct {
	inodes         uint32
	blocks         uint64
	freeClusters   uint64
	firstDataBlock uint64
	blockSize      int64
	clusterRatio   uint64 // blocks in a cluster
	blocksPerGroup uint64
	inodesPerGroup uint32
	groups         uint32
	inodeSize      int64
	descSize       int64
	firstIno       uint32
	state          uint16
	compat         uint32
	incompat       uint32
	roCompat       uint32
	firstMetaBG    uint32
	backupGroups   [2]uint32
	journalIno     uint32
	lastOrphan     uint32
	orphanFileIno  uint32
	mmpBlock       fsBlock // 0: none; not checked
	uuid           [16]byte
	label          string
	seed           uint32 // of all checksums but its own
}

func corruptSuperblock(format string, args ...any) error {
	return &CorruptError{"superblock", superblockOffset, fmt.Sprintf(format, args...)}
}

// parseSuperblock decodes and checks the superblock in b.
func parseSuperblock(b []byte) (*superblock, error) {
	if le16(b[0x38:]) != superblockMagic {
		return nil, ErrNotExt4
	}
	sb := &superblock{
		inodes:         le32(b[0x00:]),
		blocks:         uint64(le32(b[0x04:])),
		freeClusters:   uint64(le32(b[0x0c:])),
		firstDataBlock: uint64(le32(b[0x14:])),
		blocksPerGroup: uint64(le32(b[0x20:])),
		inodesPerGroup: le32(b[0x28:]),
		state:          le16(b[0x3a:]),
		inodeSize:      128,
		descSize:       32,
		firstIno:       oldFirstIno,
		clusterRatio:   1,
		lastOrphan:     le32(b[0xe8:]),
		journalIno:     le32(b[0xe0:]),
		label:          cString(b[0x78:0x88]),
	}
	copy(sb.uuid[:], b[0x68:0x78])
	if le32(b[0x4c:]) > 0 {
		sb.parseRevision1(b)
	}
	if err := sb.checkFeatures(); err != nil {
		return nil, err
	}
	if err := sb.checkSum(b); err != nil {
		return nil, err
	}
	if err := sb.checkSizes(b); err != nil {
		return nil, err
	}
	return sb, sb.checkGeometry()
}

// parseRevision1 decodes the fields that revision 0 does not have.
func (sb *superblock) parseRevision1(b []byte) {
	sb.firstIno = le32(b[0x54:])
	sb.inodeSize = int64(le16(b[0x58:]))
	sb.compat = le32(b[0x5c:])
	sb.incompat = le32(b[0x60:])
	sb.roCompat = le32(b[0x64:])
	sb.firstMetaBG = le32(b[0x104:])
	sb.backupGroups = [2]uint32{le32(b[0x24c:]), le32(b[0x250:])}
	sb.orphanFileIno = le32(b[0x280:])
	if sb.incompat&incompatMMP != 0 {
		sb.mmpBlock = fsBlock(join64(le32(b[0x168:]), le32(b[0x16c:])))
	}
	if sb.incompat&incompat64Bit != 0 {
		sb.blocks = join64(le32(b[0x04:]), le32(b[0x150:]))
		sb.freeClusters = join64(le32(b[0x0c:]), le32(b[0x158:]))
		sb.descSize = int64(le16(b[0xfe:]))
	}
}

// checkSum verifies the checksum and works out the seed of all others.
func (sb *superblock) checkSum(b []byte) error {
	if sb.hasMetadataCsum() {
		if t := b[0x175]; t != checksumTypeCRC32C {
			return unsupportedf("superblock: checksum type %d", t)
		}
		if want, got := le32(b[0x3fc:]), crc32c.Update(^uint32(0), b[:0x3fc]); want != got {
			return corruptSuperblock("checksum %#08x, expected %#08x", got, want)
		}
	}
	if sb.incompat&incompatCsumSeed != 0 {
		sb.seed = le32(b[0x270:])
	} else {
		sb.seed = crc32c.Update(^uint32(0), sb.uuid[:])
	}
	return nil
}

// checkSizes decodes and checks the sizes of blocks, clusters and structures.
func (sb *superblock) checkSizes(b []byte) error {
	logBlock, logCluster := le32(b[0x18:]), le32(b[0x1c:])
	if logBlock > maxLogBlockSize {
		return corruptSuperblock("block size 1024 << %d", logBlock)
	}
	sb.blockSize = 1024 << logBlock
	if sb.roCompat&roBigalloc != 0 {
		if logCluster < logBlock || logCluster > maxLogClusterSize {
			return corruptSuperblock("cluster size 1024 << %d with blocks of %d bytes", logCluster, sb.blockSize)
		}
		sb.clusterRatio = 1 << (logCluster - logBlock)
	}
	if s := sb.inodeSize; s < 128 || s > sb.blockSize || s&(s-1) != 0 {
		return corruptSuperblock("inode size %d", s)
	}
	if s := sb.descSize; sb.incompat&incompat64Bit != 0 && (s < 64 || s > sb.blockSize || s&(s-1) != 0) {
		return corruptSuperblock("group descriptor size %d", s)
	}
	return nil
}

// checkGeometry checks the numbers of blocks, groups and inodes, such that
// nothing that is worked out from them overflows.
func (sb *superblock) checkGeometry() error {
	bitmap := uint64(sb.blockSize) * 8 // bits in one block
	switch {
	case sb.firstDataBlock > 1 || sb.firstDataBlock >= sb.blocks:
		return corruptSuperblock("first data block %d of %d", sb.firstDataBlock, sb.blocks)
	case sb.firstDataBlock == 0 && sb.blockSize == 1024 && sb.clusterRatio == 1:
		return corruptSuperblock("first data block 0 with blocks of 1024 bytes")
	case sb.blocks > 1<<48 || sb.blocks > uint64(1<<62)/uint64(sb.blockSize):
		return corruptSuperblock("%d blocks", sb.blocks)
	case sb.blocksPerGroup == 0 || sb.blocksPerGroup > bitmap*sb.clusterRatio:
		return corruptSuperblock("%d blocks in a group", sb.blocksPerGroup)
	case sb.inodesPerGroup == 0 || uint64(sb.inodesPerGroup) > bitmap:
		return corruptSuperblock("%d inodes in a group", sb.inodesPerGroup)
	case sb.firstIno < oldFirstIno:
		return corruptSuperblock("first inode %d", sb.firstIno)
	}
	groups := (sb.blocks - sb.firstDataBlock + sb.blocksPerGroup - 1) / sb.blocksPerGroup
	if groups > 1<<32-1 || uint64(sb.inodes) > groups*uint64(sb.inodesPerGroup) || sb.inodes < sb.firstIno {
		return corruptSuperblock("%d inodes in %d groups of %d", sb.inodes, groups, sb.inodesPerGroup)
	}
	sb.groups = uint32(groups)
	return nil
}

// geometry is what stays as mke2fs has made it for as long as a filesystem is
// mounted, and that no journal can change. A filesystem may well grow.
type geometry struct {
	blockSize, inodeSize, descSize int64
	firstDataBlock, clusterRatio   uint64
	blocksPerGroup                 uint64
	inodesPerGroup                 uint32
	firstIno                       uint32
}

func (sb *superblock) geometry() geometry {
	return geometry{
		blockSize: sb.blockSize, inodeSize: sb.inodeSize, descSize: sb.descSize,
		firstDataBlock: sb.firstDataBlock, clusterRatio: sb.clusterRatio,
		blocksPerGroup: sb.blocksPerGroup, inodesPerGroup: sb.inodesPerGroup,
		firstIno: sb.firstIno,
	}
}

// groupStart is the first block of group g.
func (sb *superblock) groupStart(g uint32) uint64 {
	return sb.firstDataBlock + uint64(g)*sb.blocksPerGroup
}

// groupHasSuper says whether group g begins with a copy of the superblock.
func (sb *superblock) groupHasSuper(g uint32) bool {
	switch {
	case g == 0:
		return true
	case sb.compat&compatSparseSuper2 != 0:
		return g == sb.backupGroups[0] || g == sb.backupGroups[1]
	case sb.roCompat&roSparseSuper == 0 || g == 1:
		return true
	}
	return isPower(g, 3) || isPower(g, 5) || isPower(g, 7)
}

// isPower says whether n is a power of base.
func isPower(n, base uint32) bool {
	p := uint64(base)
	for p < uint64(n) {
		p *= uint64(base)
	}
	return p == uint64(n)
}

// uuidString writes a UUID the usual way.
func uuidString(u [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// cString is the text in p up to the first NUL.
func cString(p []byte) string {
	s, _, _ := strings.Cut(string(p), "\x00")
	return s
}
