package partition

// mbrTypes are the meanings of the type byte of an entry.
var mbrTypes = [256]string{
	0x01: "FAT12",
	0x04: "FAT16",
	0x06: "FAT16",
	0x05: "Extended",
	0x07: "NTFS, exFAT or HPFS",
	0x0B: "FAT32",
	0x0C: "FAT32 (LBA)",
	0x0E: "FAT16 (LBA)",
	0x0F: "Extended (LBA)",
	0x11: "Hidden FAT or NTFS",
	0x14: "Hidden FAT or NTFS",
	0x16: "Hidden FAT or NTFS",
	0x17: "Hidden FAT or NTFS",
	0x1B: "Hidden FAT or NTFS",
	0x1C: "Hidden FAT or NTFS",
	0x1E: "Hidden FAT or NTFS",
	0x27: "Windows recovery",
	0x42: "Windows dynamic disk",
	0x82: "Linux swap",
	0x83: "Linux filesystem",
	0x85: "Linux extended",
	0x8E: "Linux LVM",
	0xA5: "FreeBSD",
	0xA6: "OpenBSD",
	0xA8: "macOS UFS",
	0xA9: "NetBSD",
	0xAF: "macOS HFS+",
	0xBE: "Solaris",
	0xBF: "Solaris",
	0xDA: "Non-filesystem data",
	0xE8: "LUKS",
	0xEE: "GPT protective",
	0xEF: "EFI system (FAT)",
	0xFB: "VMware VMFS",
	0xFC: "VMware core dump",
	0xFD: "Linux RAID",
}

// mbrTypeName is the meaning of a type byte, "" if it is not known.
func mbrTypeName(kind byte) string { return mbrTypes[kind] }

// gptTypes are the meanings of type GUIDs, by the UEFI specification, the
// Discoverable Partitions Specification and the vendors' lists.
var gptTypes = [...]struct{ guid, name string }{
	{"C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "EFI system"},
	{"21686148-6449-6E6F-744E-656564454649", "BIOS boot"},
	{"024DEE41-33E7-11D3-9D69-0008C781F39F", "MBR partition scheme"},
	{"E3C9E316-0B5C-4DB8-817D-F92DF00215AE", "Microsoft reserved"},
	{"EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "Microsoft basic data"},
	{"5808C8AA-7E8F-42E0-85D2-E1E90434CFB3", "Windows dynamic disk metadata"},
	{"AF9B60A0-1431-4F62-BC68-3311714A69AD", "Windows dynamic disk data"},
	{"DE94BBA4-06D1-4D40-A16A-BFD50179D6AC", "Windows recovery"},
	{"E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D", "Microsoft Storage Spaces"},
	{"0FC63DAF-8483-4772-8E79-3D69D8477DE4", "Linux filesystem"},
	{"4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "Linux root (x86-64)"},
	{"B921B045-1DF0-41C3-AF44-4C6F280D3FAE", "Linux root (ARM64)"},
	{"BC13C2FF-59E6-4262-A352-B275FD6F7172", "Linux extended boot"},
	{"933AC7E1-2EB4-4F13-B844-0E14E2AEF915", "Linux home"},
	{"3B8F8425-20E0-4F3B-907F-1A25A76F98E8", "Linux server data"},
	{"4D21B016-B534-45C2-A9FB-5C16E091FD2D", "Linux variable data"},
	{"0657FD6D-A4AB-43C4-84E5-0933C84B4F4F", "Linux swap"},
	{"E6D6D379-F507-44C2-A23C-238F2A3DF928", "Linux LVM"},
	{"A19D880F-05FC-4D3B-A006-743F0F84911E", "Linux RAID"},
	{"CA7D7CCB-63ED-4C53-861C-1742536059CC", "LUKS"},
	{"516E7CB4-6ECF-11D6-8FF8-00022D09712B", "FreeBSD"},
	{"516E7CB6-6ECF-11D6-8FF8-00022D09712B", "FreeBSD UFS"},
	{"516E7CBA-6ECF-11D6-8FF8-00022D09712B", "FreeBSD ZFS"},
	{"6A898CC3-1DD2-11B2-99A6-080020736631", "ZFS"},
	{"48465300-0000-11AA-AA11-00306543ECAC", "macOS HFS+"},
	{"7C3457EF-0000-11AA-AA11-00306543ECAC", "macOS APFS"},
	{"AA31E02A-400F-11DB-9590-000C2911D1B8", "VMware VMFS"},
	{"9D275380-40AD-11DB-BF97-000C2911D1B8", "VMware core dump"},
	{"9198EFFC-31C0-11DB-8F78-000C2911D1B8", "VMware reserved"},
	{"4FBD7E29-9D25-41B8-AFD0-062C0CEFF05D", "Ceph OSD"},
}

// gptTypeName is the meaning of a type GUID, "" if it is not known.
func gptTypeName(guid string) string {
	for _, t := range gptTypes {
		if t.guid == guid {
			return t.name
		}
	}
	return ""
}
