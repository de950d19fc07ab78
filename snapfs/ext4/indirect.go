package ext4

import "fmt"

// indirectMap is the block map of an inode without extents. i_block has 15
// block numbers of 4 bytes: twelve of content, then one each of a block of
// block numbers, of a block of such blocks, and of a block of those.
type indirectMap struct {
	f  *FS
	in *inode
}

const (
	directBlocks   = 12
	indirectLevels = 3
)

func (m *indirectMap) runAt(b fileBlock) (run, error) {
	if b < directBlocks {
		return m.runIn(m.in.blockArea()[:directBlocks*4], uint64(b))
	}
	perBlock := uint64(m.f.sb.blockSize / 4)
	at, span := uint64(b-directBlocks), uint64(1)
	for level := range indirectLevels {
		span *= perBlock // blocks of content below this pointer
		if at < span {
			pointer := fsBlock(le32(m.in.blockArea()[(directBlocks+level)*4:]))
			return m.descend(pointer, at, span)
		}
		at -= span
	}
	return run{}, m.in.corrupt("block %d of the file", b)
}

// descend follows pointer, which has span blocks of content below it, to block
// at of those.
func (m *indirectMap) descend(pointer fsBlock, at, span uint64) (run, error) {
	perBlock := uint64(m.f.sb.blockSize / 4)
	for {
		if pointer == 0 {
			return run{count: span - at}, nil
		}
		b, err := m.f.block(pointer)
		if err != nil {
			return run{}, fmt.Errorf("ext4: block map of inode %d: %w", m.in.ino, err)
		}
		span /= perBlock
		if span == 1 {
			return m.runIn(b, at)
		}
		pointer = fsBlock(le32(b[at/span*4:]))
		at %= span
	}
}

// runIn is the run that starts with number i of the block numbers in b.
func (m *indirectMap) runIn(b []byte, i uint64) (run, error) {
	start := fsBlock(le32(b[i*4:]))
	r := run{start: start, count: 1}
	for b = b[i*4+4:]; len(b) >= 4; b = b[4:] {
		next := fsBlock(le32(b))
		if start == 0 && next != 0 || start != 0 && next != start+fsBlock(r.count) {
			break
		}
		r.count++
	}
	if start != 0 && !m.f.sb.validRange(start, r.count) {
		return run{}, m.in.corrupt("block map: blocks %d+%d of %d", start, r.count, m.f.sb.blocks)
	}
	return r, nil
}
