// Package fusemount puts things of Rowan's where the kernel sees them, through
// FUSE: the tree of snapshots (Mount), and one block device as a regular file
// that a loop device can be put on (ServeFile).
//
// # The tree of snapshots
//
// Node ids and inode numbers are those of snapfs, which are unique over the
// tree and lead to the file without a table: nothing is remembered of what the
// kernel has looked up, and nothing is to be forgotten.
//
// What is in a snapshot never changes. The kernel may keep names, absent names,
// attributes, targets of links, listings and contents of it for a day, and no
// data is invalidated by itself. The lists of LUNs and snapshots, and what is
// said of a snapshot, it keeps for a second. When snapfs finds that something
// did change (a filesystem whose reader failed has become a README) the kernel
// is told.
//
// The mount is read-only, and devices and set-id bits in it have no effect.
//
// # Who may look
//
// Owners and modes are shown as they are in the image and are not enforced:
// they are those of another machine's users. Who may look is decided by the
// mount. Without Options.AllowOther only the user who mounted may; with it
// everybody may read everything in every snapshot who can reach the mount point,
// so the mode of the directory above it should say who that is.
//
// # The block device
//
// The file is opened with direct I/O: nothing is cached between the loop device
// and the block device, so that what the loop device has written is in the block
// device when the write returns, and memory holds every block once. Writes and
// reads of it may run side by side. fsync becomes Flush, a punched hole becomes
// Discard, a zeroed range becomes WriteZeroes; errors come back as they are.
//
// # When the process dies
//
// The kernel ends the connection, and every access fails with ENOTCONN until
// the mount point is unmounted. Mount and ServeFile find such a mount of an
// earlier process on their directory and take it away first.
//
// # Concurrency
//
// Requests are served in parallel. Each Server has one goroutine that serves;
// Wait and Unmount wait for it.
package fusemount
