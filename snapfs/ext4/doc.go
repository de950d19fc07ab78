// Package ext4 reads ext2, ext3 and ext4 filesystems, also such as a crash or
// a snapshot beneath a running machine leaves: it implements
// [github.com/rowan-storage/rowan/snapfs/tree.FileSystem] and never writes.
//
// # What is shown
//
// The tree is the one that Linux shows after it has mounted the image and
// recovered it. A journal with something in it is read by package jbd2, and its
// blocks are laid over the image in memory (image.go): only their places are
// kept, not their content. Fast commits are applied on top of that as changes
// to single inodes and directories (fastcommit.go). Files that were unlinked
// while open are gone, and a truncation that the crash interrupted is taken as
// done (orphan.go). A journal that is itself damaged is applied as far as its
// checksums hold; [FS.Info] says so.
//
// # Where a byte comes from
//
//	superblock.go  geometry, features        -> group.go  where the inode table is
//	inode.go       the inode                 -> extent.go, indirect.go  file block to disk block
//	file.go        content of a file            inline.go  content kept in the inode
//	dir.go         names in a directory      -> dirblock.go, htree.go  one block of it
//	xattr.go       extended attributes       -> acl.go  POSIX ACLs as getxattr(2) has them
//	image.go       bytes of the image under the overlay; cache.go keeps blocks of metadata
//
// # Trust
//
// An image is hostile input. Every number taken from it is checked before it
// is used as a place, a length or a count; trees are as deep as the format
// allows and no deeper, and memory is bounded by the size of the image's own
// metadata or by the limits in limits.go. Whatever checksum the filesystem has
// is verified each time a structure is read. A contradiction is a
// [*CorruptError], which names the structure and its place. A feature that is
// not understood and that would change what is read is refused by name with
// [ErrUnsupported]; encrypted names and contents are refused with
// [ErrEncrypted], file by file.
//
// A read that the image cuts short is an error ([io.ErrUnexpectedEOF]), and
// never the end of a file.
//
// # Concurrency
//
// An [FS] does not change after Open, but for bounded caches (blocks of metadata,
// listings of directories, what orphans take), which lock. Its methods may be called
// from any number of goroutines.
//
// The format is that of the kernel's Documentation/filesystems/ext4, and where
// that is silent, of fs/ext4.
package ext4
