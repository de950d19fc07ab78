package partition

import (
	"bytes"
	"encoding/binary"
)

// VolumeBootSector tells whether a sector is the first of a FAT, NTFS, exFAT,
// ReFS or BitLocker volume and not a master boot record, though it may end
// with 55 AA as well.
//
//	0  3  jump: EB xx 90 or E9 xx xx
//	3  8  OEM name
//	11 2  bytes per sector
//	13 1  sectors per cluster
//	14 2  reserved sectors
//	16 1  number of FATs
//	17 2  root entries (FAT12, FAT16)
//	19 2  sectors, if below 65536
//	21 1  media descriptor
//	22 2  sectors per FAT (FAT12, FAT16)
//	32 4  sectors
//	36 4  sectors per FAT (FAT32)
func VolumeBootSector(sector []byte) bool {
	if len(sector) < 512 {
		return false
	}
	oem := sector[3:11]
	for _, name := range []string{"NTFS    ", "EXFAT   ", "-FVE-FS-", "ReFS\x00\x00\x00\x00"} {
		if bytes.Equal(oem, []byte(name)) {
			return true
		}
	}
	return fatParameters(sector)
}

// fatParameters checks the BIOS parameter block of a FAT volume (Microsoft FAT
// specification 1.03, "Boot Sector and BPB").
func fatParameters(s []byte) bool {
	jump := s[0] == 0xEB && s[2] == 0x90 || s[0] == 0xE9
	bytesPerSector := binary.LittleEndian.Uint16(s[11:])
	perCluster := s[13]
	media := s[21]
	if !jump || bytesPerSector < 512 || bytesPerSector > 4096 || bytesPerSector&(bytesPerSector-1) != 0 {
		return false
	}
	if perCluster == 0 || perCluster&(perCluster-1) != 0 || media != 0xF0 && media < 0xF8 {
		return false
	}
	reserved, fats := binary.LittleEndian.Uint16(s[14:]), s[16]
	if reserved == 0 || fats == 0 || fats > 4 {
		return false
	}
	sectors := uint32(binary.LittleEndian.Uint16(s[19:]))
	if sectors == 0 {
		sectors = binary.LittleEndian.Uint32(s[32:])
	}
	perFAT := uint32(binary.LittleEndian.Uint16(s[22:]))
	if perFAT == 0 {
		perFAT = binary.LittleEndian.Uint32(s[36:])
	}
	return perFAT != 0 && uint64(reserved)+uint64(fats)*uint64(perFAT) < uint64(sectors)
}
