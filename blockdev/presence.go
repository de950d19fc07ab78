package blockdev

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// The presence map of a layer, file layers/<layer>/presence, holds the places
// that the layer's own writes gave to blocks: the layer's part of every extent
// map above it. It is written whole, at a checkpoint of an open layer or when
// a layer is sealed.
//
//	header, 4096 bytes, of which the first 100 are used, little endian
//	  0  8  magic "ROWANPRM"
//	  8  4  version, 1
//	 12  4  layer id
//	 16  4  flags: bit 0, sealed; bit 1, open layers: segments of the layer may
//	        hold blocks that the map does not use
//	 20  4  CRC32C of the index
//	 24  8  number of blocks of the LUN
//	 32  8  number of data blocks
//	 40  8  number of zero blocks
//	 48  8  open layers: generation of the first journal file to be replayed
//	 56  8  open layers: sequence number of the first record to be replayed
//	 64  8  offset of the index in bytes
//	 72  8  number of index entries
//	 80 16  zero
//	 96  4  CRC32C of bytes 0 to 95
//	leaves, one after the other
//	  encoding 1, places: 512 places of 4 bytes
//	  encoding 2, runs: for each run 2 bytes first block in the leaf, 2 bytes
//	  number of blocks, 4 bytes place; blocks in no run are nowhere
//	index, 32 bytes for each leaf that is not nowhere throughout, ascending
//	  0  8  number of the leaf: its first block is 512 times that
//	  8  8  offset in bytes; encoding 0: the place of all its blocks
//	 16  4  length in bytes; encoding 0: zero
//	 20  4  CRC32C of the leaf; encoding 0: zero
//	 24  4  encoding: 0 uniform, 1 places, 2 runs
//	 28  4  zero
//
// A place is 0 for nowhere, origin*2 for data and origin*2+1 for zeros.
const (
	presenceMagic      = "ROWANPRM"
	presenceVersion    = 1
	presenceHeaderSize = 4096
	presenceEntrySize  = 32
	leafRunSize        = 8

	encodingUniform = 0
	encodingPlaces  = 1
	encodingRuns    = 2

	flagSealed   = 1
	flagLeftover = 2
)

func presenceName(layer uint32) string { return path.Join(layerDir(layer), "presence") }

type presenceHeader struct {
	layer       uint32
	sealed      bool
	leftover    bool
	blocks      uint64
	dataBlocks  uint64
	zeroBlocks  uint64
	journalFrom uint64
	nextSeq     uint64
	indexOffset uint64
	indexCount  uint64
	indexCRC    uint32
}

func (h presenceHeader) encode() []byte {
	b := make([]byte, presenceHeaderSize)
	copy(b, presenceMagic)
	le := binary.LittleEndian
	le.PutUint32(b[8:], presenceVersion)
	le.PutUint32(b[12:], h.layer)
	flags := uint32(0)
	if h.sealed {
		flags |= flagSealed
	}
	if h.leftover {
		flags |= flagLeftover
	}
	le.PutUint32(b[16:], flags)
	le.PutUint32(b[20:], h.indexCRC)
	for i, v := range []uint64{h.blocks, h.dataBlocks, h.zeroBlocks, h.journalFrom, h.nextSeq, h.indexOffset, h.indexCount} {
		le.PutUint64(b[24+8*i:], v)
	}
	le.PutUint32(b[96:], crcOf(b[:96]))
	return b
}

func decodePresenceHeader(b []byte) (presenceHeader, error) {
	le := binary.LittleEndian
	switch {
	case string(b[:8]) != presenceMagic:
		return presenceHeader{}, errors.New("offset 0: no presence map header")
	case le.Uint32(b[96:]) != crcOf(b[:96]):
		return presenceHeader{}, errors.New("offset 0: wrong checksum of the header")
	case le.Uint32(b[8:]) != presenceVersion:
		return presenceHeader{}, fmt.Errorf("offset 8: version %d is not known", le.Uint32(b[8:]))
	case le.Uint32(b[16:])&^(flagSealed|flagLeftover) != 0:
		return presenceHeader{}, fmt.Errorf("offset 16: flags %#x are not known", le.Uint32(b[16:]))
	}
	flags := le.Uint32(b[16:])
	h := presenceHeader{layer: le.Uint32(b[12:]), sealed: flags&flagSealed != 0, leftover: flags&flagLeftover != 0, indexCRC: le.Uint32(b[20:])}
	for i, v := range []*uint64{&h.blocks, &h.dataBlocks, &h.zeroBlocks, &h.journalFrom, &h.nextSeq, &h.indexOffset, &h.indexCount} {
		*v = le.Uint64(b[24+8*i:])
	}
	return h, nil
}

// presenceWriter writes a presence map leaf by leaf.
type presenceWriter struct {
	fs     blockfile.FS
	file   blockfile.File
	out    *bufio.Writer
	offset uint64
	header presenceHeader
	index  []byte
	buf    []byte
}

// createPresence begins the presence map of a layer under a temporary name.
func createPresence(fs blockfile.FS, h presenceHeader) (*presenceWriter, error) {
	f, err := fs.Open(presenceName(h.layer)+newSuffix, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	w := &presenceWriter{fs: fs, file: f, offset: presenceHeaderSize, header: h}
	w.out = bufio.NewWriterSize(io.NewOffsetWriter(f, presenceHeaderSize), 256<<10)
	return w, nil
}

// leaf adds the leaf with an index; indexes ascend. vals is not kept.
func (w *presenceWriter) leaf(index uint64, vals *[leafBlocks]place) error {
	w.count(vals)
	if isUniform(vals[:]) {
		if vals[0] != nowhere {
			w.entry(index, uint64(vals[0]), 0, 0, encodingUniform)
		}
		return nil
	}
	le := binary.LittleEndian
	b := w.buf[:0]
	encoding := uint32(encodingRuns)
	for i := 0; i < leafBlocks; {
		j := i + 1
		for j < leafBlocks && vals[j] == vals[i] {
			j++
		}
		if vals[i] != nowhere {
			b = le.AppendUint16(b, uint16(i))
			b = le.AppendUint16(b, uint16(j-i))
			b = le.AppendUint32(b, uint32(vals[i]))
		}
		i = j
	}
	if len(b) > leafBlocks*4 {
		b, encoding = b[:0], encodingPlaces
		for _, p := range vals {
			b = le.AppendUint32(b, uint32(p))
		}
	}
	w.buf = b
	if _, err := w.out.Write(b); err != nil {
		return err
	}
	w.entry(index, w.offset, uint32(len(b)), crcOf(b), encoding)
	w.offset += uint64(len(b))
	return nil
}

func (w *presenceWriter) count(vals *[leafBlocks]place) {
	for _, p := range vals {
		if p.isData() {
			w.header.dataBlocks++
		} else if p != nowhere {
			w.header.zeroBlocks++
		}
	}
}

func (w *presenceWriter) entry(index, offset uint64, length, crc, encoding uint32) {
	le := binary.LittleEndian
	w.index = le.AppendUint64(w.index, index)
	w.index = le.AppendUint64(w.index, offset)
	w.index = le.AppendUint32(w.index, length)
	w.index = le.AppendUint32(w.index, crc)
	w.index = le.AppendUint32(w.index, encoding)
	w.index = le.AppendUint32(w.index, 0)
}

// finish writes the index and the header and puts the map durably in the
// place of the one before.
func (w *presenceWriter) finish() (presenceHeader, error) {
	w.header.indexOffset = w.offset
	w.header.indexCount = uint64(len(w.index) / presenceEntrySize)
	w.header.indexCRC = crcOf(w.index)
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
	err = errors.Join(err, w.file.Close())
	name := presenceName(w.header.layer)
	if err == nil {
		err = w.fs.Rename(name+newSuffix, name)
	}
	if err != nil {
		w.fs.Remove(name + newSuffix) // gives its space back; else the next opening does
		return w.header, err
	}
	return w.header, w.fs.SyncDir(layerDir(w.header.layer))
}

// abort drops what was written.
func (w *presenceWriter) abort() {
	w.file.Close()
	w.fs.Remove(presenceName(w.header.layer) + newSuffix)
}

// presenceReader reads a presence map leaf by leaf.
type presenceReader struct {
	header presenceHeader
	name   string
	file   blockfile.File
	index  []byte
	// ahead is what was read of the file from offset aheadAt on: leaves lie one
	// after the other, and most are small.
	ahead   []byte
	aheadAt int64
}

// readAhead is how much of a presence map is read at a time.
const readAhead = 64 << 10

// openPresence opens the presence map of a layer and verifies its header and
// index.
func openPresence(fs blockfile.FS, layer uint32) (*presenceReader, error) {
	name := presenceName(layer)
	f, err := fs.Open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	r := &presenceReader{name: name, file: f}
	if err := r.open(layer); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return r, nil
}

func (r *presenceReader) open(layer uint32) error {
	var b [presenceHeaderSize]byte
	if err := r.read(b[:], 0); err != nil {
		return err
	}
	h, err := decodePresenceHeader(b[:])
	if err != nil {
		return &Error{Object: r.name, Class: ErrCorrupt, Cause: err}
	}
	maxLeaves := uint64(MaxLUNBytes / BlockSize / leafBlocks)
	if h.layer != layer || h.blocks > MaxLUNBytes/BlockSize || h.indexCount > maxLeaves {
		return errorf(ErrCorrupt, r.name, "offset 12: the header is of layer %08x, %d blocks, %d leaves", h.layer, h.blocks, h.indexCount)
	}
	r.header = h
	size, err := r.file.Size()
	if err != nil {
		return err
	}
	if h.indexOffset > uint64(size) || h.indexCount*presenceEntrySize > uint64(size)-h.indexOffset {
		return errorf(ErrCorrupt, r.name, "offset 64: the index of %d entries at %d is past the end of the file, %d bytes", h.indexCount, h.indexOffset, size)
	}
	r.index = make([]byte, h.indexCount*presenceEntrySize)
	if err := r.read(r.index, int64(h.indexOffset)); err != nil {
		return err
	}
	if crcOf(r.index) != h.indexCRC {
		return errorf(ErrCorrupt, r.name, "offset %d: wrong checksum of the index", h.indexOffset)
	}
	return nil
}

// read fills b from the file; a file that ends before is damaged.
func (r *presenceReader) read(b []byte, off int64) error {
	n, err := r.file.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return errorf(ErrCorrupt, r.name, "offset %d: the file ends after %d of %d bytes", off, n, len(b))
	}
	return fmt.Errorf("blockdev: read %s: %w", r.name, err)
}

// leafBytes returns n bytes of the file at an offset, valid until the next call.
func (r *presenceReader) leafBytes(off int64, n int) ([]byte, error) {
	if i := off - r.aheadAt; i < 0 || i+int64(n) > int64(len(r.ahead)) {
		end := int64(r.header.indexOffset) // where the leaves end
		want := max(int64(n), min(readAhead, end-off))
		if int64(cap(r.ahead)) < want {
			r.ahead = make([]byte, want)
		}
		r.ahead, r.aheadAt = r.ahead[:want], off
		if err := r.read(r.ahead, off); err != nil {
			r.ahead = r.ahead[:0]
			return nil, err
		}
	}
	return r.ahead[off-r.aheadAt:][:n], nil
}

func (r *presenceReader) close() error { return r.file.Close() }

// leaves calls fn for every leaf of the map in order. vals is valid until fn
// returns.
func (r *presenceReader) leaves(fn func(index uint64, vals *[leafBlocks]place) error) error {
	var vals [leafBlocks]place
	for n := 0; n < int(r.header.indexCount); n++ {
		index, err := r.leaf(n, &vals)
		if err != nil {
			return err
		}
		if err := fn(index, &vals); err != nil {
			return err
		}
	}
	return nil
}

// leaf decodes the nth leaf of the index into vals and returns its number.
func (r *presenceReader) leaf(n int, vals *[leafBlocks]place) (index uint64, err error) {
	le := binary.LittleEndian
	e := r.index[n*presenceEntrySize:][:presenceEntrySize]
	index = le.Uint64(e)
	offset, length, crc, encoding := le.Uint64(e[8:]), le.Uint32(e[16:]), le.Uint32(e[20:]), le.Uint32(e[24:])
	damaged := func(format string, args ...any) error {
		return errorf(ErrCorrupt, r.name, "offset %d: "+format, append([]any{offset}, args...)...)
	}
	if index >= (r.header.blocks+leafBlocks-1)/leafBlocks || n > 0 && index <= le.Uint64(r.index[(n-1)*presenceEntrySize:]) {
		return 0, damaged("leaf %d is past the end or out of order", index)
	}
	if encoding == encodingUniform {
		fill(vals[:], place(offset))
		return index, nil
	}
	if encoding > encodingRuns || length > leafBlocks*leafRunSize || encoding == encodingPlaces && length != leafBlocks*4 {
		return 0, damaged("leaf %d has encoding %d and %d bytes", index, encoding, length)
	}
	b, err := r.leafBytes(int64(offset), int(length))
	if err != nil {
		return 0, err
	}
	if crcOf(b) != crc {
		return 0, damaged("wrong checksum of leaf %d", index)
	}
	if encoding == encodingPlaces {
		for i := range vals {
			vals[i] = place(le.Uint32(b[4*i:]))
		}
		return index, nil
	}
	clear(vals[:])
	for ; len(b) >= leafRunSize; b = b[leafRunSize:] {
		first, count := int(le.Uint16(b)), int(le.Uint16(b[2:]))
		if first+count > leafBlocks {
			return 0, damaged("leaf %d has a run of %d blocks from %d", index, count, first)
		}
		fill(vals[first:first+count], place(le.Uint32(b[4:])))
	}
	return index, nil
}
