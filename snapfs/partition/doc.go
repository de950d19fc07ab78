// Package partition reads the partition table of a disk image: a master boot
// record with its chain of extended boot records, or a GUID partition table
// with its backup.
//
// The input is hostile. Every length and count that comes from the image has a
// bound, chains are followed at most maxLogical steps and never through the
// same sector twice, and arithmetic on sector numbers is done so that it
// cannot overflow. Checksums of a GPT are verified before anything in it is
// believed. What is wrong but does not prevent reading (a damaged primary
// header, overlapping entries, an entry that reaches past the end) is told in
// Notes, in sentences for the administrator.
//
// A FAT, NTFS, exFAT or ReFS volume on the bare disk ends its first sector
// with the same 55 AA as a master boot record; such a sector is recognised by
// its BIOS parameter block and is not taken for a table.
//
// The package does no I/O but ReadAt, starts no goroutine and keeps no state.
// Errors of ReadAt are returned wrapped, so that a caller can tell a disk that
// cannot be read from one that holds no table.
package partition
