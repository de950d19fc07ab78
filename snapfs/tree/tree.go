// Package tree declares what every filesystem reader of snapfs offers: an
// inode-keyed, read-only tree with exact metadata. It holds types only.
package tree

import (
	"io"
	"time"
)

// Ino names a file within one filesystem. It is the inode number where the
// filesystem has one.
type Ino uint64

// Type is the type of a file, in the terms of inode(7).
type Type uint8

// The types of files.
const (
	Unknown Type = iota
	Regular
	Directory
	Symlink
	CharDevice
	BlockDevice
	FIFO
	Socket
)

// Attr is what stat(2) would say of a file.
type Attr struct {
	Ino    Ino
	Type   Type
	Mode   uint32 // permission, set-id and sticky bits (07777)
	UID    uint32
	GID    uint32
	Nlink  uint32
	Size   int64  // bytes
	Blocks int64  // 512-byte units that hold data
	Rdev   uint64 // devices: makedev(3) in Linux's 64-bit encoding
	Atime  time.Time
	Mtime  time.Time
	Ctime  time.Time
	Btime  time.Time // creation; zero where the filesystem does not record it
}

// DirEntry is one name in a directory. Name never holds '/' or NUL and is
// never empty, "." or "..".
type DirEntry struct {
	Name string
	Ino  Ino
	Type Type // Unknown where the directory does not say
}

// FileSystem is an opened filesystem image. All methods are safe for
// concurrent use and never write to the image. Damage is reported as an error
// that names the structure and its place; it never panics, loops or returns
// data that a checksum of the format contradicts.
type FileSystem interface {
	// Info describes the filesystem.
	Info() Info
	// Root is the root directory.
	Root() Ino
	Stat(ino Ino) (Attr, error)
	// ReadDir lists a directory without "." and "..", in the order of the
	// image. If part of it is damaged, or there are more names than it makes
	// room for, it returns what could be read and an error. The caller may
	// change what it gets.
	ReadDir(ino Ino) ([]DirEntry, error)
	// Lookup finds one name in a directory; fs.ErrNotExist if there is none.
	Lookup(dir Ino, name string) (Ino, error)
	// Open gives random access to the content of a regular file. A read that
	// ends at the end of the file returns io.EOF; any other short read is an
	// error of its own.
	Open(ino Ino) (io.ReaderAt, error)
	// Readlink returns the target of a symbolic link, as it is stored.
	Readlink(ino Ino) (string, error)
	// Xattrs returns the extended attributes by their full Linux names
	// ("user.x", "system.posix_acl_access", …) with values as getxattr(2)
	// gives them.
	Xattrs(ino Ino) (map[string][]byte, error)
}

// Info describes a filesystem.
type Info struct {
	Type      string // "ext4", "xfs", …
	Label     string
	UUID      string
	SizeBytes int64
	UsedBytes int64
	// Notes are sentences for the administrator: a journal that was replayed,
	// one that was damaged and replayed only in part.
	Notes []string
}
