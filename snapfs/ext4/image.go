package ext4

import (
	"cmp"
	"fmt"
	"io"
	"slices"
)

// fsBlock is the number of a block of the filesystem. Block 0 is never content
// or metadata of a file, so 0 stands for none.
type fsBlock uint64

// fileBlock is the number of a block within a file.
type fileBlock uint64

// image is the bytes of the filesystem as they would be after the journal was
// recovered.
type image struct {
	r         io.ReaderAt
	sizeBytes int64
	blockSize int64
	overlay   overlay
}

// readRaw fills p from byte off of the image as it is, without the overlay.
func (m *image) readRaw(p []byte, off int64) error {
	if off < 0 || off > m.sizeBytes || int64(len(p)) > m.sizeBytes-off {
		return fmt.Errorf("ext4: reading %d bytes at byte %d of %d: %w", len(p), off, m.sizeBytes, errBeyondImage)
	}
	if n, err := m.r.ReadAt(p, off); n < len(p) {
		return fmt.Errorf("ext4: reading %d bytes at byte %d: %w", len(p), off, unexpectedEOF(err))
	}
	return nil
}

// readAt fills p from byte off, which may be anywhere within a block.
func (m *image) readAt(p []byte, off int64) error {
	if len(m.overlay) == 0 || off < 0 {
		return m.readRaw(p, off)
	}
	i := m.overlay.search(fsBlock(off / m.blockSize))
	for len(p) > 0 {
		block := fsBlock(off / m.blockSize)
		var n int64
		var err error
		if i < len(m.overlay) && m.overlay[i].target == block {
			within := off % m.blockSize
			n = min(int64(len(p)), m.blockSize-within)
			err = m.readOverlaid(p[:n], m.overlay[i], within)
			i++
		} else {
			n = int64(len(p))
			if i < len(m.overlay) {
				n = min(n, int64(m.overlay[i].target)*m.blockSize-off)
			}
			err = m.readRaw(p[:n], off)
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// journalMagic is what an escaped block of the journal begins with.
var journalMagic = [4]byte{0xc0, 0x3b, 0x39, 0x98}

// readOverlaid fills p from byte within of a block that is in the journal.
func (m *image) readOverlaid(p []byte, o overlayBlock, within int64) error {
	if err := m.readRaw(p, int64(o.source())*m.blockSize+within); err != nil {
		return err
	}
	if o.escaped() && within < int64(len(journalMagic)) {
		copy(p, journalMagic[within:])
	}
	return nil
}

// overlay says which blocks are to be read elsewhere, in the order of target.
type overlay []overlayBlock

// overlayBlock is one of them: 16 bytes, as there may be a quarter of a million
// in a journal of 1 GiB. The top bit of from says that the first four bytes are
// escaped, the rest is the block of the image that has the content.
type overlayBlock struct {
	target fsBlock
	from   uint64
}

const overlayEscaped = 1 << 63

func newOverlayBlock(target, source fsBlock, escaped bool) overlayBlock {
	from := uint64(source)
	if escaped {
		from |= overlayEscaped
	}
	return overlayBlock{target, from}
}

func (o overlayBlock) source() fsBlock { return fsBlock(o.from &^ overlayEscaped) }
func (o overlayBlock) escaped() bool   { return o.from&overlayEscaped != 0 }

// search finds the first entry for block or beyond.
func (o overlay) search(block fsBlock) int {
	i, _ := slices.BinarySearchFunc(o, block, func(e overlayBlock, b fsBlock) int {
		return cmp.Compare(e.target, b)
	})
	return i
}
