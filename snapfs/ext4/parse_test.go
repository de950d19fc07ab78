package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs/ext4/crc32c"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// testFS is a filesystem of 256 blocks of 1 KiB, which hold image.
func testFS(image []byte) *FS {
	f := &FS{
		image: zeroPadded(image),
		sb:    &superblock{blocks: 256, blockSize: 1024, inodeSize: 256, inodes: 64, firstDataBlock: 1, clusterRatio: 1},
	}
	f.dropCaches()
	return f
}

// zeroPadded is an image of 256 KiB that starts with b.
func zeroPadded(b []byte) image {
	b = append(bytes.Clone(b), make([]byte, max(256<<10-len(b), 0))...)
	return image{r: bytes.NewReader(b), sizeBytes: int64(len(b)), blockSize: 1024}
}

// mapInode makes an inode with area as its i_block.
func mapInode(area []byte, flags uint32) *inode {
	raw := make([]byte, 256)
	copy(raw[inodeBlock:inodeBlockEnd], area)
	return &inode{ino: 12, raw: raw, flags: flags, mode: modeRegular, size: 1 << 40}
}

// FuzzExtent reads trees of extents, and block maps, of which the root and the
// first blocks of the image are given.
func FuzzExtent(f *testing.F) {
	leaf := []byte{0x0a, 0xf3, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0}
	leaf = append(leaf, 0, 0, 0, 0, 3, 0, 0, 0, 20, 0, 0, 0, 9, 0, 0, 0, 1, 0x80, 0, 0, 30, 0, 0, 0)
	node := []byte{0x0a, 0xf3, 1, 0, 4, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0}
	f.Add(leaf, []byte{}, true)
	f.Add(node, append(make([]byte, 2048), leaf...), true)
	f.Add([]byte{5, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 9}, []byte{}, false)
	f.Add(bytes.Repeat([]byte{1, 0, 0, 0}, 15), append(make([]byte, 1024), bytes.Repeat([]byte{1, 0, 0, 0}, 256)...), false)
	f.Fuzz(func(t *testing.T, area, image []byte, extents bool) {
		fsys := testFS(image)
		var flags uint32
		if extents {
			flags = flagExtents
		}
		in := mapInode(area, flags)
		m, err := fsys.blockMap(in)
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(1, 2))
		for i := range 200 {
			b := fileBlock(i)
			if i >= 100 {
				b = fileBlock(rng.Uint64N(maxFileBlocks))
			}
			r, err := m.runAt(b)
			if err != nil {
				continue
			}
			if r.count == 0 || r.start != 0 && !fsys.sb.validRange(r.start, r.count) || uint64(b)+r.count > 1<<33 {
				t.Fatalf("runAt(%d): %+v", b, r)
			}
		}
		_, _ = layOut(in, m, 1<<20)
		fsys.sectorsToFree(in)
	})
}

// FuzzDirBlock reads blocks of directories.
func FuzzDirBlock(f *testing.F) {
	block := make([]byte, 1024)
	copy(block, []byte{2, 0, 0, 0, 12, 0, 1, 2, '.', 0, 0, 0, 2, 0, 0, 0, 12, 0, 2, 2, '.', '.', 0, 0})
	copy(block[24:], []byte{12, 0, 0, 0, 0xdc, 3, 4, 1, 'n', 'a', 'm', 'e'})
	copy(block[1012:], []byte{0, 0, 0, 0, 12, 0, 0, 0xde})
	f.Add(block, uint8(0))
	f.Add(block[:500], uint8(1))
	f.Add(bytes.Repeat([]byte{1, 0, 0, 0, 12, 0, 1, 0, 'a', 0, 0, 0}, 80), uint8(2))
	f.Fuzz(func(t *testing.T, b []byte, kind uint8) {
		fsys := testFS(nil)
		if kind&1 != 0 {
			fsys.sb.incompat |= incompatFileType
		}
		if kind&2 != 0 {
			fsys.sb.roCompat |= roMetadataCsum
		}
		if kind&4 != 0 {
			fsys.sb.blockSize = 1 << 16
		}
		n := 0
		problem, sound := fsys.sb.parseDirBlock(b, func(d dirent) {
			n++
			if d.ino == 0 || d.ino > fsys.sb.inodes || len(d.name) > 255 && kind&1 != 0 {
				t.Fatalf("%+v", d)
			}
		})
		if n > len(b)/dirEntryMin || sound > len(b) || (problem == "") != (sound == len(b)) {
			t.Fatalf("%d entries in %d bytes, %d sound, %q", n, len(b), sound, problem)
		}
		if len(b) == 1024 {
			in := mapInode(nil, flagIndex)
			fsys.sb.compat |= compatDirIndex
			for number := range fileBlock(2) {
				fsys.isIndexBlock(in, b, number)
				fsys.checkIndexBlock(in, b, number)
			}
			fsys.checkLeaf(in, b)
		}
	})
}

// FuzzXattr reads attributes of inodes and blocks, and access control lists.
func FuzzXattr(f *testing.F) {
	inodePart := append([]byte{3, xattrUser, 40, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 'k', 'e', 'y', 0, 0, 0, 0, 0}, make([]byte, 40)...)
	f.Add(inodePart, 0)
	f.Add(append(make([]byte, 32), inodePart...), 32)
	f.Add([]byte{1, 0, 0, 0, 1, 0, 7, 0, 2, 0, 6, 0, 9, 9, 0, 0}, 0)
	f.Fuzz(func(t *testing.T, b []byte, first int) {
		sb := &superblock{incompat: incompatEAInode}
		if first >= 0 && first <= 32 {
			entries, problem := sb.parseXattrs(b, first)
			if problem != "" && entries != nil || len(entries) > len(b)/xattrEntryHeader {
				t.Fatalf("%d entries, %q", len(entries), problem)
			}
			for _, x := range entries {
				if x.valueIno == 0 && len(x.value) != int(x.valueSize) {
					t.Fatalf("%+v", x)
				}
				x.fullName()
			}
		}
		if acl, problem := aclToXattr(b); problem == "" && (len(acl)-4)%8 != 0 {
			t.Fatalf("%x", acl)
		}
	})
}

// FuzzFastCommit applies blocks of fast commits to a filesystem whose inode
// table is zeros.
func FuzzFastCommit(f *testing.F) {
	tags := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	tag := func(typ uint16, value ...byte) []byte {
		b := binary.LittleEndian.AppendUint16(nil, typ)
		return append(binary.LittleEndian.AppendUint16(b, uint16(len(value))), value...)
	}
	node := append([]byte{12, 0, 0, 0}, make([]byte, 160)...)
	node[4+inodeLinks] = 1
	f.Add(tags(tag(fcHead, 0, 0, 0, 0, 7, 0, 0, 0), tag(fcInode, node...),
		tag(fcAddRange, 12, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 40, 0, 0, 0),
		tag(fcDelRange, 12, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0),
		tag(fcCreate, 2, 0, 0, 0, 12, 0, 0, 0, 'a'), tag(fcLink, 2, 0, 0, 0, 12, 0, 0, 0, 'b'),
		tag(fcUnlink, 2, 0, 0, 0, 12, 0, 0, 0, 'a'), tag(fcPad), tag(fcTail, 7, 0, 0, 0, 1, 2, 3, 4)))
	f.Fuzz(func(t *testing.T, b []byte) {
		fsys := testFS([]byte{})
		fsys.sb.inodesPerGroup, fsys.sb.firstIno, fsys.sb.groups, fsys.sb.descSize = 64, 11, 1, 32
		group := make([]byte, 3072)
		group[2048+8] = 5 // inode table
		fsys.image = zeroPadded(group)
		fsys.patches = make(map[uint32]*patch)
		(&fcScan{next: 7, inodeSize: 256}).block(b, true)
		r := newFCReplay(fsys)
		_ = r.block(b)
		r.settle()
		for ino, p := range fsys.patches {
			end := fileBlock(0)
			for _, r := range p.ranges {
				if r.at < end || r.count == 0 || r.at+fileBlock(r.count) > maxFileBlocks {
					t.Fatalf("inode %d: %+v", ino, p.ranges)
				}
				end = r.at + fileBlock(r.count)
			}
			in, err := p.inode(fsys, ino)
			if err != nil {
				continue
			}
			if m, err := fsys.blockMap(in); err == nil {
				_, _ = m.runAt(5)
			}
			p.applyNames(nil, fsys.typeOf)
		}
	})
}

// TestLastLaid lays ranges over each other at random, and compares with an
// array.
func TestLastLaid(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 3))
		const size = 60
		var want [size]fsBlock // 0: as the base says
		var laid []placedRun
		for i := range 30 {
			at, n := rng.IntN(size), 1+rng.IntN(12)
			n = min(n, size-at)
			r := placedRun{fileBlock(at), run{fsBlock(1000 * (i + 1)), uint64(n)}}
			laid = append(laid, r)
			for j := range n {
				want[at+j] = r.start + fsBlock(j)
			}
		}
		m := &patchedMap{base: holes{}, ranges: lastLaid(laid)}
		for b := fileBlock(0); b < size; {
			r, err := m.runAt(b)
			if err != nil || r.count == 0 {
				t.Fatalf("seed %d: %+v, %v", seed, r, err)
			}
			for i := range fileBlock(min(r.count, uint64(size-b))) {
				got := r.start
				if got != 0 {
					got += fsBlock(i)
				}
				if got != want[b+i] {
					t.Fatalf("seed %d: block %d at %d, expected %d", seed, b+i, got, want[b+i])
				}
			}
			b += fileBlock(r.count)
		}
	}
}

// holes is the map of an empty file.
type holes struct{}

func (holes) runAt(b fileBlock) (run, error) { return run{0, maxFileBlocks - uint64(b)}, nil }

// TestLayOut: a file that has a block twice is refused.
func TestLayOut(t *testing.T) {
	area := make([]byte, 60)
	for i, b := range []uint32{7, 8, 9, 0, 0, 20, 21} {
		binary.LittleEndian.PutUint32(area[4*i:], b)
	}
	f := testFS(nil)
	in := mapInode(area, 0)
	m, _ := f.blockMap(in)
	runs, err := layOut(in, m, 10)
	want := []placedRun{{0, run{7, 3}}, {3, run{0, 2}}, {5, run{20, 2}}, {7, run{0, 3}}}
	if err != nil || !reflect.DeepEqual(runs, want) {
		t.Errorf("%+v, %v", runs, err)
	}
	binary.LittleEndian.PutUint32(in.raw[inodeBlock+4*9:], 8)
	if _, err := layOut(in, m, 10); !errors.Is(err, ErrCorrupt) {
		t.Errorf("twice: %v", err)
	}
}

// TestOverlay reads through an overlay at every offset and length.
func TestOverlay(t *testing.T) {
	b := make([]byte, 16<<10)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	m := image{r: bytes.NewReader(b), sizeBytes: int64(len(b)), blockSize: 1024}
	m.overlay = overlay{newOverlayBlock(2, 10, false), newOverlayBlock(3, 12, true), newOverlayBlock(5, 10, false)}
	want := bytes.Clone(b)
	copy(want[2048:], b[10<<10:11<<10])
	copy(want[3072:], b[12<<10:13<<10])
	copy(want[3072:], journalMagic[:])
	copy(want[5120:], b[10<<10:11<<10])
	rng := rand.New(rand.NewPCG(1, 1))
	for range 20_000 {
		off := rng.IntN(len(b))
		n := rng.IntN(min(5000, len(b)-off) + 1)
		p := make([]byte, n)
		if err := m.readAt(p, int64(off)); err != nil || !bytes.Equal(p, want[off:off+n]) {
			t.Fatalf("%d+%d: %v", off, n, err)
		}
	}
	for _, off := range []int64{-1, 16<<10 - 1, 1 << 62} {
		if err := m.readAt(make([]byte, 2), off); err == nil {
			t.Errorf("no error at %d", off)
		}
	}
}

func TestRdev(t *testing.T) {
	for _, c := range []struct{ old, new, major, minor uint32 }{
		{0x0811, 0, 8, 17},
		{0xffff, 0, 255, 255},
		{0, 0x00000811, 8, 17},
		{0, 0x000123ff, 0x123, 0xff},
		{0, 0xabc45678, 0x456, 0xabc78},
	} {
		area := make([]byte, 8)
		binary.LittleEndian.PutUint32(area, c.old)
		binary.LittleEndian.PutUint32(area[4:], c.new)
		if got := mapInode(area, 0).rdev(); got != unix.Mkdev(c.major, c.minor) {
			t.Errorf("%#x, %#x: %#x, expected %#x", c.old, c.new, got, unix.Mkdev(c.major, c.minor))
		}
	}
}

// TestSectors: the number of blocks has 48 bits with huge_file, and counts
// blocks of the filesystem in an inode that says so.
func TestSectors(t *testing.T) {
	f := testFS(nil)
	f.sb.blockSize = 4096
	in := mapInode(nil, flagHugeFile)
	binary.LittleEndian.PutUint32(in.raw[0x1c:], 1000)
	binary.LittleEndian.PutUint16(in.raw[0x74:], 2)
	if got := f.sectors(in); got != 1000 {
		t.Errorf("without huge_file: %d", got)
	}
	f.sb.roCompat = roHugeFile
	if got := f.sectors(in); got != (2<<32+1000)*8 {
		t.Errorf("in blocks: %d", got)
	}
	in.flags = 0
	if got := f.sectors(in); got != 2<<32+1000 {
		t.Errorf("in sectors: %d", got)
	}
}

// TestTime: the further bits reach from 1901 to 2446.
func TestTime(t *testing.T) {
	for _, c := range []struct {
		sec   int32
		extra uint32
		want  time.Time
	}{
		{0, 0, time.Unix(0, 0)},
		{-1, 0, time.Unix(-1, 0)},
		{-1 << 31, 0, time.Date(1901, 12, 13, 20, 45, 52, 0, time.UTC)},
		{-1 << 31, 1, time.Date(2038, 1, 19, 3, 14, 8, 0, time.UTC)},
		{1<<31 - 1, 3 | 999_999_999<<2, time.Date(2446, 5, 10, 22, 38, 55, 999_999_999, time.UTC)},
	} {
		in := mapInode(nil, 0)
		in.extra = 32
		binary.LittleEndian.PutUint32(in.raw[0x10:], uint32(c.sec))
		binary.LittleEndian.PutUint32(in.raw[0x88:], c.extra)
		if got := in.time(0x10, 0x88); !got.Equal(c.want) {
			t.Errorf("%d, %#x: %v, expected %v", c.sec, c.extra, got, c.want)
		}
	}
}

// TestRecLen: lengths in blocks of 64 KiB.
func TestRecLen(t *testing.T) {
	large, small := &superblock{blockSize: 1 << 16}, &superblock{blockSize: 1 << 15}
	for stored, want := range map[uint16]int{0: 1 << 16, 0xffff: 1 << 16, 12: 12, 0xfffc: 0xfffc, 0x11: 0x10010} {
		if got := large.recLen(stored); got != want {
			t.Errorf("%#x: %#x, expected %#x", stored, got, want)
		}
		if got := small.recLen(stored); got != int(stored) {
			t.Errorf("%#x: %#x in a small block", stored, got)
		}
	}
}

func TestGroupHasSuper(t *testing.T) {
	sparse := map[uint32]bool{0: true, 1: true, 3: true, 5: true, 7: true, 9: true, 25: true, 27: true, 49: true, 81: true}
	for g := range uint32(100) {
		for sb, want := range map[*superblock]bool{
			{roCompat: roSparseSuper}: sparse[g],
			{}:                        true,
			{roCompat: roSparseSuper, compat: compatSparseSuper2, backupGroups: [2]uint32{1, 64}}: g == 0 || g == 1 || g == 64,
		} {
			if got := sb.groupHasSuper(g); got != want {
				t.Errorf("group %d, %+v: %v", g, sb, got)
			}
		}
	}
}

// TestOrphanBlock: a block of the orphan file is verified.
func TestOrphanBlock(t *testing.T) {
	image := make([]byte, 4<<10)
	b := image[2048:3072]
	binary.LittleEndian.PutUint32(b[1016:], orphanMagic)
	in := mapInode(nil, 0)
	in.seed = 77
	binary.LittleEndian.PutUint32(b[1020:], crc32c.Update(crc32cUint64(in.seed, 2), b[:1016]))
	for off := -1; off < 1024; off += 3 {
		damaged := bytes.Clone(image)
		if off >= 0 {
			damaged[2048+off] ^= 4
		}
		f := testFS(damaged)
		f.sb.roCompat, f.orphans = roMetadataCsum, make(map[uint32]bool)
		if err := f.orphanBlock(in, 2); errors.Is(err, ErrCorrupt) != (off >= 0) {
			t.Errorf("byte %d: %v", off, err)
		}
	}
}

func TestACL(t *testing.T) {
	stored := []byte{1, 0, 0, 0, 1, 0, 7, 0, 2, 0, 5, 0, 0xd2, 4, 0, 0, 4, 0, 5, 0, 16, 0, 7, 0, 32, 0, 0, 0}
	want := []byte{2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 0xd2, 4, 0, 0,
		4, 0, 5, 0, 255, 255, 255, 255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255}
	if got, problem := aclToXattr(stored); problem != "" || !bytes.Equal(got, want) {
		t.Errorf("%x, %q", got, problem)
	}
	for n := range len(stored) {
		if _, problem := aclToXattr(stored[:n]); problem == "" && !slices.Contains([]int{4, 8, 16, 20, 24}, n) {
			t.Errorf("%d bytes: no problem", n)
		}
	}
}

func TestChecksums(t *testing.T) {
	// From the catalogue of parametrised CRC algorithms: "123456789".
	p := []byte("123456789")
	if got := crc16(0xffff, p); got != 0x4b37 {
		t.Errorf("CRC-16/MODBUS: %#x", got)
	}
}

func TestLRU(t *testing.T) {
	c := newLRU[int, string](10)
	for i := range 5 {
		c.put(i, fmt.Sprint(i), 3)
	}
	c.put(9, "too large", 11)
	for i, want := range []bool{false, false, true, true, true} {
		if v, ok := c.get(i); ok != want || ok && v != fmt.Sprint(i) {
			t.Errorf("%d: %q, %v", i, v, ok)
		}
	}
	c.get(2)
	c.put(5, "5", 3) // takes the place of 3
	if _, ok := c.get(3); ok {
		t.Error("3 is still there")
	}
	c.put(2, "new", 4)
	if v, _ := c.get(2); v != "new" || c.cost != 10 || len(c.entries) != 3 || c.order.Len() != 3 {
		t.Errorf("%q, cost %d, %d entries", v, c.cost, len(c.entries))
	}
}

func TestApplyNames(t *testing.T) {
	p := &patch{}
	p.removeName("a", 20) // a led to 20, then to 21, then to 22
	p.addName("a", 21)
	p.removeName("a", 21)
	p.addName("a", 22)
	p.addName("b", 23)    // is there already
	p.removeName("c", 99) // leads elsewhere
	p.addName("d", 24)
	p.removeName("d", 24)
	got := p.applyNames([]tree.DirEntry{{Name: "a", Ino: 20}, {Name: "b", Ino: 30}, {Name: "c", Ino: 31}},
		func(tree.Ino) tree.Type { return tree.Regular })
	want := []tree.DirEntry{{Name: "b", Ino: 30}, {Name: "c", Ino: 31}, {Name: "a", Ino: 22, Type: tree.Regular}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}
