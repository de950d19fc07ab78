package ext4

import (
	"encoding/binary"
	"strings"
	"testing"
)

// zeroDisk is a disk of zeros but for what starts at byte off.
type zeroDisk struct {
	off  int64
	data []byte
}

func (d zeroDisk) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if end := off + int64(len(p)); off <= d.off && d.off < end {
		copy(p[d.off-off:], d.data)
	}
	return len(p), nil
}

// largeFS is a filesystem of blocks and inodes of 64 KiB. Its inode table is
// zeros.
func largeFS() *FS {
	const bs, blocks = 64 << 10, 1 << 20
	group := make([]byte, groupHalf)
	group[0x08] = 5 // inode table
	f := &FS{
		image: image{r: zeroDisk{bs, group}, sizeBytes: blocks * bs, blockSize: bs},
		sb: &superblock{
			blocks: blocks, blockSize: bs, clusterRatio: 1, groups: 1, descSize: groupHalf,
			inodes: blocks / 2, inodesPerGroup: blocks / 2, inodeSize: bs, firstIno: oldFirstIno,
		},
	}
	f.dropCaches()
	return f
}

// fcBlock makes a block of tags of one type, whose values are numbers of 4
// bytes, from each value.
func fcBlock(typ uint16, n int, value func(i int) []uint32) []byte {
	var b []byte
	for i := range n {
		v := value(i)
		b = binary.LittleEndian.AppendUint16(b, typ)
		b = binary.LittleEndian.AppendUint16(b, uint16(4*len(v)))
		for _, word := range v {
			b = binary.LittleEndian.AppendUint32(b, word)
		}
	}
	return b
}

// TestFastCommitMemory: 80 KB of tags name 5,000 inodes, a copy of each of which
// would take 320 MB. They end where there is no more room, which is told.
func TestFastCommitMemory(t *testing.T) {
	f := largeFS()
	tags := fcBlock(fcDelRange, 5000, func(i int) []uint32 { return []uint32{uint32(oldFirstIno + i), 0, 0} })
	if err := f.applyFastCommits([][]byte{tags}); err != nil {
		t.Fatal(err)
	}
	bytes := 0
	for _, p := range f.patches {
		bytes += len(p.raw)
	}
	if bytes > maxPatchBytes || bytes < maxPatchBytes/2 {
		t.Errorf("%d inodes, %d bytes of them, are kept", len(f.patches), bytes)
	}
	if notes := strings.Join(f.notes, " "); !strings.Contains(notes, "fast commits are damaged and were applied in part") ||
		!strings.Contains(notes, "more than 67108864 bytes of memory") {
		t.Errorf("notes: %q", notes)
	}
}

// TestFastCommitNames: names are counted as well.
func TestFastCommitNames(t *testing.T) {
	f := largeFS()
	f.sb.inodeSize = 128
	name := strings.Repeat("n", 248)
	r := newFCReplay(f)
	f.patches = make(map[uint32]*patch)
	n, err := 0, error(nil)
	for ; err == nil && n < 1<<20; n++ {
		err = r.dentry(fcLink, rootIno, oldFirstIno, append([]byte(name), byte('a'+n%26), byte('a'+n/26%26), byte('a'+n/26/26%26), byte('a'+n/26/26/26%26)))
	}
	if err == nil || n*len(name) > maxPatchBytes {
		t.Errorf("%d names of %d bytes are kept, %v", n, len(name), err)
	}
}

// TestFastCommitRanges: 300,000 pieces of a file, the last one first, which is
// the most work for one who keeps them in order.
func TestFastCommitRanges(t *testing.T) {
	const n = 300_000
	f := largeFS()
	f.sb.inodeSize = 128
	tags := fcBlock(fcAddRange, n, func(i int) []uint32 {
		return []uint32{oldFirstIno, uint32(2 * (n - i)), 1, uint32(1000 + i)} // ee_len 1, ee_start_hi 0
	})
	if err := f.applyFastCommits([][]byte{tags}); err != nil {
		t.Fatal(err)
	}
	if len(f.notes) != 0 {
		t.Errorf("notes: %q", f.notes)
	}
	m := &patchedMap{base: holes{}, ranges: f.patches[oldFirstIno].ranges}
	for _, i := range []int{0, 1, 777, n - 1} {
		b := fileBlock(2 * (n - i))
		r, err := m.runAt(b)
		if err != nil || r.start != fsBlock(1000+i) || r.count != 1 {
			t.Errorf("block %d: %+v, %v", b, r, err)
		}
		if r, err := m.runAt(b + 1); err != nil || r.start != 0 {
			t.Errorf("block %d: %+v, %v", b+1, r, err)
		}
	}
}
