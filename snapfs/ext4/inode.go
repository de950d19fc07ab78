package ext4

import (
	"fmt"
	"time"

	"github.com/rowan-storage/rowan/snapfs/ext4/crc32c"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// An inode, struct ext4_inode: 128 bytes, and with s_inode_size more than that,
// i_extra_isize bytes of further fields and then extended attributes.
//
//	0x00  i_mode         2 bytes: type and permission
//	0x02  i_uid          2 bytes, low half
//	0x04  i_size_lo
//	0x08  i_atime        seconds
//	0x0c  i_ctime
//	0x10  i_mtime
//	0x14  i_dtime        deletion; in an orphan the next orphan
//	0x18  i_gid          2 bytes, low half
//	0x1a  i_links_count  2 bytes
//	0x1c  i_blocks_lo
//	0x20  i_flags
//	0x28  i_block        60 bytes: tree of extents, block map, inline data,
//	                     target of a short symbolic link or device number
//	0x64  i_generation
//	0x68  i_file_acl_lo  block of extended attributes
//	0x6c  i_size_high
//	0x74  i_blocks_high  2 bytes, with huge_file
//	0x76  i_file_acl_high  2 bytes, with 64bit
//	0x78  i_uid_high     2 bytes
//	0x7a  i_gid_high     2 bytes
//	0x7c  i_checksum_lo  2 bytes
//	0x80  i_extra_isize  2 bytes
//	0x82  i_checksum_hi  2 bytes
//	0x84  i_ctime_extra  low 2 bits: seconds / 2^32; others: nanoseconds
//	0x88  i_mtime_extra
//	0x8c  i_atime_extra
//	0x90  i_crtime
//	0x94  i_crtime_extra
const (
	oldInodeSize = 128

	inodeDtime      = 0x14
	inodeLinks      = 0x1a
	inodeBlock      = 0x28
	inodeBlockEnd   = 0x64
	inodeBlockSize  = inodeBlockEnd - inodeBlock
	inodeCsumLow    = 0x7c
	inodeExtraIsize = 0x80
	inodeCsumHigh   = 0x82
)

// Types of files, in i_mode.
const (
	modeType      = 0xf000
	modeFIFO      = 0x1000
	modeChar      = 0x2000
	modeDirectory = 0x4000
	modeBlock     = 0x6000
	modeRegular   = 0x8000
	modeSymlink   = 0xa000
	modeSocket    = 0xc000
)

// Flags of inodes, i_flags.
const (
	flagEncrypt    = 0x00000800
	flagIndex      = 0x00001000
	flagHugeFile   = 0x00040000
	flagExtents    = 0x00080000
	flagEAInode    = 0x00200000
	flagInlineData = 0x10000000
)

// inode is a decoded inode. It does not change.
type inode struct {
	ino        uint32
	offset     int64 // in the image, for messages
	raw        []byte
	mode       uint16
	flags      uint32
	size       int64
	links      uint16
	generation uint32
	extra      int64  // size of the further fields
	hasXattrs  bool   // whether attributes may follow them
	seed       uint32 // of the checksums of its blocks
}

func (in *inode) corrupt(format string, args ...any) error {
	return &CorruptError{fmt.Sprintf("inode %d", in.ino), in.offset, fmt.Sprintf(format, args...)}
}

func (in *inode) typ() uint16          { return in.mode & modeType }
func (in *inode) has(flag uint32) bool { return in.flags&flag != 0 }
func (in *inode) blockArea() []byte    { return in.raw[inodeBlock:inodeBlockEnd] }
func (in *inode) fits(off, n int64) bool {
	return off+n <= oldInodeSize+in.extra && off+n <= int64(len(in.raw))
}

// rawInode reads the bytes of inode ino, and says where they are.
func (f *FS) rawInode(ino uint32) (raw []byte, offset int64, err error) {
	sb := f.sb
	if ino == 0 || ino > sb.inodes {
		return nil, 0, &CorruptError{"inode number", -1, fmt.Sprintf("%d of %d", ino, sb.inodes)}
	}
	g, err := f.group((ino - 1) / sb.inodesPerGroup)
	if err != nil {
		return nil, 0, err
	}
	within := int64((ino-1)%sb.inodesPerGroup) * sb.inodeSize
	block := g.inodeTable + fsBlock(within/sb.blockSize)
	tableEnd := g.inodeTable + fsBlock(sb.inodeTableBlocks())
	b, err := f.blockAhead(block, tableEnd)
	if err != nil {
		return nil, 0, fmt.Errorf("ext4: inode %d: %w", ino, err)
	}
	at := within % sb.blockSize
	return b[at : at+sb.inodeSize], int64(block)*sb.blockSize + at, nil
}

// inode reads, verifies and decodes an inode of any kind.
func (f *FS) inode(ino uint32) (*inode, error) {
	if p := f.patches[ino]; p != nil {
		return p.inode(f, ino)
	}
	raw, offset, err := f.rawInode(ino)
	if err != nil {
		return nil, err
	}
	return f.verifyInode(ino, raw, offset)
}

// verifyInode verifies and decodes the inode in raw.
func (f *FS) verifyInode(ino uint32, raw []byte, offset int64) (*inode, error) {
	in, err := f.decodeInode(ino, raw, offset)
	if err != nil {
		return nil, err
	}
	if want, got := in.checksum(f.sb), in.storedChecksum(); f.sb.hasMetadataCsum() && want != got {
		return nil, in.corrupt("checksum %#08x, expected %#08x", got, want)
	}
	return in, nil
}

// neverUsed says whether inode ino is in a part of the inode table that was
// never written, and may hold anything.
func (f *FS) neverUsed(ino uint32) (bool, error) {
	n := f.sb.inodesPerGroup
	g, err := f.group((ino - 1) / n)
	return err == nil && (ino-1)%n+min(g.unusedInodes, n) >= n, err
}

// decodeInode decodes an inode that is verified or will be.
func (f *FS) decodeInode(ino uint32, raw []byte, offset int64) (*inode, error) {
	in := &inode{
		ino: ino, offset: offset, raw: raw,
		mode:       le16(raw),
		links:      le16(raw[inodeLinks:]),
		flags:      le32(raw[0x20:]),
		generation: le32(raw[0x64:]),
	}
	in.seed = crc32cUint32(crc32cUint32(f.sb.seed, ino), in.generation)
	if len(raw) > oldInodeSize {
		in.extra = int64(le16(raw[inodeExtraIsize:]))
		if in.extra%4 != 0 || oldInodeSize+in.extra > int64(len(raw)) {
			return nil, in.corrupt("%d bytes of further fields", in.extra)
		}
		in.hasXattrs = in.extra != 0
	}
	size := uint64(le32(raw[0x04:]))
	if in.typ() == modeRegular || in.typ() == modeDirectory && f.sb.incompat&incompatLargeDir != 0 {
		size = join64(le32(raw[0x04:]), le32(raw[0x6c:]))
	}
	if size > 1<<32*uint64(f.sb.blockSize) {
		return nil, in.corrupt("size %d", size)
	}
	in.size = int64(size)
	return in, nil
}

// usedInode is an inode that a name can lead to: not free, and not one of the
// filesystem's own.
func (f *FS) usedInode(ino tree.Ino) (*inode, error) {
	if ino > tree.Ino(f.sb.inodes) || ino != rootIno && ino < tree.Ino(f.sb.firstIno) {
		return nil, &CorruptError{"inode number", -1, fmt.Sprintf("%d of %d", ino, f.sb.inodes)}
	}
	in, err := f.inode(uint32(ino))
	if err != nil {
		return nil, err
	}
	if in.mode == 0 || in.links == 0 {
		return nil, in.corrupt("has a name, but is not in use")
	}
	if in.fileType() == tree.Unknown {
		return nil, in.corrupt("mode %#o", in.mode)
	}
	if in.has(flagEAInode) {
		return nil, in.corrupt("holds an extended attribute, but has a name")
	}
	if in.has(flagInlineData) && f.sb.incompat&incompatInlineData == 0 {
		return nil, in.corrupt("inline data without that feature")
	}
	return in, nil
}

// checksum is what the checksum of the inode should be. There are 16 bits of it
// in an inode without the field for the rest.
func (in *inode) checksum(sb *superblock) uint32 {
	crc := crc32c.Without(in.seed, in.raw[:oldInodeSize], inodeCsumLow, 2)
	if len(in.raw) == oldInodeSize {
		return crc & 0xffff
	}
	rest := in.raw[oldInodeSize:]
	if !in.fits(inodeCsumHigh, 2) {
		return crc32c.Update(crc, rest) & 0xffff
	}
	return crc32c.Without(crc, rest, inodeCsumHigh-oldInodeSize, 2)
}

func (in *inode) storedChecksum() uint32 {
	sum := uint32(le16(in.raw[inodeCsumLow:]))
	if in.fits(inodeCsumHigh, 2) {
		sum |= uint32(le16(in.raw[inodeCsumHigh:])) << 16
	}
	return sum
}

func (in *inode) fileType() tree.Type {
	switch in.typ() {
	case modeFIFO:
		return tree.FIFO
	case modeChar:
		return tree.CharDevice
	case modeDirectory:
		return tree.Directory
	case modeBlock:
		return tree.BlockDevice
	case modeRegular:
		return tree.Regular
	case modeSymlink:
		return tree.Symlink
	case modeSocket:
		return tree.Socket
	}
	return tree.Unknown
}

// time decodes the time at off, whose further bits are at extraOff.
func (in *inode) time(off, extraOff int64) time.Time {
	sec := int64(int32(le32(in.raw[off:])))
	var nsec int64
	if in.fits(extraOff, 4) {
		extra := le32(in.raw[extraOff:])
		sec += int64(extra&3) << 32
		nsec = int64(extra >> 2)
	}
	return time.Unix(sec, nsec)
}

// attr is what stat(2) says of the inode.
func (f *FS) attr(in *inode) tree.Attr {
	a := tree.Attr{
		Ino:    tree.Ino(in.ino),
		Type:   in.fileType(),
		Mode:   uint32(in.mode &^ modeType),
		UID:    uint32(le16(in.raw[0x02:])) | uint32(le16(in.raw[0x78:]))<<16,
		GID:    uint32(le16(in.raw[0x18:])) | uint32(le16(in.raw[0x7a:]))<<16,
		Nlink:  uint32(in.links),
		Size:   in.size,
		Blocks: f.sectors(in),
		Atime:  in.time(0x08, 0x8c),
		Ctime:  in.time(0x0c, 0x84),
		Mtime:  in.time(0x10, 0x88),
	}
	if in.fits(0x90, 4) {
		a.Btime = in.time(0x90, 0x94)
	}
	if a.Type == tree.CharDevice || a.Type == tree.BlockDevice {
		a.Rdev = in.rdev()
	}
	// Linux counts inline content of a regular file as well, such that nobody
	// takes the file for one big hole.
	if a.Type == tree.Regular && in.has(flagInlineData) {
		a.Blocks += (a.Size + 511) >> 9
	}
	return a
}

// sectors decodes i_blocks, which counts units of 512 bytes, or of blocks in an
// inode that says so.
func (f *FS) sectors(in *inode) int64 {
	n := int64(le32(in.raw[0x1c:]))
	if f.sb.roCompat&roHugeFile != 0 {
		n |= int64(le16(in.raw[0x74:])) << 32
		if in.has(flagHugeFile) {
			n *= f.sb.blockSize / 512
		}
	}
	return n
}

// rdev decodes a device number. The first word of i_block has the old form, 8
// bits each; if it is zero the second word has the new one, and both are given
// back as makedev(3) makes them.
//
//	old  bits 8..15 major, 0..7 minor
//	new  bits 8..19 major, 0..7 and 20..31 minor
func (in *inode) rdev() uint64 {
	b := in.blockArea()
	old, dev := uint64(le32(b)), uint64(le32(b[4:]))
	major, minor := old>>8&0xff, old&0xff
	if old == 0 {
		major, minor = dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
	}
	return major&0xfff<<8 | major&^0xfff<<32 | minor&0xff | minor&^0xff<<12
}

// xattrBlock is the block that holds extended attributes; 0 if there is none.
func (in *inode) xattrBlock(sb *superblock) fsBlock {
	block := fsBlock(le32(in.raw[0x68:]))
	if sb.incompat&incompat64Bit != 0 {
		block |= fsBlock(le16(in.raw[0x76:])) << 32
	}
	return block
}
