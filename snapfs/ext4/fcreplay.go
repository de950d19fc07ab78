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
	left    int64 // bytes of memory that patches may still take
}

// What patches take, in bytes, besides the inode and the names. They are no
// less than what a Go map and a slice that grow come to.
const (
	patchCost = 512
	rangeCost = 96
	nameCost  = 160
)

func newFCReplay(f *FS) *fcReplay { return &fcReplay{f: f, left: maxPatchBytes} }

// spend takes n bytes of what is left for patches.
func (r *fcReplay) spend(n int64) error {
	if r.left < n {
		return corruptFC("their changes take more than %d bytes of memory", maxPatchBytes)
	}
	r.left -= n
	return nil
}

// settle makes the patches ready for use.
func (r *fcReplay) settle() {
	for _, p := range r.f.patches {
		p.ranges, p.laid = lastLaid(p.laid), nil
	}
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
	if p := r.f.patches[ino]; p != nil {
		return p, nil
	}
	if err := r.spend(r.f.sb.inodeSize + patchCost); err != nil {
		return nil, err
	}
	raw, offset, err := r.f.rawInode(ino)
	if err != nil {
		return nil, err
	}
	p := &patch{raw: append([]byte(nil), raw...)}
	if p.free, err = r.f.neverUsed(ino); err != nil {
		return nil, err
	}
	p.free = p.free || p.links() == 0 && !r.f.orphans[ino]
	if !p.free {
		_, p.damage = r.f.verifyInode(ino, raw, offset)
	}
	r.f.patches[ino] = p
	return p, nil
}

// used is patch for what makes an inode one that is in use. If it was free,
// nothing of what it was before stays.
func (r *fcReplay) used(ino uint32) (*patch, error) {
	p, err := r.patch(ino)
	if err == nil && p.free {
		p.reset()
	}
	return p, err
}

func (r *fcReplay) addRange(ino uint32, e extent) error {
	p, err := r.used(ino)
	if err != nil {
		return err
	}
	if e.count == 0 || uint64(e.first)+e.count > maxFileBlocks || !r.f.sb.validRange(e.start, e.count) {
		return corruptFC("inode %d: blocks %d+%d of the file at %d", ino, e.first, e.count, e.start)
	}
	if e.unwritten {
		e.start = 0
	}
	return r.lay(p, placedRun{e.first, run{e.start, e.count}})
}

func (r *fcReplay) delRange(ino, first, count uint32) error {
	p, err := r.patch(ino)
	if err != nil {
		return err
	}
	if count == 0 {
		return nil
	}
	return r.lay(p, placedRun{fileBlock(first), run{0, min(uint64(count), maxFileBlocks-uint64(first))}})
}

// lay lays a range over those of a patch.
func (r *fcReplay) lay(p *patch, to placedRun) error {
	if err := r.spend(rangeCost); err != nil {
		return err
	}
	p.laid = append(p.laid, to)
	return nil
}

// inode takes over the fields of an inode. A tree of extents is not in the log:
// the one on disk stays, and the ranges say what is new.
func (r *fcReplay) inode(ino uint32, logged []byte) error {
	p, err := r.used(ino)
	if err != nil {
		return err
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
	return nil
}

// dentry adds a name to a directory, or takes it away.
func (r *fcReplay) dentry(typ uint16, parent, ino uint32, name []byte) error {
	if problem := nameProblem(name); problem != "" || isDots(name) {
		return corruptFC("directory %d: name %q", parent, name)
	}
	p, err := r.patch(ino)
	if err != nil {
		return err
	}
	dir, err := r.patch(parent)
	if err != nil {
		return err
	}
	if err := r.spend(nameCost + int64(len(name))); err != nil {
		return err
	}
	switch typ {
	case fcUnlink:
		dir.removeName(string(name), ino)
		p.setLinks(max(p.links(), 1) - 1)
		// A directory is left with the link that is its own "."; it has but one
		// name, and is not renamed in fast commits.
		p.free = p.links() == 0 || p.isDir()
	case fcLink:
		dir.addName(string(name), ino)
		p.setLinks(p.links() + 1)
	case fcCreate:
		dir.addName(string(name), ino)
		p.setLinks(max(p.links(), 1))
		p.fresh = p.isDir() // its block with "." and ".." is not in the log
	}
	return nil
}
