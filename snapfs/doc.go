// Package snapfs shows the snapshots of LUNs as one tree of files: the image
// of each snapshot, the partitions and filesystems found in it, and the files
// in those.
//
//	/<lun>/
//	  <snapshot>/
//	    info.json          what the snapshot is and what was found inside
//	    disk.raw           the whole image
//	    p1-vfat-EFI/       each partition: number, filesystem, label
//	    fs/                a filesystem on the bare disk
//	  latest -> <snapshot> the newest one
//
// An area of a disk that cannot be read is a directory too and holds a README
// that says in one sentence why.
//
// # Parts
//
// A Source says which LUNs and snapshots there are and opens their images. A
// Root is the tree over a Source, keyed by inode number as FUSE wants it, with
// paths (Walk) and io/fs (FS) on top. Formats are told apart by the table in
// detect.go; package partition reads partition tables, and one package for
// each filesystem reads files (see package tree).
//
// # Inode numbers
//
// Numbers are unique over the whole tree and never reused. A file in a
// filesystem has the number of its volume in the upper bits and its own inode
// number in the lower inoBits, so that it keeps its number when everything
// about it has been forgotten and read again. LUNs, snapshots and the files
// made by this package have numbers below 1<<inoBits, from a counter.
//
// # When things are read
//
// Nothing is read from a snapshot before someone looks: entering its directory
// reads the partition table and the superblocks, entering a partition opens its
// filesystem. Looking at info.json opens every readable filesystem, because it
// tells what their readers had to say.
//
// The lists of LUNs and snapshots are kept for ListingAge. An image is closed
// when nobody has read it for ImageIdle and no file in it is open, because a
// snapshot in use cannot be deleted; it is opened again when needed. What was
// learned from it (the layout, opened filesystems) stays, since a snapshot does
// not change, and filesystems are forgotten after VolumeIdle.
//
// # Failures
//
// What comes from an image is hostile. A reader that panics is not called
// again for that volume: its directory becomes a README, files in it fail, and
// the panic is counted. An image that cannot be read (the daemon is away) is
// told from one that is damaged: the first is an error now and tried again at
// the next call, the second is remembered. Errors carry an errno, see Errno.
//
// # Damaged parts of an image
//
// Locate tells what parts of an image belong to, of which a scrub of the
// storage below has found that they are damaged: the readers know the inode or
// the structure (tree.Locator), one walk over the directories finds the names.
// It reads all inodes in use. A table or directory of which a part cannot be
// read is read around it.
//
// # Symbolic links
//
// Links are shown as they are stored and never resolved on the host. Walk
// follows them only inside of the filesystem that they are in, whose root is
// "/" to them, at most maxLinks times.
//
// # Concurrency
//
// A Root is safe for concurrent use. Lock order: Root.mu before image.mu. No
// lock is held while a Source, an Image or a reader is called.
package snapfs
