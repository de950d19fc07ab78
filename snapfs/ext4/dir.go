package ext4

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"slices"
	"syscall"

	"github.com/rowan-storage/rowan/snapfs/tree"
)

// errFound ends a walk over a directory.
var errFound = errors.New("found")

// listing is what a directory holds. It does not change.
type listing struct {
	entries []tree.DirEntry
	byName  map[string]tree.Ino // nil if there are too many to be kept
	damage  error               // what kept other entries from being listed
}

// newListing makes a listing. twice is a name that occurs twice, if one does;
// the first one counts.
func newListing(entries []tree.DirEntry) (l *listing, twice string) {
	l = &listing{entries: entries}
	if l.cost() > dirCacheEntries {
		return l, nameTwice(entries)
	}
	l.byName = make(map[string]tree.Ino, len(entries))
	for _, e := range entries {
		if _, have := l.byName[e.Name]; have {
			twice = e.Name
			continue
		}
		l.byName[e.Name] = e.Ino
	}
	return l, twice
}

// cost is what the listing takes of the cache.
func (l *listing) cost() int { return len(l.entries) + 1 }

// find looks a name up; 0: it is not there.
func (l *listing) find(name string) tree.Ino {
	if l.byName != nil {
		return l.byName[name]
	}
	if i := slices.IndexFunc(l.entries, func(e tree.DirEntry) bool { return e.Name == name }); i >= 0 {
		return l.entries[i].Ino
	}
	return 0
}

// nameTwice finds a name that occurs twice, with 8 bytes of memory for each.
func nameTwice(entries []tree.DirEntry) string {
	seed := maphash.MakeSeed()
	sums := make([]uint64, len(entries))
	for i, e := range entries {
		sums[i] = maphash.String(seed, e.Name)
	}
	slices.Sort(sums)
	twice := sums[:0]
	for i := 1; i < len(sums); i++ {
		if sums[i] == sums[i-1] {
			twice = append(twice, sums[i])
		}
	}
	if len(twice) == 0 {
		return ""
	}
	seen := make(map[string]bool)
	for _, e := range entries {
		if _, suspect := slices.BinarySearch(twice, maphash.String(seed, e.Name)); !suspect {
			continue
		}
		if seen[e.Name] {
			return e.Name
		}
		seen[e.Name] = true
	}
	return ""
}

// directory is the inode of a directory whose names can be read.
func (f *FS) directory(ino tree.Ino) (*inode, error) {
	in, err := f.usedInode(ino)
	switch {
	case err != nil:
		return nil, err
	case in.typ() != modeDirectory:
		return nil, wrongType(in.ino, syscall.ENOTDIR)
	case in.has(flagEncrypt):
		return nil, errEncrypted(in.ino, "names in this directory are")
	}
	return in, nil
}

// ReadDir lists a directory in the order of its blocks.
func (f *FS) ReadDir(ino tree.Ino) ([]tree.DirEntry, error) {
	l, err := f.list(ino)
	if l == nil {
		return nil, err
	}
	if l.byName == nil { // not in the cache: it is the caller's
		return l.entries, err
	}
	return slices.Clone(l.entries), err
}

// Lookup finds one name in a directory.
func (f *FS) Lookup(dir tree.Ino, name string) (tree.Ino, error) {
	in, err := f.directory(dir)
	if err != nil {
		return 0, err
	}
	var ino tree.Ino
	if in.size > maxListedDir {
		ino, err = f.scanFor(in, name)
	} else {
		var l *listing
		if l, err = f.list(dir); l != nil {
			ino = l.find(name)
		}
	}
	if ino != 0 { // whatever is damaged elsewhere
		return ino, nil
	}
	if err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("ext4: %q in directory %d: %w", name, dir, fs.ErrNotExist)
}

// scanFor looks for name in a directory that is too large for the cache. It
// returns 0 if it is not there.
func (f *FS) scanFor(in *inode, name string) (ino tree.Ino, err error) {
	p := f.patches[in.ino]
	err = f.walkDir(in, func(e tree.DirEntry) error {
		if e.Name != name || p.isRemoved(e) {
			return nil
		}
		ino = e.Ino
		return errFound
	})
	if err == errFound {
		return ino, nil
	}
	return p.addedIno(name), err
}

// list gives what is in a directory, from the cache if it is there. With an
// error the listing has what could be read.
func (f *FS) list(ino tree.Ino) (*listing, error) {
	if l, ok := f.listings.get(ino); ok {
		return l, l.damage
	}
	in, err := f.directory(ino)
	if err != nil {
		return nil, err
	}
	var entries []tree.DirEntry
	left := maxListingBytes
	err = f.walkDir(in, func(e tree.DirEntry) error {
		if left -= dirEntryCost + len(e.Name); left < 0 {
			return unsupportedf("directory %d: only its first %d names are listed, since more would take over %d bytes of memory; "+
				"the others can be opened by name", ino, len(entries), maxListingBytes)
		}
		entries = append(entries, e)
		return nil
	})
	if p := f.patches[in.ino]; p != nil {
		entries = p.applyNames(entries, f.typeOf)
	}
	// Checksums tell a block of another directory, but not another block of the
	// same one.
	l, twice := newListing(entries)
	if err == nil && twice != "" {
		err = in.corrupt("directory with two names %q", twice)
	}
	if err == nil || errors.Is(err, ErrCorrupt) { // an error of reading may pass
		l.damage = err
		f.listings.put(ino, l, l.cost())
	}
	return l, err
}

// dirWalk is one walk over the blocks of a directory.
type dirWalk struct {
	f     *FS
	in    *inode
	yield func(tree.DirEntry) error

	damage  error // the first found
	damaged int   // how many there are
	stop    error // from yield

	pointers uint64 // in all blocks of the index

	unreadErr error // of the first block that could not be read
	unread    int
}

// walkDir calls yield for every name in a directory but "." and "..". What is
// damaged, and the first blocks that cannot be read, are passed over, and told
// by the error; further errors of reading, or one of yield, end the walk.
func (f *FS) walkDir(in *inode, yield func(tree.DirEntry) error) error {
	w := &dirWalk{f: f, in: in, yield: yield}
	var err error
	switch p := f.patches[in.ino]; {
	case p != nil && p.fresh:
	case in.has(flagInlineData):
		err = w.inline()
	default:
		err = w.blocks()
	}
	if err == nil {
		err = w.unreadErr
	}
	switch {
	case w.stop != nil:
		return w.stop
	case err != nil:
		return fmt.Errorf("ext4: directory %d: %w", in.ino, err)
	case w.damaged > 1:
		return fmt.Errorf("ext4: directory %d: %w (and %d more)", in.ino, w.damage, w.damaged-1)
	}
	return w.damage
}

// note records damage at byte off of the filesystem.
func (w *dirWalk) note(off int64, problem string) {
	if w.damage == nil {
		w.damage = &CorruptError{fmt.Sprintf("directory %d", w.in.ino), off, problem}
	}
	w.damaged++
}

func (w *dirWalk) inline() error {
	parts, err := w.f.inlineEntries(w.in)
	if err != nil {
		return err
	}
	for _, part := range parts {
		w.entries(part, w.in.offset)
		if w.stop != nil {
			return w.stop
		}
	}
	return nil
}

// entries passes on the entries in b, which is at byte off of the filesystem.
func (w *dirWalk) entries(b []byte, off int64) {
	problem, sound := w.f.sb.parseDirBlock(b, func(d dirent) {
		if w.stop != nil || isDots(d.name) {
			return
		}
		if p := nameProblem(d.name); p != "" {
			w.note(off, p)
			return
		}
		w.stop = w.yield(tree.DirEntry{Name: string(d.name), Ino: tree.Ino(d.ino), Type: entryType(d.typ)})
	})
	if problem != "" && w.stop == nil {
		w.note(off+int64(sound), problem)
	}
}

// blocks walks over a directory that has blocks. No block of the filesystem can
// be in it twice, which bounds the walk whatever the map says.
func (w *dirWalk) blocks() error {
	bs := w.f.sb.blockSize
	if w.in.size%bs != 0 {
		w.note(w.in.offset, fmt.Sprintf("size %d is not a multiple of the block size", w.in.size))
	}
	m, err := w.f.blockMap(w.in)
	if err != nil {
		return err
	}
	// An error leaves what comes before it in the layout.
	runs, mapErr := layOut(w.in, m, fileBlock(w.in.size/bs))
	for _, r := range runs {
		if r.start == 0 {
			w.note(w.in.offset, fmt.Sprintf("blocks %d+%d of it are missing", r.at, r.count))
		} else if err := w.run(r); err != nil {
			return err
		}
		if w.stop != nil {
			return w.stop
		}
	}
	// Every block but the root of the index is what one pointer leads to.
	if others := uint64(w.in.size/bs) - 1; mapErr == nil && w.damaged+w.unread == 0 && w.pointers != 0 && w.pointers != others {
		w.note(w.in.offset, fmt.Sprintf("index leads to %d blocks of %d", w.pointers, others))
	}
	return mapErr
}

// run walks over the blocks of r.
func (w *dirWalk) run(r placedRun) error {
	bs := w.f.sb.blockSize
	buf := make([]byte, min(clampMul(r.count, bs), max(dirReadahead, bs)))
	for done := uint64(0); done < r.count && w.stop == nil; {
		n := min(r.count-done, uint64(int64(len(buf))/bs))
		off := (int64(r.start) + int64(done)) * bs
		if err := w.f.image.readAt(buf[:int64(n)*bs], off); err != nil {
			if n > 1 && !timedOut(err) { // find out which block it is
				buf = buf[:bs]
				continue
			}
			if w.unread++; w.unread > maxUnreadBlocks || timedOut(err) {
				return err
			}
			if w.unreadErr == nil {
				w.unreadErr = err
			}
			done += n
			continue
		}
		for i := range int64(n) {
			w.block(buf[i*bs:(i+1)*bs], r.at+fileBlock(done)+fileBlock(i), off+i*bs)
		}
		done += n
	}
	return nil
}

// block verifies and walks over one block, number of the directory.
func (w *dirWalk) block(b []byte, number fileBlock, off int64) {
	if w.f.isIndexBlock(w.in, b, number) {
		pointers, p := w.f.checkIndexBlock(w.in, b, number)
		if p != "" {
			w.note(off, p)
		}
		w.pointers += uint64(pointers)
		return
	}
	if p := w.f.checkLeaf(w.in, b); p != "" {
		w.note(off, p)
		return
	}
	w.entries(b, off)
}
