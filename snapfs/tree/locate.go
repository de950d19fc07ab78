package tree

import "context"

// Range is a part of a filesystem's image, in bytes.
type Range struct {
	OffsetBytes int64
	LengthBytes int64
}

// Owner is what a part of an image belongs to.
type Owner struct {
	// Ino is the file, 0 where it is the filesystem's own.
	Ino Ino
	// Part is what of the file it holds, one of the constants below, or which
	// structure of the filesystem, such as "journal".
	Part string
}

// The parts of a file.
const (
	Content    = "content"    // of a directory: names
	Unwritten  = "unwritten"  // allocated, reads as zeros whatever it holds
	Attributes = "attributes" // extended ones
	BlockMap   = "block map"  // where the content is
	Inode      = "inode"
)

// Locator is a FileSystem that can tell what parts of its image belong to, also
// where these cannot be read.
type Locator interface {
	// Locate calls yield with the index of a range and what it, or a part of
	// it, belongs to; several times if that is several things, and perhaps more
	// than once for one thing. A range for which nothing is told is free. With
	// an error not everything was found: it is that of ctx, or says what could
	// not be read. What was told holds nevertheless.
	Locate(ctx context.Context, ranges []Range, yield func(i int, o Owner)) error
}
