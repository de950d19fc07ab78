package ext4

import (
	"context"
	"errors"
	"fmt"

	"github.com/rowan-storage/rowan/snapfs/ext4/crc32c"
)

// Orphans are inodes that a crash left in the middle of something: unlinked
// while they were open, and then there is no name that leads to them; or being
// truncated, and then blocks beyond their size are to be freed. Linux does
// either when it mounts the filesystem.
//
// They are in a list, which starts at s_last_orphan and goes on in i_dtime, or,
// with orphan_file, in a file, each block of which is
//
//	0x0    numbers of inodes, 4 bytes each; 0: unused
//	end-8  ob_magic     04 ca 10 0b
//	end-4  ob_checksum  with metadata_csum: CRC-32C of the number of the block
//	                    in the filesystem, 8 bytes, and of the inodes
const (
	orphanMagic    = 0x0b10ca04
	orphanTailSize = 8
)

// findOrphans notes which inodes are orphans. The kernel leaves them alone in a
// filesystem with errors.
func (f *FS) findOrphans(ctx context.Context) error {
	if f.sb.state&stateErrors != 0 {
		return nil
	}
	f.orphans = make(map[uint32]bool)
	err := f.orphanList(ctx)
	if err == nil {
		err = f.orphanFile(ctx)
	}
	if errors.Is(err, ErrCorrupt) {
		f.note("The list of orphaned inodes is damaged (%v): sizes on disk of some files may be too large.", err)
		return nil
	}
	return err
}

// orphan takes note of one orphan.
func (f *FS) orphan(ino uint32) (*inode, error) {
	in, err := f.inode(ino)
	if err != nil {
		return nil, err
	}
	f.orphans[ino] = true
	return in, nil
}

func (f *FS) orphanList(ctx context.Context) error {
	ino := f.sb.lastOrphan
	for range maxOrphans {
		if ino == 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("ext4: list of orphans: %w", err)
		}
		in, err := f.orphan(ino)
		if err != nil {
			return err
		}
		ino = le32(in.raw[inodeDtime:])
	}
	return &CorruptError{"list of orphans", -1, fmt.Sprintf("more than %d", maxOrphans)}
}

func (f *FS) orphanFile(ctx context.Context) error {
	if f.sb.compat&compatOrphanFile == 0 || f.sb.roCompat&roOrphanPresent == 0 {
		return nil
	}
	in, err := f.inode(f.sb.orphanFileIno)
	if err != nil {
		return err
	}
	m, err := f.blockMap(in)
	if err != nil {
		return err
	}
	bs := f.sb.blockSize
	runs, err := layOut(in, m, fileBlock(min(in.size, maxOrphans*4)/bs))
	if err != nil {
		return err
	}
	for _, r := range runs {
		for i := range r.count {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("ext4: orphan file: %w", err)
			}
			if r.start == 0 {
				return in.corrupt("orphan file: block %d is missing", r.at)
			}
			if err := f.orphanBlock(in, r.start+fsBlock(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *FS) orphanBlock(in *inode, block fsBlock) error {
	b, err := f.block(block)
	if err != nil {
		return err
	}
	end := len(b) - orphanTailSize
	problem := ""
	if m := le32(b[end:]); m != orphanMagic {
		problem = fmt.Sprintf("magic number %#08x", m)
	} else if want := crc32c.Update(crc32cUint64(in.seed, uint64(block)), b[:end]); f.sb.hasMetadataCsum() && want != le32(b[end+4:]) {
		problem = fmt.Sprintf("checksum %#08x, expected %#08x", le32(b[end+4:]), want)
	}
	if problem != "" {
		return &CorruptError{"orphan file", int64(block) * f.sb.blockSize, problem}
	}
	for ; end > 0; end -= 4 {
		if ino := le32(b[end-4:]); ino != 0 {
			if _, err := f.orphan(ino); err != nil {
				return err
			}
		}
	}
	return nil
}
