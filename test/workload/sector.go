package workload

import (
	"encoding/binary"
	"fmt"
)

// SectorSize is the smallest unit that is written, in bytes.
const SectorSize = 512

// zeroVersion is what a sector of zeros decodes to: never written, discarded
// or zeroed.
const zeroVersion = 0

const sectorMagic = 0x726f77616e766572

// encode fills one sector: magic, version, device, sector number, and a
// pattern made from the version.
func encode(p []byte, device, sector int, version uint64) {
	le := binary.LittleEndian
	le.PutUint64(p[0:], sectorMagic)
	le.PutUint64(p[8:], version)
	le.PutUint64(p[16:], uint64(device))
	le.PutUint64(p[24:], uint64(sector))
	for i := 32; i < SectorSize; i += 8 {
		le.PutUint64(p[i:], mix(version+uint64(i)))
	}
}

// decode returns the version that a sector holds, or says how it is neither
// zeros nor what encode wrote for this place.
func decode(p []byte, device, sector int) (uint64, error) {
	le := binary.LittleEndian
	magic, version := le.Uint64(p[0:]), le.Uint64(p[8:])
	if magic == 0 {
		for i, b := range p {
			if b != 0 {
				return 0, fmt.Errorf("byte %d is %#x in a sector that starts with zeros", i, b)
			}
		}
		return zeroVersion, nil
	}
	if magic != sectorMagic {
		return 0, fmt.Errorf("starts with %#x, which nobody wrote", magic)
	}
	if d, s := le.Uint64(p[16:]), le.Uint64(p[24:]); d != uint64(device) || s != uint64(sector) {
		return 0, fmt.Errorf("holds what was written to device %d sector %d", d, s)
	}
	for i := 32; i < SectorSize; i += 8 {
		if le.Uint64(p[i:]) != mix(version+uint64(i)) {
			return 0, fmt.Errorf("byte %d does not belong to the write %d that it starts with", i, version)
		}
	}
	return version, nil
}

// mix is the finaliser of SplitMix64: it spreads x over all 64 bits.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
