package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"testing"

	"github.com/rowan-storage/rowan/snapfs/tree"
)

// largeDirDisk is the disk of a filesystem whose root directory has so many
// names. Its blocks of 4 KiB are made when they are read:
//
//	1    group descriptor
//	5    inode table
//	100  the directory, 16 names in each block
type largeDirDisk struct {
	names   int
	fixed   map[int64][]byte // blocks 1 and 5
	filling []byte           // of names
}

const (
	largeDirBlock    = 4096
	largeDirStart    = 100
	largeDirEntry    = 256
	largeDirPerBlock = largeDirBlock / largeDirEntry
	largeDirNameLen  = largeDirEntry - dirEntryHeader
)

func (d *largeDirDisk) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for done := 0; done < len(p); done += largeDirBlock {
		block := (off + int64(done)) / largeDirBlock
		copy(p[done:], d.fixed[block])
		if block >= largeDirStart {
			d.dirBlock(p[done:done+largeDirBlock], int(block-largeDirStart)*largeDirPerBlock)
		}
	}
	return len(p), nil
}

// dirBlock fills b with the names from number i on.
func (d *largeDirDisk) dirBlock(b []byte, i int) {
	for range largeDirPerBlock {
		binary.LittleEndian.PutUint16(b[4:], largeDirEntry)
		if i < d.names {
			binary.LittleEndian.PutUint32(b, uint32(oldFirstIno+i))
			b[6] = byte(len(appendLargeDirName(b[dirEntryHeader:dirEntryHeader], i, d.filling)))
			b[7] = 1
		}
		b, i = b[largeDirEntry:], i+1
	}
}

// largeDirName is the name with number i.
func largeDirName(i int) string {
	return string(appendLargeDirName(nil, i, bytes.Repeat([]byte{'x'}, largeDirNameLen)))
}

// appendLargeDirName appends it to b: four digits, and the rest of filling.
func appendLargeDirName(b []byte, i int, filling []byte) []byte {
	const digits = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-_"
	b = append(b, digits[i>>18&63], digits[i>>12&63], digits[i>>6&63], digits[i&63])
	return append(b, filling[4:]...)
}

// newLargeDir makes a filesystem with a root directory of so many names.
func newLargeDir(names int) *FS {
	blocks := (names + largeDirPerBlock - 1) / largeDirPerBlock
	group := make([]byte, groupHalf)
	group[0x08] = 5
	table := make([]byte, 2*oldInodeSize)
	root := table[oldInodeSize:]
	binary.LittleEndian.PutUint16(root, modeDirectory|0o755)
	binary.LittleEndian.PutUint16(root[inodeLinks:], 2)
	binary.LittleEndian.PutUint32(root[0x04:], uint32(blocks*largeDirBlock))
	binary.LittleEndian.PutUint32(root[0x20:], flagExtents)
	extents := root[inodeBlock:]
	binary.LittleEndian.PutUint16(extents, extentMagic)
	extents[4] = 4
	for first := 0; first < blocks; first += extentMaxLen {
		extents[2]++
		e := extents[int(extents[2])*extentEntrySize:]
		binary.LittleEndian.PutUint32(e, uint32(first))
		binary.LittleEndian.PutUint16(e[4:], uint16(min(blocks-first, extentMaxLen)))
		binary.LittleEndian.PutUint32(e[8:], uint32(largeDirStart+first))
	}

	const total, inodes = 1 << 20, 1 << 26
	disk := &largeDirDisk{names, map[int64][]byte{1: group, 5: table}, bytes.Repeat([]byte{'x'}, largeDirNameLen)}
	f := &FS{
		image: image{r: disk, sizeBytes: total * largeDirBlock, blockSize: largeDirBlock},
		sb: &superblock{
			blocks: total, blockSize: largeDirBlock, clusterRatio: 1, groups: 1, descSize: groupHalf,
			inodes: inodes / 4, inodesPerGroup: inodes / 4, inodeSize: oldInodeSize, firstIno: oldFirstIno,
			incompat: incompatFileType | incompatExtents,
		},
	}
	f.dropCaches()
	return f
}

// TestLargeDirectoryIsCut: of a directory with more names than there is room for
// the first ones are listed, with an error that says so. All can be looked up.
func TestLargeDirectoryIsCut(t *testing.T) {
	const room = maxListingBytes / (dirEntryCost + largeDirNameLen)
	const names = room + 1000
	f := newLargeDir(names)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	entries, err := f.ReadDir(rootIno)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if want := fmt.Sprintf("only its first %d names are listed", room); !errors.Is(err, ErrUnsupported) || !bytes.Contains([]byte(err.Error()), []byte(want)) {
		t.Errorf("%v, expected %q", err, want)
	}
	if len(entries) != room || entries[room-1].Name != largeDirName(room-1) {
		t.Errorf("%d names are listed", len(entries))
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > maxListingBytes {
		t.Errorf("the listing takes %d bytes", grown)
	}
	runtime.KeepAlive(entries)

	findIn(t, f, largeDirName(names-1), oldFirstIno+names-1)
}

// TestLargeDirectoryPatched: a directory that is searched for each name, and that
// fast commits have changed.
func TestLargeDirectoryPatched(t *testing.T) {
	const names = 3 * maxListedDir / 2 / largeDirEntry
	f := newLargeDir(names)
	findIn(t, f, largeDirName(names-1), oldFirstIno+names-1)
	findIn(t, f, "absent", 0)
	raw, _, err := f.rawInode(rootIno)
	if err != nil {
		t.Fatal(err)
	}
	p := &patch{raw: bytes.Clone(raw)}
	p.removeName(largeDirName(5), oldFirstIno+5)
	p.removeName(largeDirName(6), oldFirstIno+7) // leads elsewhere
	p.addName("new", 20)
	p.addName(largeDirName(8), 21) // is there already
	f.patches = map[uint32]*patch{rootIno: p}
	findIn(t, f, largeDirName(names-1), oldFirstIno+names-1)
	findIn(t, f, largeDirName(5), 0)
	findIn(t, f, largeDirName(6), oldFirstIno+6)
	findIn(t, f, largeDirName(8), oldFirstIno+8)
	findIn(t, f, "new", 20)
	if _, listed := f.listings.get(rootIno); listed {
		t.Error("all of it was listed")
	}
}

// findIn looks a name up in the root directory; want is 0 if it is not there.
func findIn(t *testing.T, f *FS, name string, want tree.Ino) {
	t.Helper()
	ino, err := f.Lookup(rootIno, name)
	if ino != want || want != 0 && err != nil || want == 0 && !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%q: inode %d, %v, expected %d", name, ino, err, want)
	}
}

// TestNameTwice: a name that occurs twice is also found in a directory too large
// for the cache, where the first one counts.
func TestNameTwice(t *testing.T) {
	const n = dirCacheEntries + 10
	entries := make([]tree.DirEntry, n)
	for i := range entries {
		entries[i] = tree.DirEntry{Name: fmt.Sprint(i), Ino: tree.Ino(20 + i)}
	}
	if l, twice := newListing(entries); twice != "" || l.byName != nil || l.find("77") != 97 || l.find("absent") != 0 {
		t.Errorf("%q is twice, kept: %v", twice, l.byName != nil)
	}
	for _, at := range []int{78, n / 2, n - 1} {
		entries[at].Name = "77"
		if l, twice := newListing(entries); twice != "77" || l.find(twice) != 97 {
			t.Errorf("at %d: %q is twice", at, twice)
		}
		entries[at].Name = fmt.Sprint(at)
	}
}
