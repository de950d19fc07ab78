package ext4

// Bounds on what an image can make this package hold or do. All are far above
// what a filesystem in use comes to.
const (
	// maxListingBytes is how much memory the names of a directory may take when
	// it is listed: some three million. Each counts with dirEntryCost, no less
	// than what a tree.DirEntry in a slice that grows comes to, and its length.
	maxListingBytes = 256 << 20
	dirEntryCost    = 64

	// maxLaidOut is how many pieces a directory or a journal may be in.
	maxLaidOut = 1 << 20

	// maxXattrValue is the largest value of an extended attribute that Linux
	// hands out (XATTR_SIZE_MAX).
	maxXattrValue = 64 << 10

	// maxXattrTotal is the sum of the values of one inode.
	maxXattrTotal = 8 << 20

	// maxOrphans is how many orphans are looked at.
	maxOrphans = 1 << 20

	// orphanCacheEntries is of how many orphans it is kept how much space they
	// take.
	orphanCacheEntries = 1 << 16

	// maxTruncateNodes is how many blocks of the tree of an orphan are read to
	// find out how much space it takes.
	maxTruncateNodes = 1 << 14

	// maxFastCommitBytes is how much of the area for fast commits is read. Its
	// usual size is 256 blocks.
	maxFastCommitBytes = 16 << 20

	// maxPatchBytes is how much memory the changes of fast commits may take: a
	// copy of each inode that they name, the names and the pieces of files.
	maxPatchBytes = 64 << 20

	// metadataCacheBytes is the size of the cache of metadata blocks.
	metadataCacheBytes = 16 << 20

	// dirCacheEntries is how many names the cache of listings holds.
	dirCacheEntries = 1 << 18

	// maxListedDir is the size of a directory, in bytes, up to which looking
	// for one name reads all of them, to keep them.
	maxListedDir = 8 << 20

	// tableReadahead is how much of a table of inodes or groups is read at once.
	tableReadahead = 32 << 10

	// maxUnreadBlocks is how many blocks of a directory are passed over because
	// they cannot be read.
	maxUnreadBlocks = 16

	// dirReadahead is how much of a directory is read at once.
	dirReadahead = 256 << 10
)
