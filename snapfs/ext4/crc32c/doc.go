// Package crc32c computes the checksums of ext4 and of its journal: CRC-32C as
// the kernel's crc32c() gives it, without the inversions at either end that
// others take as part of it. A checksum can so be continued over pieces, and
// from a seed such as the checksum of the filesystem's UUID; where there is none
// it starts from ^0.
//
// The package has no state; what comes in is never an error.
package crc32c
