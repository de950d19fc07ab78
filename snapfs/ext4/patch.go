package ext4

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/rowan-storage/rowan/snapfs/tree"
)

// patch is what fast commits change about one inode.
type patch struct {
	raw    []byte      // the inode, instead of the one on disk
	damage error       // what is wrong with the inode on disk, if that matters
	free   bool        // nothing uses the inode
	fresh  bool        // a directory that has nothing on disk yet
	ranges []placedRun // instead of what the block map says, in order
	laid   []placedRun // while they are replayed: what is to become ranges, oldest first

	added   []tree.DirEntry // names in the directory; Ino 0: taken away again
	addedAt map[string]int
	removed map[removedName]bool
}

// removedName is a name on disk that is gone, if it leads to that inode.
type removedName struct {
	name string
	ino  tree.Ino
}

// inode decodes the inode as it is with the patch.
func (p *patch) inode(f *FS, ino uint32) (*inode, error) {
	switch {
	case p.damage != nil:
		return nil, p.damage
	case p.free:
		return nil, &CorruptError{fmt.Sprintf("inode %d", ino), -1, "has a name, but is not in use"}
	}
	return f.decodeInode(ino, p.raw, -1) // the fast commits' checksum has vouched for it
}

func (p *patch) links() uint16     { return le16(p.raw[inodeLinks:]) }
func (p *patch) setLinks(n uint16) { binary.LittleEndian.PutUint16(p.raw[inodeLinks:], n) }
func (p *patch) isDir() bool       { return le16(p.raw)&modeType == modeDirectory }

// reset makes the inode a new one, of which nothing is on disk.
func (p *patch) reset() {
	clear(p.raw)
	*p = patch{raw: p.raw, laid: []placedRun{{0, run{0, maxFileBlocks}}}}
}

// addName gives inode ino a name in the directory. One that is there already
// stays as it is.
func (p *patch) addName(name string, ino uint32) {
	if _, have := p.addedAt[name]; have {
		return
	}
	if p.addedAt == nil {
		p.addedAt = make(map[string]int)
	}
	p.addedAt[name] = len(p.added)
	p.added = append(p.added, tree.DirEntry{Name: name, Ino: tree.Ino(ino)})
}

// removeName takes the name of inode ino away.
func (p *patch) removeName(name string, ino uint32) {
	if i, have := p.addedAt[name]; have {
		if p.added[i].Ino == tree.Ino(ino) {
			p.added[i].Ino = 0
			delete(p.addedAt, name)
		}
		return
	}
	if p.removed == nil {
		p.removed = make(map[removedName]bool)
	}
	p.removed[removedName{name, tree.Ino(ino)}] = true
}

// isRemoved says whether entry e on disk is gone. There may be no patch.
func (p *patch) isRemoved(e tree.DirEntry) bool {
	return p != nil && p.removed[removedName{e.Name, e.Ino}]
}

// addedIno is the inode that name leads to if it is not on disk; 0 if to none.
// There may be no patch.
func (p *patch) addedIno(name string) tree.Ino {
	if p == nil {
		return 0
	}
	i, added := p.addedAt[name]
	if !added {
		return 0
	}
	return p.added[i].Ino
}

// applyNames changes what is on disk of a directory into what it is.
func (p *patch) applyNames(entries []tree.DirEntry, typeOf func(tree.Ino) tree.Type) []tree.DirEntry {
	if len(p.added) == 0 && len(p.removed) == 0 {
		return entries
	}
	have := make(map[string]bool, len(p.addedAt))
	entries = slices.DeleteFunc(entries, func(e tree.DirEntry) bool {
		gone := p.isRemoved(e)
		if _, added := p.addedAt[e.Name]; added && !gone {
			have[e.Name] = true
		}
		return gone
	})
	for _, e := range p.added {
		if e.Ino != 0 && !have[e.Name] {
			e.Type = typeOf(e.Ino)
			entries = append(entries, e)
		}
	}
	return entries
}

// typeOf is the type of an inode, if it can be told.
func (f *FS) typeOf(ino tree.Ino) tree.Type {
	in, err := f.inode(uint32(ino))
	if err != nil {
		return tree.Unknown
	}
	return in.fileType()
}
