package ext4

import (
	"fmt"

	"github.com/rowan-storage/rowan/snapfs/ext4/crc32c"
)

// A group descriptor, struct ext4_group_desc: 32 bytes, or s_desc_size with
// 64bit. The fields that are read:
//
//	0x00  bg_block_bitmap_lo
//	0x04  bg_inode_bitmap_lo
//	0x08  bg_inode_table_lo
//	0x0c  bg_free_blocks_count_lo  2 bytes; clusters with bigalloc
//	0x12  bg_flags                 2 bytes; 1: no inode was ever used
//	0x1c  bg_itable_unused_lo      2 bytes: inodes at the end never used
//	0x1e  bg_checksum              2 bytes
//	0x20  bg_block_bitmap_hi       from here on in descriptors of 64 bytes only
//	0x24  bg_inode_bitmap_hi
//	0x28  bg_inode_table_hi
//	0x2c  bg_free_blocks_count_hi  2 bytes
//	0x32  bg_itable_unused_hi      2 bytes
const (
	groupInodesUninit = 1 // in bg_flags

	groupChecksum = 0x1e
	groupHalf     = 32 // size of the part that all descriptors have
)

// group is a decoded group descriptor.
type group struct {
	blockBitmap  fsBlock // these two are not checked
	inodeBitmap  fsBlock
	inodeTable   fsBlock
	freeClusters uint64
	unusedInodes uint32 // at the end of the table, which may never have been written
}

// group reads, verifies and decodes the descriptor of group g.
func (f *FS) group(g uint32) (group, error) {
	sb := f.sb
	perBlock := uint32(sb.blockSize / sb.descSize)
	block := sb.descriptorBlock(g / perBlock)
	end := block + 1
	if sb.incompat&incompatMetaBG == 0 {
		end += fsBlock((sb.groups - 1 - g) / perBlock)
	}
	b, err := f.blockAhead(block, end)
	if err != nil {
		return group{}, fmt.Errorf("ext4: group descriptor %d: %w", g, err)
	}
	within := int64(g%perBlock) * sb.descSize
	d := b[within : within+sb.descSize]
	corrupt := func(format string, args ...any) error {
		return &CorruptError{
			fmt.Sprintf("group descriptor %d", g),
			int64(block)*sb.blockSize + within,
			fmt.Sprintf(format, args...),
		}
	}
	if want, got := sb.groupChecksum(g, d), le16(d[groupChecksum:]); sb.hasGroupChecksum() && want != got {
		return group{}, corrupt("checksum %#04x, expected %#04x", got, want)
	}
	out := group{
		blockBitmap: fsBlock(le32(d)), inodeBitmap: fsBlock(le32(d[0x04:])), inodeTable: fsBlock(le32(d[0x08:])),
		freeClusters: uint64(le16(d[0x0c:])), unusedInodes: uint32(le16(d[0x1c:])),
	}
	if sb.descSize > groupHalf {
		out.blockBitmap |= fsBlock(le32(d[0x20:])) << 32
		out.inodeBitmap |= fsBlock(le32(d[0x24:])) << 32
		out.inodeTable = fsBlock(join64(le32(d[0x08:]), le32(d[0x28:])))
		out.freeClusters |= uint64(le16(d[0x2c:])) << 16
		out.unusedInodes |= uint32(le16(d[0x32:])) << 16
	}
	if le16(d[0x12:])&groupInodesUninit != 0 {
		out.unusedInodes = sb.inodesPerGroup
	}
	if !sb.hasGroupChecksum() { // then the fields mean nothing
		out.unusedInodes = 0
	}
	if !sb.validRange(out.inodeTable, sb.inodeTableBlocks()) {
		return group{}, corrupt("inode table at block %d of %d", out.inodeTable, sb.blocks)
	}
	return out, nil
}

// descriptorBlock is the block with the i-th block of group descriptors. They
// follow the superblock, or with meta_bg, from the i-th on that s_first_meta_bg
// says, are in the first group of those that they describe.
func (sb *superblock) descriptorBlock(i uint32) fsBlock {
	if sb.incompat&incompatMetaBG == 0 || i < sb.firstMetaBG {
		return fsBlock(superblockOffset/sb.blockSize + 1 + int64(i))
	}
	g := i * uint32(sb.blockSize/sb.descSize)
	block := fsBlock(sb.groupStart(g))
	if sb.groupHasSuper(g) {
		block++
	}
	// Group 0 of a filesystem with clusters and blocks of 1 KiB starts at
	// block 0, and the superblock is in block 1.
	if sb.blockSize == 1024 && i == 0 && sb.firstDataBlock == 0 {
		block++
	}
	return block
}

func (sb *superblock) hasGroupChecksum() bool {
	return sb.roCompat&(roMetadataCsum|roGDTChecksum) != 0
}

// groupChecksum is the checksum that descriptor d of group g should have.
func (sb *superblock) groupChecksum(g uint32, d []byte) uint16 {
	number := []byte{byte(g), byte(g >> 8), byte(g >> 16), byte(g >> 24)}
	if sb.hasMetadataCsum() {
		return uint16(crc32c.Without(crc32c.Update(sb.seed, number), d, groupChecksum, 2))
	}
	crc := crc16(^uint16(0), sb.uuid[:])
	crc = crc16(crc, number)
	crc = crc16(crc, d[:groupChecksum])
	return crc16(crc, d[groupChecksum+2:])
}

// inodeTableBlocks is the size of the inode table of a group.
func (sb *superblock) inodeTableBlocks() uint64 {
	return (uint64(sb.inodesPerGroup)*uint64(sb.inodeSize) + uint64(sb.blockSize) - 1) / uint64(sb.blockSize)
}

// validRange says whether n blocks from start on can be content or metadata.
func (sb *superblock) validRange(start fsBlock, n uint64) bool {
	return start != 0 && uint64(start) >= sb.firstDataBlock && n <= sb.blocks && uint64(start) <= sb.blocks-n
}

// freeClusters sums up what the groups say is free. The sum in the superblock
// is brought up to date by the kernel now and then only.
func (f *FS) freeClusters() (uint64, error) {
	var sum uint64
	for g := range f.sb.groups {
		d, err := f.group(g)
		if err != nil {
			return 0, err
		}
		sum += d.freeClusters
	}
	return sum, nil
}
