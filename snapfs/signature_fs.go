package snapfs

import (
	"encoding/binary"
	"strings"

	"github.com/rowan-storage/rowan/snapfs/partition"
)

// findExt recognises ext2, ext3 and ext4 by the superblock at 1024 (kernel
// documentation, filesystems/ext4, "The Super Block").
//
//	4   4   blocks
//	24  4   block size is 1024 << this
//	56  2   EF53
//	92  4   compatible features
//	96  4   incompatible features
//	100 4   features compatible for reading
//	104 16  UUID
//	120 16  label
func findExt(p *probe) (finding, bool) {
	const sb = 1024
	if p.le16(sb+56) != 0xEF53 || p.le32(sb+24) > 6 || p.le32(sb+4) == 0 {
		return finding{}, false
	}
	compat, incompat, roCompat := p.le32(sb+92), p.le32(sb+96), p.le32(sb+100)
	const (
		hasJournal   = 0x4    // compatible
		journalDev   = 0x8    // incompatible
		ext3Incompat = 0x16   // file types, recovery, meta block groups
		ext3ROCompat = 0x0007 // sparse superblocks, large files, btree directories
	)
	f := finding{kind: "ext2", label: p.text(sb+120, 16), uuid: p.uuid(sb + 104)}
	switch {
	case incompat&journalDev != 0:
		return finding{kind: "jbd", title: "External journal of an ext4 filesystem", label: f.label, uuid: f.uuid, why: noFiles}, true
	case incompat&^ext3Incompat != 0 || roCompat&^ext3ROCompat != 0:
		f.kind = "ext4"
	case compat&hasJournal != 0:
		f.kind = "ext3"
	}
	f.title = f.kind + " filesystem"
	return f, true
}

// findXFS recognises XFS by its superblock, big-endian: "XFSB", block size,
// UUID at 32, label at 108 (XFS Algorithms & Data Structures, "Superblocks").
func findXFS(p *probe) (finding, bool) {
	size := p.be32(4)
	if !p.is(0, "XFSB") || size < 512 || size > 65536 || size&(size-1) != 0 {
		return finding{}, false
	}
	return finding{kind: "xfs", title: "XFS filesystem", label: p.text(108, 12), uuid: p.uuid(32), why: notYet}, true
}

// findBtrfs recognises btrfs by the superblock at 64 KiB: UUID at 32, magic at
// 64, label at 299 (btrfs documentation, "On-disk format").
func findBtrfs(p *probe) (finding, bool) {
	const sb = 64 << 10
	if !p.is(sb+64, "_BHRfS_M") {
		return finding{}, false
	}
	return finding{kind: "btrfs", title: "btrfs filesystem", label: p.text(sb+299, 256), uuid: p.uuid(sb + 32), why: notYet}, true
}

// findNTFS recognises NTFS by its boot sector. The label is the attribute
// $VOLUME_NAME (60) of the fourth record of the MFT.
func findNTFS(p *probe) (finding, bool) {
	sector := int64(p.le16(11))
	perCluster := int64(p.at(13, 1)[0])
	if !p.is(3, "NTFS    ") || sector < 256 || sector > 4096 || sector&(sector-1) != 0 || perCluster == 0 {
		return finding{}, false
	}
	if perCluster > 0x80 { // 2 to the power of its negative
		perCluster = 1 << min(0x100-perCluster, 31)
	}
	f := finding{kind: "ntfs", title: "NTFS filesystem", why: notYet}
	f.uuid = strings.ToUpper(hexLE(p.at(72, 8)))
	recordBytes := int64(1024)
	if n := int8(p.at(64, 1)[0]); n > 0 {
		recordBytes = int64(n) * perCluster * sector
	} else if n > -31 {
		recordBytes = 1 << -n
	}
	mft := p.le64(48)
	if mft > uint64(p.sizeBytes) || recordBytes < 512 || recordBytes > 64<<10 {
		return f, true
	}
	f.label = ntfsLabel(p.at(int64(mft)*perCluster*sector+3*recordBytes, int(recordBytes)))
	return f, true
}

// ntfsLabel finds $VOLUME_NAME in an MFT record. The update sequence is not
// applied: the attribute lies before the end of the first sector, or is not
// shown.
func ntfsLabel(record []byte) string {
	if string(record[:4]) != "FILE" {
		return ""
	}
	record = record[:510]
	for at := int(binary.LittleEndian.Uint16(record[20:])); at+24 <= len(record); {
		kind, size := binary.LittleEndian.Uint32(record[at:]), binary.LittleEndian.Uint32(record[at+4:])
		if kind == 0xFFFFFFFF || size < 24 || int64(size) > int64(len(record)-at) {
			return ""
		}
		if kind == 0x60 && record[at+8] == 0 {
			n, off := binary.LittleEndian.Uint32(record[at+16:]), binary.LittleEndian.Uint16(record[at+20:])
			if uint64(off)+uint64(n) <= uint64(size) {
				return utf16le(record[at+int(off):][:n])
			}
			return ""
		}
		at += int(size)
	}
	return ""
}

// findReFS recognises ReFS by its boot sector.
func findReFS(p *probe) (finding, bool) {
	if !p.is(3, "ReFS\x00\x00\x00\x00") || !p.is(16, "FSRS") {
		return finding{}, false
	}
	return finding{kind: "refs", title: "ReFS filesystem", why: notYet}, true
}

// findExFAT recognises exFAT by its boot sector (exFAT specification, 3.1). The
// label is an entry of type 83 in the first cluster of the root directory.
func findExFAT(p *probe) (finding, bool) {
	sectorShift, clusterShift := p.at(108, 1)[0], p.at(109, 1)[0]
	if !p.is(3, "EXFAT   ") || sectorShift < 9 || sectorShift > 12 || clusterShift > 25-sectorShift {
		return finding{}, false
	}
	f := finding{kind: "exfat", title: "exFAT filesystem", uuid: volumeID(p.at(100, 4)), why: notYet}
	heap, root := int64(p.le32(88)), int64(p.le32(96))
	dir := heap<<sectorShift + (root-2)<<sectorShift<<clusterShift
	for i := range int64(64) {
		if e := p.at(dir+32*i, 32); e[0] == 0x83 && e[1] <= 11 {
			f.label = utf16le(e[2 : 2+2*e[1]])
			break
		}
	}
	return f, true
}

// findFAT recognises FAT12, FAT16 and FAT32 (Microsoft FAT specification 1.03).
// The label is the entry of the root directory that has the attribute 08.
func findFAT(p *probe) (finding, bool) {
	sector := p.at(0, 512)
	if !partition.VolumeBootSector(sector) {
		return finding{}, false
	}
	f := finding{kind: "vfat", title: "FAT filesystem", why: notYet}
	bytesPerSector, reserved := int64(p.le16(11)), int64(p.le16(14))
	perFAT, rootEntries := int64(p.le16(22)), int64(p.le16(17))
	ebpb := int64(38) // extended boot signature of FAT12 and FAT16
	fat32 := perFAT == 0
	if fat32 {
		perFAT, ebpb = int64(p.le32(36)), 66
	}
	root := (reserved + int64(sector[16])*perFAT) * bytesPerSector
	if fat32 {
		rootEntries = int64(sector[13]) * bytesPerSector / 32
		root += (int64(p.le32(44)) - 2) * int64(sector[13]) * bytesPerSector
	}
	if p.at(ebpb, 1)[0] == 0x29 {
		f.uuid = volumeID(p.at(ebpb+1, 4))
		f.label = fatLabel(p.at(ebpb+5, 11))
	}
	for i := range min(rootEntries, 512) {
		e := p.at(root+32*i, 32)
		if e[0] == 0 {
			break
		}
		const volumeLabel, longName = 0x08, 0x0F
		if e[0] != 0xE5 && e[11]&volumeLabel != 0 && e[11]&longName != longName {
			f.label = fatLabel(e[:11])
			break
		}
	}
	return f, true
}

// fatLabel decodes a label of FAT. Bytes above 7F are in a code page that is
// not known here.
func fatLabel(b []byte) string {
	s := strings.TrimSpace(strings.ToValidUTF8(string(b), "_"))
	if s == "NO NAME" {
		return ""
	}
	return s
}

// volumeID formats a volume serial number as Windows does.
func volumeID(b []byte) string {
	s := strings.ToUpper(hexLE(b))
	return s[:4] + "-" + s[4:]
}

// hexLE formats a little-endian number in hexadecimal.
func hexLE(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for i := len(b) - 1; i >= 0; i-- {
		s.WriteByte(digits[b[i]>>4])
		s.WriteByte(digits[b[i]&15])
	}
	return s.String()
}

// findHFSPlus recognises HFS+ (version 4) and HFSX (version 5) by the volume
// header at 1024 (Apple TN1150).
func findHFSPlus(p *probe) (finding, bool) {
	plus := p.is(1024, "H+") && p.be16(1026) == 4
	if !plus && !(p.is(1024, "HX") && p.be16(1026) == 5) {
		return finding{}, false
	}
	return finding{kind: "hfsplus", title: "HFS+ filesystem", why: notYet}, true
}

// findAPFS recognises the container superblock of APFS (Apple File System
// Reference, "nx_superblock_t").
func findAPFS(p *probe) (finding, bool) {
	if !p.is(32, "NXSB") {
		return finding{}, false
	}
	return finding{kind: "apfs", title: "APFS container", uuid: p.uuid(72), why: notYet}, true
}

// findUFS recognises UFS2 by the magic in its superblock at 64 KiB.
func findUFS(p *probe) (finding, bool) {
	const magicAt = 64<<10 + 1372
	if p.le32(magicAt) != 0x19540119 && p.be32(magicAt) != 0x19540119 {
		return finding{}, false
	}
	return finding{kind: "ufs", title: "UFS2 filesystem", why: notYet}, true
}

func findReiserFS(p *probe) (finding, bool) {
	const sb = 64 << 10
	if !p.is(sb+52, "ReIsErFs") && !p.is(sb+52, "ReIsEr2Fs") && !p.is(sb+52, "ReIsEr3Fs") {
		return finding{}, false
	}
	return finding{kind: "reiserfs", title: "ReiserFS filesystem", label: p.text(sb+100, 16), uuid: p.uuid(sb + 84), why: notYet}, true
}

func findJFS(p *probe) (finding, bool) {
	const sb = 32 << 10
	if !p.is(sb, "JFS1") {
		return finding{}, false
	}
	return finding{kind: "jfs", title: "JFS filesystem", label: p.text(sb+152, 16), uuid: p.uuid(sb + 136), why: notYet}, true
}

func findF2FS(p *probe) (finding, bool) {
	if p.le32(1024) != 0xF2F52010 {
		return finding{}, false
	}
	return finding{kind: "f2fs", title: "F2FS filesystem", label: utf16le(p.at(1024+124, 512)), uuid: p.uuid(1024 + 108), why: notYet}, true
}

func findSquashFS(p *probe) (finding, bool) {
	if !p.is(0, "hsqs") || p.le16(28) != 4 {
		return finding{}, false
	}
	return finding{kind: "squashfs", title: "SquashFS filesystem", why: notYet}, true
}

// findOptical recognises ISO 9660 (ECMA-119, 8.1) and UDF (ECMA-167, 2/9) by
// the volume descriptors from 32 KiB on.
func findOptical(p *probe) (finding, bool) {
	const first, descriptorBytes = 32 << 10, 2048
	for i := range int64(16) {
		if id := p.at(first+i*descriptorBytes+1, 5); string(id) == "NSR02" || string(id) == "NSR03" {
			return finding{kind: "udf", title: "UDF filesystem", why: notYet}, true
		}
	}
	if !p.is(first+1, "CD001") {
		return finding{}, false
	}
	return finding{kind: "iso9660", title: "ISO 9660 filesystem", label: p.text(first+40, 32), why: notYet}, true
}
