package ext4

import (
	"fmt"

	"github.com/rowan-storage/rowan/snapfs/ext4/crc32c"
)

// A directory with an index is a tree whose leaves are ordinary blocks of
// entries. The blocks of the index look, to one who does not know of it, like
// blocks with no names but "." and "..": the index is in what those entries
// leave unused. So reading all blocks one after the other finds every name,
// and that is what this package does. It only checks the blocks of the index.
//
// Block 0 is the root, struct dx_root:
//
//	0x00  entry "."
//	0x0c  entry ".."; its length reaches to the end of the block
//	0x18  0
//	0x1c  hash_version     1 byte
//	0x1d  info_length      1 byte; 8
//	0x1e  indirect_levels  1 byte
//	0x20  limit            2 bytes: room for entries of the index
//	0x22  count            2 bytes: those in use
//
// and a further block of it is a struct dx_node:
//
//	0x00  an entry not in use, as long as the block
//	0x08  limit, count as above
//
// Entries of the index have 8 bytes, the first of them begins at limit. With
// metadata_csum, behind the room for them comes struct dx_tail:
//
//	0x0  dt_reserved
//	0x4  dt_checksum  CRC-32C up to the last entry in use, and of dt_reserved
const (
	dxRootInfo    = 0x18
	dxRootInfoLen = 8
	dxRootLimit   = 0x20
	dxNodeLimit   = 0x08
	dxEntrySize   = 8
	dxTailSize    = 8
)

// isIndexed says whether directory in has an index.
func (f *FS) isIndexed(in *inode) bool {
	return in.has(flagIndex) && f.sb.compat&compatDirIndex != 0
}

// isIndexBlock says whether block number of directory in, b, is of its index.
func (f *FS) isIndexBlock(in *inode, b []byte, number fileBlock) bool {
	if !f.isIndexed(in) {
		return false
	}
	return number == 0 || le32(b) == 0 && f.sb.recLen(le16(b[4:])) == len(b)
}

// checkIndexBlock verifies a block of the index, if there are checksums, and
// says how many blocks it points to.
func (f *FS) checkIndexBlock(in *inode, b []byte, number fileBlock) (pointers int, problem string) {
	if !f.sb.hasMetadataCsum() {
		return 0, ""
	}
	at := dxNodeLimit
	if number == 0 {
		at = dxRootLimit
		if f.sb.recLen(le16(b[4:])) != dirEntryMin || le32(b[dxRootInfo:]) != 0 || b[dxRootInfo+5] != dxRootInfoLen {
			return 0, "root of the index is malformed"
		}
	}
	limit, count := int(le16(b[at:])), int(le16(b[at+2:]))
	tail := at + limit*dxEntrySize
	if count > limit || tail+dxTailSize > len(b) {
		return 0, fmt.Sprintf("index with %d of %d entries", count, limit)
	}
	crc := crc32c.Update(in.seed, b[:at+count*dxEntrySize])
	crc = crc32c.Without(crc, b[tail:tail+dxTailSize], 4, 4)
	if got := le32(b[tail+4:]); crc != got {
		return 0, fmt.Sprintf("index: checksum %#08x, expected %#08x", got, crc)
	}
	return count, ""
}
