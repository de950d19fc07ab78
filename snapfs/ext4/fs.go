package ext4

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"sync"
	"syscall"

	"github.com/rowan-storage/rowan/snapfs/tree"
)

// FS is an opened filesystem. It implements [tree.FileSystem].
type FS struct {
	image    image
	sb       *superblock
	blocks   *lru[fsBlock, []byte]
	listings *lru[tree.Ino, *listing]

	// patches are the changes of fast commits, by inode.
	patches map[uint32]*patch
	// orphans are the inodes that a crash left in the middle of something.
	orphans map[uint32]bool
	// toFree is what sectorsToFree came to.
	toFree *lru[uint32, int64]

	notes []string
	used  func() int64
}

var _ tree.FileSystem = (*FS)(nil)

// Open opens the filesystem that begins at byte 0 of r, which is sizeBytes
// long, and recovers it in memory. r must be safe for concurrent use and must
// not change. Recovering a large journal takes time; when ctx is done Open ends
// with its error. The [FS] does not keep ctx.
//
// The error is [ErrNotExt4] if there is no such filesystem, wraps
// [ErrUnsupported] if it is of a kind that is not read, and is a
// [*CorruptError] if it is damaged such that nothing can be read. Damage to the
// journal is not an error; [FS.Info] tells of it.
func Open(ctx context.Context, r io.ReaderAt, sizeBytes int64) (*FS, error) {
	f := &FS{image: image{r: r, sizeBytes: sizeBytes}}
	f.dropCaches()
	sb, err := f.readSuperblock()
	if err != nil {
		return nil, err
	}
	f.sb, f.image.blockSize = sb, sb.blockSize
	fc, err := f.recoverJournal(ctx)
	if err != nil {
		return nil, err
	}
	f.noteState()
	if err := f.findOrphans(ctx); err != nil {
		return nil, err
	}
	if fc != nil {
		if err := f.replayFastCommits(fc); err != nil {
			return nil, err
		}
	}
	f.used = sync.OnceValue(f.usedBytes)
	return f, nil
}

// readSuperblock reads the superblock under what overlay there is.
func (f *FS) readSuperblock() (*superblock, error) {
	if f.image.sizeBytes < superblockOffset+superblockSize {
		return nil, ErrNotExt4
	}
	b := make([]byte, superblockSize)
	if err := f.image.readAt(b, superblockOffset); err != nil {
		return nil, err
	}
	return parseSuperblock(b)
}

// dropCaches forgets what was read before the overlay changed.
func (f *FS) dropCaches() {
	f.blocks = newLRU[fsBlock, []byte](metadataCacheBytes)
	f.listings = newLRU[tree.Ino, *listing](dirCacheEntries)
	f.toFree = newLRU[uint32, int64](orphanCacheEntries)
}

// noteState notes what the superblock says of the state of the filesystem.
func (f *FS) noteState() {
	sb := f.sb
	if hi, size := bits.Mul64(sb.blocks, uint64(sb.blockSize)); hi != 0 || size > uint64(f.image.sizeBytes) {
		f.note("The filesystem is larger than what it is on, %d bytes in %d: what is beyond the end cannot be read.",
			size, f.image.sizeBytes)
	}
	if sb.state&stateErrors != 0 {
		f.note("The filesystem is marked as having errors: it should be checked with e2fsck.")
	}
	if sb.state&stateValid == 0 && sb.compat&compatHasJournal == 0 {
		f.note("The filesystem was mounted when the image was taken and has no journal: " +
			"what was changed last may be missing or inconsistent.")
	}
}

// note adds a sentence for the administrator.
func (f *FS) note(format string, args ...any) {
	f.notes = append(f.notes, fmt.Sprintf(format, args...))
}

// count is a number of things in words.
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

// Info describes the filesystem.
func (f *FS) Info() tree.Info {
	return tree.Info{
		Type:      f.sb.kind(),
		Label:     f.sb.label,
		UUID:      uuidString(f.sb.uuid),
		SizeBytes: int64(f.sb.blocks) * f.sb.blockSize,
		UsedBytes: f.used(),
		Notes:     slices.Clone(f.notes),
	}
}

// usedBytes is what is allocated, the filesystem's own structures included.
func (f *FS) usedBytes() int64 {
	free, err := f.freeClusters()
	if err != nil {
		free = f.sb.freeClusters
	}
	if free > f.sb.blocks/f.sb.clusterRatio {
		return 0
	}
	return int64(f.sb.blocks-free*f.sb.clusterRatio) * f.sb.blockSize
}

// Root is the root directory.
func (f *FS) Root() tree.Ino { return rootIno }

// Stat returns the attributes of a file.
func (f *FS) Stat(ino tree.Ino) (tree.Attr, error) {
	in, err := f.usedInode(ino)
	if err != nil {
		return tree.Attr{}, err
	}
	a := f.attr(in)
	if f.orphans[in.ino] && f.patches[in.ino] == nil {
		a.Blocks -= f.sectorsToFree(in)
	}
	return a, nil
}

// Open gives access to the content of a regular file, as a [*File].
func (f *FS) Open(ino tree.Ino) (io.ReaderAt, error) {
	in, err := f.usedInode(ino)
	switch {
	case err != nil:
		return nil, err
	case in.typ() == modeDirectory:
		return nil, wrongType(in.ino, syscall.EISDIR)
	case in.typ() != modeRegular:
		return nil, wrongType(in.ino, syscall.EINVAL)
	case in.has(flagEncrypt):
		return nil, errEncrypted(in.ino, "the content of this file is")
	}
	return f.content(in)
}

// Longest target of a symbolic link: PATH_MAX without the NUL at its end.
const maxTarget = 4095

// Readlink returns the target of a symbolic link.
func (f *FS) Readlink(ino tree.Ino) (string, error) {
	in, err := f.usedInode(ino)
	switch {
	case err != nil:
		return "", err
	case in.typ() != modeSymlink:
		return "", wrongType(in.ino, syscall.EINVAL)
	case in.has(flagEncrypt):
		return "", errEncrypted(in.ino, "the target of this link is")
	case in.size == 0 || in.size > maxTarget:
		return "", in.corrupt("symbolic link of %d bytes", in.size)
	}
	target := make([]byte, in.size)
	if f.isShortLink(in) {
		if copy(target, in.blockArea()) < len(target) {
			return "", in.corrupt("symbolic link of %d bytes without blocks", in.size)
		}
	} else {
		fl, err := f.content(in)
		if err != nil {
			return "", err
		}
		if n, err := fl.ReadAt(target, 0); n < len(target) {
			return "", fmt.Errorf("ext4: inode %d: %w", in.ino, unexpectedEOF(err))
		}
	}
	if bytes.IndexByte(target, 0) >= 0 {
		return "", in.corrupt("symbolic link with a NUL in its target")
	}
	return string(target), nil
}

// isShortLink says whether the target is kept in i_block: there are no blocks
// but perhaps one for attributes. With ea_inode that is not a sure sign, and
// the length decides.
func (f *FS) isShortLink(in *inode) bool {
	if in.has(flagInlineData) {
		return false
	}
	if f.sb.incompat&incompatEAInode != 0 {
		return in.size < inodeBlockSize
	}
	var attributes int64
	if in.xattrBlock(f.sb) != 0 {
		attributes = f.sb.blockSize / 512 * int64(f.sb.clusterRatio)
	}
	return f.sectors(in) == attributes
}

// block reads a block of metadata. It is shared and must not be changed.
func (f *FS) block(b fsBlock) ([]byte, error) { return f.blockAhead(b, b+1) }

// blockAhead is block for one of a row of blocks of which more will be wanted,
// up to end.
func (f *FS) blockAhead(b, end fsBlock) ([]byte, error) {
	if !f.sb.validRange(b, 1) {
		return nil, &CorruptError{"block number", -1, fmt.Sprintf("%d of %d", b, f.sb.blocks)}
	}
	if p, ok := f.blocks.get(b); ok {
		return p, nil
	}
	bs := f.sb.blockSize
	off := int64(b) * bs
	n := min(int64(end-b), max(tableReadahead/bs, 1))
	if off > f.image.sizeBytes-n*bs {
		n = 1
	}
	buf := make([]byte, n*bs)
	err := f.image.readAt(buf, off)
	if err != nil && n > 1 && !timedOut(err) { // what was wanted may be sound
		n = 1
		err = f.image.readAt(buf[:bs], off)
	}
	if err != nil {
		return nil, err
	}
	for i := n - 1; i >= 0; i-- {
		f.blocks.put(b+fsBlock(i), slices.Clone(buf[i*bs:(i+1)*bs]), int(bs))
	}
	return buf[:bs:bs], nil
}
