package snapfs

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// findLUKS recognises LUKS 1 and 2 (LUKS On-Disk Format): "LUKS" BA BE, the
// version in big-endian, a label in version 2, the UUID as text at 168.
func findLUKS(p *probe) (finding, bool) {
	version := p.be16(6)
	if !p.is(0, "LUKS\xBA\xBE") || version != 1 && version != 2 {
		return finding{}, false
	}
	f := finding{kind: "luks", title: fmt.Sprintf("LUKS%d volume", version), uuid: p.text(168, 40), why: encrypted}
	if version == 2 {
		f.label = p.text(24, 48)
	}
	return f, true
}

// findBitLocker recognises a BitLocker volume by the OEM name of its boot
// sector, and BitLocker To Go, which looks like FAT, by the GUID at 424.
func findBitLocker(p *probe) (finding, bool) {
	const toGo = "\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01"
	if !p.is(3, "-FVE-FS-") && !(p.is(3, "MSWIN4.1") && p.is(424, toGo)) {
		return finding{}, false
	}
	return finding{kind: "bitlocker", title: "BitLocker volume", why: encrypted}, true
}

// findLVM2 recognises a physical volume by the label in one of the first four
// sectors: "LABELONE", the offset of the rest at 20, the type at 24.
func findLVM2(p *probe) (finding, bool) {
	for sector := range int64(4) {
		at := sector * 512
		if p.is(at, "LABELONE") && p.is(at+24, "LVM2 001") {
			f := finding{kind: "lvm2", title: "LVM2 physical volume", why: notYet}
			if off := int64(p.le32(at + 20)); off < 512 {
				f.uuid = p.text(at+off, 32)
			}
			return f, true
		}
	}
	return finding{}, false
}

// mdMagic begins a superblock of Linux software RAID (md(4)).
const mdMagic = 0xA92B4EFC

// findMD recognises version 1.1 (at the start) and 1.2 (at 4 KiB):
//
//	0  4   magic
//	4  4   1
//	16 16  UUID of the set
//	32 32  name of the set
//	72 4   level
func findMD(p *probe) (finding, bool) {
	for _, at := range []int64{0, 4096} {
		if p.le32(at) == mdMagic && p.le32(at+4) == 1 {
			return mdFinding(p, at, int32(p.le32(at+72))), true
		}
	}
	return finding{}, false
}

// findMDAtEnd recognises the versions 1.0 and 0.90, which lie at the end. It
// comes after the filesystems: a member of a mirror begins with the filesystem
// and can be read like it.
func findMDAtEnd(p *probe) (finding, bool) {
	sectors := p.sizeBytes / 512
	if at := ((sectors - 16) &^ 7) * 512; at > 0 && p.le32(at) == mdMagic && p.le32(at+4) == 1 {
		return mdFinding(p, at, int32(p.le32(at+72))), true
	}
	at := p.sizeBytes&^(64<<10-1) - 64<<10
	if at < 0 {
		return finding{}, false
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		b := p.at(at, 32)
		if order.Uint32(b) == mdMagic && order.Uint32(b[4:]) == 0 && order.Uint32(b[8:]) == 90 {
			return finding{kind: "md", title: mdTitle(int32(order.Uint32(b[28:]))), why: notYet}, true
		}
	}
	return finding{}, false
}

func mdFinding(p *probe, at int64, level int32) finding {
	return finding{kind: "md", title: mdTitle(level), label: p.text(at+32, 32), uuid: p.uuid(at + 16), why: notYet}
}

func mdTitle(level int32) string {
	if level < 0 {
		return "Linux RAID member"
	}
	return fmt.Sprintf("Linux RAID%d member", level)
}

// findZFS recognises a member of a ZFS pool by an uberblock, in either byte
// order, in the first or second label, which are 256 KiB long (ZFS On-Disk
// Specification, chapter 1).
func findZFS(p *probe) (finding, bool) {
	const labelBytes, uberblocks, step = 256 << 10, 128 << 10, 1024
	for label := range int64(2) {
		for slot := range int64(128) {
			b := p.at(label*labelBytes+uberblocks+slot*step, 8)
			if binary.LittleEndian.Uint64(b) == 0x00BAB10C || binary.BigEndian.Uint64(b) == 0x00BAB10C {
				return finding{kind: "zfs", title: "Member of a ZFS pool", why: notYet}, true
			}
		}
	}
	return finding{}, false
}

// findVMFS recognises VMFS 3, 5 and 6 by the volume information at 1 MiB.
func findVMFS(p *probe) (finding, bool) {
	const info = 1 << 20
	if p.le32(info) != 0xC001D00D {
		return finding{}, false
	}
	return finding{kind: "vmfs", title: "VMFS volume", why: notYet}, true
}

// findBcache recognises a device of bcache or a bcachefs filesystem by the
// magic at 4 KiB.
func findBcache(p *probe) (finding, bool) {
	const magic = 4096 + 24
	switch {
	case p.is(magic, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"):
		return finding{kind: "bcache", title: "bcache device", why: notYet}, true
	case p.is(magic, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"):
		return finding{kind: "bcachefs", title: "bcachefs filesystem", why: notYet}, true
	}
	return finding{}, false
}

// findBlueStore recognises a Ceph OSD by its label.
func findBlueStore(p *probe) (finding, bool) {
	if !p.is(0, "bluestore block device\n") {
		return finding{}, false
	}
	return finding{kind: "bluestore", title: "Ceph BlueStore device", why: notYet}, true
}

// findSwap recognises swap space by the magic at the end of its first page, and
// a machine that was suspended to it, which leaves its own there.
func findSwap(p *probe) (finding, bool) {
	for page := int64(4096); page <= 64<<10; page *= 2 {
		switch magic := string(p.at(page-10, 10)); {
		case magic == "SWAPSPACE2" || magic == "SWAP-SPACE":
			return finding{kind: "swap", title: "Linux swap space", label: p.text(1052, 16), uuid: p.uuid(1036), why: noFiles}, true
		case strings.HasPrefix(magic, "S1SUSPEND"), strings.HasPrefix(magic, "S2SUSPEND"),
			strings.HasPrefix(magic, "ULSUSPEND"), strings.HasPrefix(magic, "LINHIB0001"):
			return finding{kind: "hibernation", title: "Linux swap space with the memory of a hibernated machine", why: noFiles,
				notes: []string{"The machine was hibernated: its filesystems may lack what it held in memory."}}, true
		}
	}
	return finding{}, false
}
