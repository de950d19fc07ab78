package ext4

import (
	"fmt"
	"math/bits"
	"strings"
)

// Compatible features, s_feature_compat.
const (
	compatHasJournal   = 0x0004
	compatDirIndex     = 0x0020
	compatSparseSuper2 = 0x0200
	compatOrphanFile   = 0x1000
)

// Read-only compatible features, s_feature_ro_compat. One that is not known
// does not change what is read.
const (
	roSparseSuper   = 0x00001
	roHugeFile      = 0x00008
	roGDTChecksum   = 0x00010
	roBigalloc      = 0x00200
	roMetadataCsum  = 0x00400
	roOrphanPresent = 0x10000

	// roExt3 are those that ext3 has as well: sparse_super, large_file, btree_dir.
	roExt3 = 0x0007
)

// Incompatible features, s_feature_incompat.
const (
	incompatFileType   = 0x00002
	incompatRecover    = 0x00004
	incompatJournalDev = 0x00008
	incompatMetaBG     = 0x00010
	incompatExtents    = 0x00040
	incompat64Bit      = 0x00080
	incompatMMP        = 0x00100
	incompatFlexBG     = 0x00200
	incompatEAInode    = 0x00400
	incompatCsumSeed   = 0x02000
	incompatLargeDir   = 0x04000
	incompatInlineData = 0x08000
	incompatEncrypt    = 0x10000
	incompatCasefold   = 0x20000

	incompatKnown = incompatFileType | incompatRecover | incompatMetaBG | incompatExtents |
		incompat64Bit | incompatMMP | incompatFlexBG | incompatEAInode | incompatCsumSeed |
		incompatLargeDir | incompatInlineData | incompatEncrypt | incompatCasefold

	// incompatExt3 are those that ext3 has as well.
	incompatExt3 = incompatFileType | incompatRecover | incompatMetaBG
)

// incompatNames gives the names that mke2fs uses, by bit.
func incompatNames(set uint32) string {
	names := map[uint32]string{
		0x00001: "compression", incompatFileType: "filetype", incompatRecover: "needs_recovery",
		incompatJournalDev: "journal_dev", incompatMetaBG: "meta_bg", incompatExtents: "extent",
		incompat64Bit: "64bit", incompatMMP: "mmp", incompatFlexBG: "flex_bg",
		incompatEAInode: "ea_inode", 0x01000: "dirdata", incompatCsumSeed: "metadata_csum_seed",
		incompatLargeDir: "large_dir", incompatInlineData: "inline_data",
		incompatEncrypt: "encrypt", incompatCasefold: "casefold",
	}
	var out []string
	for ; set != 0; set &= set - 1 {
		bit := uint32(1) << bits.TrailingZeros32(set)
		if name, ok := names[bit]; ok {
			out = append(out, name)
		} else {
			out = append(out, fmt.Sprintf("FEATURE_I%d", bits.TrailingZeros32(bit)))
		}
	}
	return strings.Join(out, ", ")
}

// checkFeatures refuses what would be read wrongly.
func (sb *superblock) checkFeatures() error {
	if sb.incompat&incompatJournalDev != 0 {
		return unsupportedf("this is the external journal of another filesystem")
	}
	if unknown := sb.incompat &^ incompatKnown; unknown != 0 {
		return unsupportedf("filesystem features this reader does not know: %s", incompatNames(unknown))
	}
	return nil
}

// kind is the name that the set of features goes by.
func (sb *superblock) kind() string {
	switch {
	case sb.incompat&^incompatExt3 != 0 || sb.roCompat&^roExt3 != 0:
		return "ext4"
	case sb.compat&compatHasJournal != 0:
		return "ext3"
	}
	return "ext2"
}

func (sb *superblock) hasMetadataCsum() bool { return sb.roCompat&roMetadataCsum != 0 }
