package blockdev

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// The sums of a sealed layer, file layers/<layer>/sums, are the CRC32C of the
// data blocks that its presence map maps. A block that has none yet is in no
// run. The file is written whole.
//
//	header, 4096 bytes, of which the first 64 are used, little endian
//	  0  8  magic "ROWANSUM"
//	  8  4  version, 1
//	 12  4  layer id
//	 16  4  zero
//	 20  4  CRC32C of the index
//	 24  8  number of sums
//	 32  8  offset of the index in bytes
//	 40  8  number of index entries
//	 48  8  length of the file in bytes
//	 56  4  zero
//	 60  4  CRC32C of bytes 0 to 59
//	leaves, one after the other, each a sequence of runs
//	  0  2  first block in the leaf
//	  2  2  number of blocks
//	  4  4  place of these blocks
//	  8  4  CRC32C of each of them in turn
//	index, 24 bytes for each leaf with a sum, ascending
//	  0  8  number of the leaf: its first block is 512 times that
//	  8  8  offset in bytes
//	 16  4  length in bytes
//	 20  4  CRC32C of the leaf
//
// A sum is that of a block at a place, and is believed only where the map says
// the same place. While a sealed layer owns an origin, no block of it that the
// layer maps can change, so that its sum holds as long as the layer. When a
// layer is merged into a sealed child, the sums of the blocks that the child
// takes over go with them; when it is merged into a head, which may overwrite
// these blocks in place, they go with the layer.
const (
	sumsMagic      = "ROWANSUM"
	sumsVersion    = 1
	sumsHeaderSize = 4096
	sumsHeaderUsed = 64
	sumsEntrySize  = 24
	sumRunSize     = 8
	maxSumLeaf     = leafBlocks * (sumRunSize + 4)
)

func sumsName(layer uint32) string { return path.Join(layerDir(layer), "sums") }

// sumLeaf holds the sums of the blocks of one leaf: of block i, if places[i]
// is not nowhere, when it is at that place.
type sumLeaf struct {
	places [leafBlocks]place
	sums   [leafBlocks]uint32
}

// add takes over the sums of other for blocks that have none.
func (l *sumLeaf) add(other *sumLeaf, want func(i int, at place) bool) {
	for i, at := range other.places {
		if at != nowhere && l.places[i] == nowhere && want(i, at) {
			l.places[i], l.sums[i] = at, other.sums[i]
		}
	}
}

type sumsHeader struct {
	layer       uint32
	indexCRC    uint32
	sums        uint64
	indexOffset uint64
	indexCount  uint64
	length      uint64
}

func (h sumsHeader) encode() []byte {
	b := make([]byte, sumsHeaderSize)
	copy(b, sumsMagic)
	le := binary.LittleEndian
	le.PutUint32(b[8:], sumsVersion)
	le.PutUint32(b[12:], h.layer)
	le.PutUint32(b[20:], h.indexCRC)
	for i, v := range []uint64{h.sums, h.indexOffset, h.indexCount, h.length} {
		le.PutUint64(b[24+8*i:], v)
	}
	le.PutUint32(b[60:], crcOf(b[:60]))
	return b
}

func decodeSumsHeader(b []byte) (sumsHeader, error) {
	le := binary.LittleEndian
	switch {
	case string(b[:8]) != sumsMagic:
		return sumsHeader{}, errors.New("offset 0: no header of sums")
	case le.Uint32(b[60:]) != crcOf(b[:60]):
		return sumsHeader{}, errors.New("offset 0: wrong checksum of the header")
	case le.Uint32(b[8:]) != sumsVersion:
		return sumsHeader{}, fmt.Errorf("offset 8: version %d is not known", le.Uint32(b[8:]))
	}
	h := sumsHeader{layer: le.Uint32(b[12:]), indexCRC: le.Uint32(b[20:])}
	for i, v := range []*uint64{&h.sums, &h.indexOffset, &h.indexCount, &h.length} {
		*v = le.Uint64(b[24+8*i:])
	}
	return h, nil
}

// sumsWriter writes the sums of a layer leaf by leaf.
type sumsWriter struct {
	fs     blockfile.FS
	file   blockfile.File
	out    *bufio.Writer
	offset uint64
	header sumsHeader
	index  []byte
	buf    []byte
}

// createSums begins the sums of a layer under a temporary name.
func createSums(fs blockfile.FS, layer uint32) (*sumsWriter, error) {
	f, err := fs.Open(sumsName(layer)+newSuffix, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	w := &sumsWriter{fs: fs, file: f, offset: sumsHeaderSize, header: sumsHeader{layer: layer}}
	w.out = bufio.NewWriterSize(io.NewOffsetWriter(f, sumsHeaderSize), 256<<10)
	return w, nil
}

// leaf adds the leaf with an index; indexes ascend.
func (w *sumsWriter) leaf(index uint64, l *sumLeaf) error {
	le := binary.LittleEndian
	b := w.buf[:0]
	for i := 0; i < leafBlocks; {
		j := i + 1
		for j < leafBlocks && l.places[j] == l.places[i] {
			j++
		}
		if l.places[i] != nowhere {
			b = le.AppendUint16(b, uint16(i))
			b = le.AppendUint16(b, uint16(j-i))
			b = le.AppendUint32(b, uint32(l.places[i]))
			for _, sum := range l.sums[i:j] {
				b = le.AppendUint32(b, sum)
			}
			w.header.sums += uint64(j - i)
		}
		i = j
	}
	w.buf = b
	if len(b) == 0 {
		return nil
	}
	w.index = le.AppendUint64(w.index, index)
	w.index = le.AppendUint64(w.index, w.offset)
	w.index = le.AppendUint32(w.index, uint32(len(b)))
	w.index = le.AppendUint32(w.index, crcOf(b))
	w.offset += uint64(len(b))
	_, err := w.out.Write(b)
	return err
}

// finish writes the index and the header and puts the sums durably in the
// place of those before.
func (w *sumsWriter) finish() error {
	if err := w.stage(); err != nil {
		return err
	}
	return placeSums(w.fs, w.header.layer)
}

// stage writes the index and the header, and makes the file durable, which
// keeps its temporary name.
func (w *sumsWriter) stage() error {
	w.header.indexOffset = w.offset
	w.header.indexCount = uint64(len(w.index) / sumsEntrySize)
	w.header.indexCRC = crcOf(w.index)
	w.header.length = w.offset + uint64(len(w.index))
	_, err := w.out.Write(w.index)
	if err == nil {
		err = w.out.Flush()
	}
	if err == nil {
		_, err = w.file.WriteAt(w.header.encode(), 0)
	}
	if err == nil {
		err = w.file.Sync()
	}
	if err := errors.Join(err, w.file.Close()); err != nil {
		return errors.Join(err, w.fs.Remove(sumsName(w.header.layer)+newSuffix))
	}
	return nil
}

// placeSums puts sums that were staged durably in the place of those before.
func placeSums(fs blockfile.FS, layer uint32) error {
	name := sumsName(layer)
	if err := fs.Rename(name+newSuffix, name); err != nil {
		return err
	}
	return fs.SyncDir(layerDir(layer))
}

// abort drops what was written.
func (w *sumsWriter) abort() error {
	return errors.Join(w.file.Close(), w.fs.Remove(sumsName(w.header.layer)+newSuffix))
}

// sumsReader reads the sums of a layer leaf by leaf. It is safe for concurrent
// use.
type sumsReader struct {
	header sumsHeader
	name   string
	file   blockfile.File
	index  []byte

	refs int  // users, for sumsCache
	gone bool // to be closed by the last user
}

// openSums opens the sums of a layer and verifies their header and index. The
// error is fs.ErrNotExist for a layer that has none yet.
func openSums(fs blockfile.FS, layer uint32) (*sumsReader, error) {
	return openSumsFile(fs, layer, sumsName(layer))
}

func openSumsFile(fs blockfile.FS, layer uint32, name string) (*sumsReader, error) {
	f, err := fs.Open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	r := &sumsReader{name: name, file: f}
	if err := r.open(layer); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return r, nil
}

func (r *sumsReader) open(layer uint32) error {
	var b [sumsHeaderSize]byte
	if err := r.read(b[:], 0); err != nil {
		return err
	}
	h, err := decodeSumsHeader(b[:])
	if err != nil {
		return &Error{Object: r.name, Class: ErrCorrupt, Cause: err}
	}
	size, err := r.file.Size()
	if err != nil {
		return err
	}
	maxLeaves := uint64(MaxLUNBytes / BlockSize / leafBlocks)
	if h.layer != layer || h.length != uint64(size) || h.indexCount > maxLeaves {
		return errorf(ErrCorrupt, r.name, "offset 12: the header is of layer %08x, %d bytes, %d leaves; the file has %d bytes", h.layer, h.length, h.indexCount, size)
	}
	if h.indexOffset > h.length || h.indexCount*sumsEntrySize != h.length-h.indexOffset {
		return errorf(ErrCorrupt, r.name, "offset 32: the index of %d entries at %d does not end with the file, %d bytes", h.indexCount, h.indexOffset, size)
	}
	r.header = h
	r.index = make([]byte, h.indexCount*sumsEntrySize)
	if err := r.read(r.index, int64(h.indexOffset)); err != nil {
		return err
	}
	if crcOf(r.index) != h.indexCRC {
		return errorf(ErrCorrupt, r.name, "offset %d: wrong checksum of the index", h.indexOffset)
	}
	return nil
}

// read fills b from the file; a file that ends before is damaged.
func (r *sumsReader) read(b []byte, off int64) error {
	n, err := r.file.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return errorf(ErrCorrupt, r.name, "offset %d: the file ends after %d of %d bytes", off, n, len(b))
	}
	return fmt.Errorf("blockdev: read %s: %w", r.name, err)
}

func (r *sumsReader) close() error { return r.file.Close() }

// count returns the number of leaves.
func (r *sumsReader) count() int { return len(r.index) / sumsEntrySize }

// number returns the number of the nth leaf of the index.
func (r *sumsReader) number(n int) uint64 {
	return binary.LittleEndian.Uint64(r.index[n*sumsEntrySize:])
}

// find returns the sums of a leaf, nil if it has none.
func (r *sumsReader) find(index uint64) (*sumLeaf, error) {
	lo, hi := 0, r.count()
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if r.number(mid) < index {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == r.count() || r.number(lo) != index {
		return nil, nil
	}
	return r.leaf(lo)
}

// leaf decodes the nth leaf of the index.
func (r *sumsReader) leaf(n int) (*sumLeaf, error) {
	le := binary.LittleEndian
	e := r.index[n*sumsEntrySize:][:sumsEntrySize]
	index, offset, length := le.Uint64(e), le.Uint64(e[8:]), le.Uint32(e[16:])
	if length > maxSumLeaf || offset > r.header.indexOffset || n > 0 && index <= r.number(n-1) {
		return nil, errorf(ErrCorrupt, r.name, "offset %d: leaf %d has %d bytes or is out of order", offset, index, length)
	}
	b := make([]byte, length)
	if err := r.read(b, int64(offset)); err != nil {
		return nil, err
	}
	if crcOf(b) != le.Uint32(e[20:]) {
		return nil, errorf(ErrCorrupt, r.name, "offset %d: wrong checksum of leaf %d", offset, index)
	}
	l := new(sumLeaf)
	for len(b) >= sumRunSize {
		first, count, at := int(le.Uint16(b)), int(le.Uint16(b[2:])), place(le.Uint32(b[4:]))
		b = b[sumRunSize:]
		if first+count > leafBlocks || count*4 > len(b) || !at.isData() {
			return nil, errorf(ErrCorrupt, r.name, "offset %d: leaf %d has a run of %d blocks from %d", offset, index, count, first)
		}
		for i := range count {
			l.places[first+i], l.sums[first+i] = at, le.Uint32(b[4*i:])
		}
		b = b[4*count:]
	}
	return l, nil
}

// sumSource is where the sums of a layer come from: leaf(n) are those of the
// leaf with the number leaves[n].
type sumSource struct {
	leaves []uint64 // ascending
	leaf   func(n int) (*sumLeaf, error)
	want   func(block uint64, at place) bool
}

func anySum(uint64, place) bool { return true }

// source returns the sums for which want holds.
func (r *sumsReader) source(want func(block uint64, at place) bool) sumSource {
	s := sumSource{leaves: make([]uint64, r.count()), leaf: r.leaf, want: want}
	for n := range s.leaves {
		s.leaves[n] = r.number(n)
	}
	return s
}

// writeSums writes the sums of a layer. Where several sources have one of a
// block, that of the first counts.
func writeSums(fs blockfile.FS, layer uint32, sources ...sumSource) error {
	w, err := collectSums(fs, layer, sources...)
	if err != nil {
		return err
	}
	return w.finish()
}

// collectSums is writeSums but for the end of the file and its name.
func collectSums(fs blockfile.FS, layer uint32, sources ...sumSource) (*sumsWriter, error) {
	w, err := createSums(fs, layer)
	if err != nil {
		return nil, err
	}
	at := make([]int, len(sources))
	for {
		index := ^uint64(0)
		for k, s := range sources {
			if at[k] < len(s.leaves) {
				index = min(index, s.leaves[at[k]])
			}
		}
		if index == ^uint64(0) {
			return w, nil
		}
		var out sumLeaf
		for k, s := range sources {
			if at[k] == len(s.leaves) || s.leaves[at[k]] != index {
				continue
			}
			l, err := s.leaf(at[k])
			if err != nil {
				return nil, errors.Join(err, w.abort())
			}
			at[k]++
			out.add(l, func(i int, p place) bool { return s.want(index*leafBlocks+uint64(i), p) })
		}
		if err := w.leaf(index, &out); err != nil {
			return nil, errors.Join(err, w.abort())
		}
	}
}

// batchSource returns the sums in a batch of leaves by their numbers.
func batchSource(batch map[uint64]*sumLeaf) sumSource {
	s := sumSource{want: anySum}
	for index := range batch {
		s.leaves = append(s.leaves, index)
	}
	slices.Sort(s.leaves)
	s.leaf = func(n int) (*sumLeaf, error) { return batch[s.leaves[n]], nil }
	return s
}
