// Package jbd2 reads the journal of ext3 and ext4 and says which blocks a
// recovery would write where. It writes nothing: the caller lays the blocks
// over the filesystem while it reads it.
//
// # The log
//
// A journal is a file of blocks as large as those of the filesystem. Block 0
// holds the superblock. From s_first on, the blocks are a ring; the log starts
// at block s_start with the transaction s_sequence, and s_start is 0 after a
// clean unmount. A transaction is
//
//	descriptor block   tags: which block of the filesystem each of the
//	                   following blocks is
//	data blocks        one for every tag, whole blocks of the filesystem
//	...                more descriptors with their data
//	revoke blocks      blocks of the filesystem that must not be written
//	                   from this or any earlier transaction
//	commit block       the transaction counts from here on
//
// Every block of it but the data begins with a magic number, a type and the
// number of the transaction. A data block that happens to begin with the magic
// number has it replaced by zeros and its tag says so ("escaped"). All numbers
// are big endian.
//
// # Checksums
//
// A journal has one of four kinds: none; v1, where the commit block carries
// one CRC-32 of the descriptors and data of its transaction; v2 and v3, where
// the superblock, descriptors, revoke blocks and commit blocks each carry a
// CRC-32C and the tags carry one of their data block (16 bits of it in v2).
//
// # Recovery
//
// [Journal.Recover] walks the log as fs/jbd2/recovery.c does: until the first
// block that does not continue it, which is where the crash was. A block that
// does belong to the log but contradicts its checksum ends the recovery before
// the transaction it is in, and the [Recovery] says so: what comes out is the
// state of the filesystem at the end of one transaction, always.
//
// Memory is in proportion to the blocks in the log, not to their content; the
// log is read once, and its revoke blocks twice. A log of more than two million
// blocks, or of which more than 16 GiB would have to be read, is refused.
//
// The package has no state of its own; a Journal may be used by several
// goroutines at once if its reader may.
package jbd2
