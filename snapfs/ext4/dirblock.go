package ext4

import (
	"bytes"
	"fmt"

	"github.com/rowan-storage/rowan/snapfs/ext4/crc32c"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// A block of a directory is filled with entries, ext4_dir_entry_2, the last of
// which reaches to its end:
//
//	0x0  inode      0: the entry is not in use
//	0x4  rec_len    2 bytes: length of the entry
//	0x6  name_len   1 byte with filetype, else 2
//	0x7  file_type  1 byte with filetype
//	0x8  name
//
// With metadata_csum, the last 12 bytes are ext4_dir_entry_tail, which looks
// like an entry that is not in use:
//
//	0x0  0
//	0x4  12       2 bytes
//	0x6  0
//	0x7  de
//	0x8  CRC-32C of what comes before it
const (
	dirEntryHeader = 8
	dirEntryMin    = 12
	dirTailSize    = 12
	dirTailType    = 0xde
)

// recLen decodes a length. Blocks of 64 KiB need 17 bits for it; the two
// lowest of the stored number, otherwise 0, are their upper bits.
func (sb *superblock) recLen(stored uint16) int {
	if sb.blockSize < 1<<16 {
		return int(stored)
	}
	if stored == 0xffff || stored == 0 {
		return int(sb.blockSize)
	}
	return int(stored&^3) | int(stored&3)<<16
}

// dirent is a decoded entry of a directory that is in use.
type dirent struct {
	ino  uint32
	typ  uint8
	name []byte // of the block
}

// parseDirBlock calls yield for every entry that is in use. It returns what is
// wrong with the block, if anything, and how many bytes of it are sound.
func (sb *superblock) parseDirBlock(b []byte, yield func(dirent)) (problem string, sound int) {
	for off := 0; off < len(b); {
		rest := b[off:]
		if len(rest) < dirEntryMin {
			return fmt.Sprintf("%d bytes left over at its end", len(rest)), off
		}
		length, nameLen, typ := sb.recLen(le16(rest[4:])), int(rest[6]), rest[7]
		if sb.incompat&incompatFileType == 0 {
			nameLen |= int(typ) << 8
			typ = 0
		}
		ino := le32(rest)
		switch {
		case length < dirEntryMin || length%4 != 0 || length > len(rest):
			return fmt.Sprintf("entry of %d bytes with %d left", length, len(rest)), off
		case dirEntryHeader+nameLen > length:
			return fmt.Sprintf("name of %d bytes in an entry of %d", nameLen, length), off
		case ino > sb.inodes:
			return fmt.Sprintf("entry for inode %d of %d", ino, sb.inodes), off
		}
		if ino != 0 {
			yield(dirent{ino, typ, rest[dirEntryHeader : dirEntryHeader+nameLen]})
		}
		off += length
	}
	return "", len(b)
}

// entryType decodes a file_type. The upper bits are not part of it.
func entryType(t uint8) tree.Type {
	switch t & 0x0f {
	case 1:
		return tree.Regular
	case 2:
		return tree.Directory
	case 3:
		return tree.CharDevice
	case 4:
		return tree.BlockDevice
	case 5:
		return tree.FIFO
	case 6:
		return tree.Socket
	case 7:
		return tree.Symlink
	}
	return tree.Unknown
}

// nameProblem says what is wrong with a name that is neither "." nor "..".
func nameProblem(name []byte) string {
	switch {
	case len(name) == 0:
		return "empty name"
	case bytes.IndexByte(name, '/') >= 0:
		return fmt.Sprintf("name %q with a slash", name)
	case bytes.IndexByte(name, 0) >= 0:
		return fmt.Sprintf("name %q with a NUL", name)
	}
	return ""
}

func isDots(name []byte) bool { return string(name) == "." || string(name) == ".." }

// checkLeaf verifies the checksum of a block of entries of directory in.
func (f *FS) checkLeaf(in *inode, b []byte) (problem string) {
	if !f.sb.hasMetadataCsum() {
		return ""
	}
	end := len(b) - dirTailSize
	t := b[end:]
	if le32(t) != 0 || le16(t[4:]) != dirTailSize || t[6] != 0 || t[7] != dirTailType {
		return "no checksum at its end"
	}
	if want, got := crc32c.Update(in.seed, b[:end]), le32(t[8:]); want != got {
		return fmt.Sprintf("checksum %#08x, expected %#08x", got, want)
	}
	return ""
}
