package crc32c

import "hash/crc32"

// Update continues crc over p.
func Update(crc uint32, p []byte) uint32 {
	return ^crc32.Update(^crc, crc32.MakeTable(crc32.Castagnoli), p)
}

// Without is Update with the n bytes of p at off, at most 4, taken as zeros: the
// place where the checksum itself is stored.
func Without(crc uint32, p []byte, off, n int) uint32 {
	var zeros [4]byte
	crc = Update(crc, p[:off])
	crc = Update(crc, zeros[:n])
	return Update(crc, p[off+n:])
}
