package ext4

import (
	"encoding/binary"
	"errors"
	"io"
	"testing"
)

// countingReader counts reads, and fails them with err.
type countingReader struct {
	io.ReaderAt
	reads int
	err   error
}

func (r *countingReader) ReadAt(p []byte, off int64) (int, error) {
	r.reads++
	if r.err != nil {
		return 0, r.err
	}
	return r.ReaderAt.ReadAt(p, off)
}

// TestSectorsToFreeIsKept: the tree of an orphan, here of one block of pointers,
// is walked once, unless a read failed. The cache of blocks does not count: a
// tree may be larger.
func TestSectorsToFreeIsKept(t *testing.T) {
	sound := make([]byte, 256<<10)
	for i := range 10 {
		binary.LittleEndian.PutUint32(sound[5<<10+4*i:], uint32(20+i))
	}
	const blocks = 11 // ten of content, one of pointers
	for _, c := range []struct {
		name    string
		pointer uint32 // to the block of pointers
		sectors uint32 // of the inode
		want    int64
	}{
		{"sound", 5, blocks * 2, blocks * 2},
		{"more than it has", 5, blocks*2 - 2, 0},
		{"beyond the filesystem", 300, 1000, 0},
		{"beyond the image", 250, 1000, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := testFS(sound)
			f.image.sizeBytes = 240 << 10
			f.blocks = newLRU[fsBlock, []byte](0)
			r := &countingReader{ReaderAt: f.image.r}
			f.image.r = r
			area := make([]byte, inodeBlockSize)
			binary.LittleEndian.PutUint32(area[4*directBlocks:], c.pointer)
			in := mapInode(area, 0)
			in.size = 0
			binary.LittleEndian.PutUint32(in.raw[0x1c:], c.sectors)

			if c.pointer < 240 {
				r.err = errors.New("the cable is loose")
				if got := f.sectorsToFree(in); got != 0 {
					t.Errorf("%d sectors, though the tree could not be read", got)
				}
				r.err = nil
			}
			for range 3 {
				if got := f.sectorsToFree(in); got != c.want {
					t.Errorf("%d sectors, expected %d", got, c.want)
				}
			}
			if _, kept := f.toFree.get(in.ino); !kept || r.reads > 2 {
				t.Errorf("%d reads, kept: %v", r.reads, kept)
			}
		})
	}
}
