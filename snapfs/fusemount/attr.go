package fusemount

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs/tree"
)

// How long the kernel may keep what it was told.
const (
	constantFor = 24 * time.Hour // of what is in a snapshot
	volatileFor = time.Second    // of lists, and of snapshots as such
)

// preferredBytes is what programs are told to read at once (st_blksize).
const preferredBytes = 4096

// typeBits are the bits of st_mode for a type.
func typeBits(t tree.Type) uint32 {
	switch t {
	case tree.Regular:
		return unix.S_IFREG
	case tree.Directory:
		return unix.S_IFDIR
	case tree.Symlink:
		return unix.S_IFLNK
	case tree.CharDevice:
		return unix.S_IFCHR
	case tree.BlockDevice:
		return unix.S_IFBLK
	case tree.FIFO:
		return unix.S_IFIFO
	case tree.Socket:
		return unix.S_IFSOCK
	}
	return 0
}

// setAttr fills in what FUSE has of the attributes.
func setAttr(out *fuse.Attr, a tree.Attr) {
	out.Ino = uint64(a.Ino)
	out.Size = uint64(a.Size)
	out.Blocks = uint64(a.Blocks)
	out.Atime, out.Atimensec = seconds(a.Atime)
	out.Mtime, out.Mtimensec = seconds(a.Mtime)
	out.Ctime, out.Ctimensec = seconds(a.Ctime)
	out.Mode = typeBits(a.Type) | a.Mode&0o7777
	out.Nlink = a.Nlink
	out.Uid, out.Gid = a.UID, a.GID
	out.Rdev = encodeDevice(a.Rdev)
	out.Blksize = preferredBytes
}

// setStatx fills in the attributes of statx(2), which has the time of creation.
func setStatx(out *fuse.Statx, a tree.Attr) {
	out.Mask = unix.STATX_BASIC_STATS
	out.Blksize = preferredBytes
	out.Nlink = a.Nlink
	out.Uid, out.Gid = a.UID, a.GID
	out.Mode = uint16(typeBits(a.Type) | a.Mode&0o7777)
	out.Ino = uint64(a.Ino)
	out.Size = uint64(a.Size)
	out.Blocks = uint64(a.Blocks)
	out.Atime.Sec, out.Atime.Nsec = seconds(a.Atime)
	out.Mtime.Sec, out.Mtime.Nsec = seconds(a.Mtime)
	out.Ctime.Sec, out.Ctime.Nsec = seconds(a.Ctime)
	out.RdevMajor, out.RdevMinor = unix.Major(a.Rdev), unix.Minor(a.Rdev)
	if !a.Btime.IsZero() {
		out.Mask |= unix.STATX_BTIME
		out.Btime.Sec, out.Btime.Nsec = seconds(a.Btime)
	}
}

// seconds is a time as FUSE has it: seconds since 1970, negative ones as their
// two's complement, and nanoseconds.
func seconds(t time.Time) (uint64, uint32) {
	if t.IsZero() {
		return 0, 0
	}
	return uint64(t.Unix()), uint32(t.Nanosecond())
}

// encodeDevice makes a device number one of 32 bits, as the kernel's
// new_encode_dev does.
func encodeDevice(rdev uint64) uint32 {
	major, minor := unix.Major(rdev), unix.Minor(rdev)
	return minor&0xff | major<<8 | (minor&^0xff)<<12
}
