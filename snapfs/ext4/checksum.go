package ext4

import (
	"encoding/binary"

	"github.com/rowan-storage/rowan/snapfs/ext4/crc32c"
)

// crc32cUint32 and crc32cUint64 continue a checksum over a number as it is stored.
func crc32cUint32(crc, v uint32) uint32 {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	return crc32c.Update(crc, b[:])
}

func crc32cUint64(crc uint32, v uint64) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	return crc32c.Update(crc, b[:])
}

// crc16 continues the CRC-16 (polynomial 0x8005, reflected) that group
// descriptors have with uninit_bg. They are short and seldom read: bit by bit
// is fast enough.
func crc16(crc uint16, p []byte) uint16 {
	for _, b := range p {
		crc ^= uint16(b)
		for range 8 {
			if crc&1 != 0 {
				crc = crc>>1 ^ 0xa001
			} else {
				crc >>= 1
			}
		}
	}
	return crc
}

func le16(p []byte) uint16 { return binary.LittleEndian.Uint16(p) }
func le32(p []byte) uint32 { return binary.LittleEndian.Uint32(p) }

// join64 puts a number together that is stored in two halves.
func join64(lo, hi uint32) uint64 { return uint64(hi)<<32 | uint64(lo) }
