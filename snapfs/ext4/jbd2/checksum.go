package jbd2

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
)

// crc32BE continues the bit-reversed form of the IEEE CRC-32 (the kernel's
// crc32_be) that v1 commit blocks carry. Reversing the bits of the data, of the
// start and of the result turns it into the usual form, for which there is
// hardware.
func crc32BE(crc uint32, p []byte) uint32 {
	crc = ^bits.Reverse32(crc)
	var buf [1024]byte
	for len(p) > 0 {
		n := copy(buf[:], p)
		p = p[n:]
		reverseBits(buf[:n])
		crc = crc32.Update(crc, crc32.IEEETable, buf[:n])
	}
	return bits.Reverse32(^crc)
}

// reverseBits reverses the order of the bits within each byte of p.
func reverseBits(p []byte) {
	for ; len(p) >= 8; p = p[8:] {
		v := binary.NativeEndian.Uint64(p)
		binary.NativeEndian.PutUint64(p, bits.ReverseBytes64(bits.Reverse64(v)))
	}
	for i, b := range p {
		p[i] = bits.Reverse8(b)
	}
}
