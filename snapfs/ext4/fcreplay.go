package ext4

import (
	"encoding/binary"
	"fmt"
)

// fcReplay applies the tags of fast commits one after the other, as
// fs/ext4/fast_commit.c does, but to patches in memory. Where the kernel would
// lose something that the log has (the target of a short symbolic link) or show
// something that the log has not (attributes of a file that had the inode
// before), this package goes by the log.
type fcReplay struct {
	f       *FS
	commits int
}

// block applies the tags in one block.
func (r *fcReplay) block(b []byte) error {
	for t, ok := nextFCTag(b); ok; t, ok = nextFCTag(b) {
		if err := r.apply(t); err != nil {
			return err
		}
		b = b[len(t.raw):]
	}
	return nil
}

func (r *fcReplay) apply(t fcTag) error {
	if !t.validLen(r.f.sb.inodeSize) {
		return corruptFC("tag %d with %d bytes", t.typ, len(t.value))
	}
	switch t.typ {
	case fcAddRange:
		return r.addRange(le32(t.value), parseExtent(t.value[4:]))
	case fcDelRange:
		return r.delRange(le32(t.value), le32(t.value[4:]), le32(t.value[8:]))
	case fcInode:
		return r.inode(le32(t.value), t.value[4:])
	case fcCreate, fcLink, fcUnlink:
		return r.dentry(t.typ, le32(t.value), le32(t.value[4:]), t.value[fcDentrySize:])
	case fcTail:
		r.commits++
	}
	return nil
}

func corruptFC(format string, args ...any) error {
	return &CorruptError{"fast commit", -1, fmt.Sprintf(format, args...)}
}

// patch finds or makes the patch of an inode.
func (r *fcReplay) patch(ino uint32) (*patch, error) {
	if ino > r.f.sb.inodes || ino != rootIno && ino < r.f.sb.firstIno {
		return nil, corruptFC("inode %d of %d", ino, r.f.sb.inodes)
	}
	p := r.f.patches[ino]
	if p == nil {
		p = &patch{}
		r.f.patches[ino] = p
	}
	return p, nil
}

// withInode is patch for a change to the inode itself.
func (r *fcReplay) withInode(ino uint32) (*patch, error) {
	p, err := r.patch(ino)
	if err != nil || p.raw != nil {
		return p, err
	}
	raw, _, err := r.f.rawInode(ino)
	if err != nil {
		return nil, err
	}
	p.raw = append([]byte(nil), raw...)
	p.deleted = le16(p.raw[inodeLinks:]) == 0
	return p, nil
}

func (r *fcReplay) addRange(ino uint32, e extent) error {
	p, err := r.patch(ino)
	if err != nil {
		return err
	}
	if e.count == 0 || uint64(e.first)+e.count > maxFileBlocks || !r.f.sb.validRange(e.start, e.count) {
		return corruptFC("inode %d: blocks %d+%d of the file at %d", ino, e.first, e.count, e.start)
	}
	if e.unwritten {
		e.start = 0
	}
	return p.setRange(placedRun{e.first, run{e.start, e.count}})
}

func (r *fcReplay) delRange(ino, first, count uint32) error {
	p, err := r.patch(ino)
	if err != nil {
		return err
	}
	if count == 0 {
		return nil
	}
	return p.setRange(placedRun{fileBlock(first), run{0, min(uint64(count), maxFileBlocks-uint64(first))}})
}

// inode takes over the fields of an inode. A tree of extents is not in the log:
// the one on disk stays, and the ranges say what is new. The inode may be one
// that was free, or has become so: then nothing of what it was stays.
func (r *fcReplay) inode(ino uint32, logged []byte) error {
	p, err := r.withInode(ino)
	if err != nil {
		return err
	}
	if p.deleted {
		p.reset()
	}
	copy(p.raw[:inodeBlock], logged)
	copy(p.raw[inodeBlockEnd:], logged[inodeBlockEnd:])
	area := p.raw[inodeBlock:inodeBlockEnd]
	if le32(p.raw[0x20:])&flagExtents == 0 {
		copy(area, logged[inodeBlock:inodeBlockEnd])
	} else if le16(area) != extentMagic {
		clear(area)
		binary.LittleEndian.PutUint16(area, extentMagic)
		binary.LittleEndian.PutUint16(area[4:], (inodeBlockSize-extentEntrySize)/extentEntrySize)
	}
	p.deleted = le16(p.raw[inodeLinks:]) == 0
	return nil
}

// dentry adds a name to a directory, or takes it away.
func (r *fcReplay) dentry(typ uint16, parent, ino uint32, name []byte) error {
	if problem := nameProblem(name); problem != "" || isDots(name) {
		return corruptFC("directory %d: name %q", parent, name)
	}
	p, err := r.withInode(ino)
	if err != nil {
		return err
	}
	dir, err := r.patch(parent)
	if err != nil {
		return err
	}
	links := le16(p.raw[inodeLinks:])
	switch typ {
	case fcUnlink:
		dir.removeName(string(name), ino)
		if links > 0 {
			links--
		}
		// A directory is left with the link that is its own "."; it has but one
		// name, and is not renamed in fast commits.
		if links == 0 || le16(p.raw)&modeType == modeDirectory {
			p.deleted = true
		}
	case fcLink:
		dir.addName(string(name), ino)
		p.deleted = false // a file that was made without a name
		links++
	case fcCreate:
		dir.addName(string(name), ino)
		links = max(links, 1)
		if le16(p.raw)&modeType == modeDirectory {
			p.fresh = true // its block with "." and ".." is not in the log
		}
	}
	binary.LittleEndian.PutUint16(p.raw[inodeLinks:], links)
	return nil
}
