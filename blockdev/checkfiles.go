package blockdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
)

// What the engine does not need to look at to open a pool is looked at here:
// that the unused parts of headers are zeros, that the parts of a file lie side
// by side and fill it, that sums are whole.

// notZero is what is wrong with the unused part of a header.
const notZero = "not zero, though not in use"

// extent is a part of a file, end not included.
type extent struct{ start, end uint64 }

// files verifies every file of a layer byte by byte.
func (c *checker) files(r *layerRecord) {
	names, err := c.p.fs.ReadDir(layerDir(r.ID))
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("blockdev: check %s: %w", layerDir(r.ID), err))
		return
	}
	for _, n := range names {
		name := path.Join(layerDir(r.ID), n)
		var err error
		if _, ok := parseJournalName(n); ok {
			err = c.journalFile(name, r)
		} else if name == presenceName(r.ID) {
			err = c.presenceFile(name, r)
		} else if name == sumsName(r.ID) && r.Sealed {
			err = c.sumsFile(name, r)
		}
		if err != nil {
			c.errs = append(c.errs, err)
		}
	}
}

// padding verifies that a part of a file is zeros.
func (c *checker) padding(name string, e extent) error {
	f, err := c.p.fs.Open(name, os.O_RDONLY)
	if err != nil {
		return err
	}
	b := make([]byte, e.end-e.start)
	n, err := f.ReadAt(b, int64(e.start))
	if errors.Is(err, io.EOF) {
		err = nil // too short a file is told of elsewhere
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("blockdev: read %s: %w", name, err)
	}
	if i := slices.IndexFunc(b[:n], func(x byte) bool { return x != 0 }); i >= 0 {
		return errorf(ErrCorrupt, name, "offset %d: "+notZero, e.start+uint64(i))
	}
	return nil
}

// journalFile verifies what is not a record. Those of a sealed layer are not
// needed any more.
func (c *checker) journalFile(name string, r *layerRecord) error {
	if err := c.padding(name, extent{journalHeaderUsed, journalHeaderSize}); err != nil || r.Sealed {
		return err
	}
	b, err := readFile(c.p.fs, name, maxJournalFileBytes)
	if err != nil {
		return err
	}
	if len(b) < journalHeaderSize {
		return nil // told of where the journal is replayed
	}
	h, err := decodeJournalHeader(b)
	if err != nil {
		return &Error{Object: name, Class: ErrCorrupt, Detail: "offset 0", Cause: err}
	}
	salt := h.salt()
	for at := journalHeaderSize; at+recordSize <= len(b); at += recordSize {
		record := b[at : at+recordSize]
		if _, ok := decodeRecord(record, salt); !ok && !isZero(record) {
			return errorf(ErrCorrupt, name, "offset %d: neither a record nor zeros", at)
		}
	}
	return nil
}

func (c *checker) presenceFile(name string, r *layerRecord) error {
	if err := c.padding(name, extent{100, presenceHeaderSize}); err != nil {
		return err
	}
	pr, err := openPresence(c.p.fs, r.ID)
	if err != nil {
		return err
	}
	extents := []extent{{0, presenceHeaderSize}, {pr.header.indexOffset, pr.header.indexOffset + uint64(len(pr.index))}}
	le := binary.LittleEndian
	for e := pr.index; len(e) > 0; e = e[presenceEntrySize:] {
		if le.Uint32(e[24:]) != encodingUniform {
			extents = append(extents, extent{le.Uint64(e[8:]), le.Uint64(e[8:]) + uint64(le.Uint32(e[16:]))})
		}
	}
	size, err := pr.file.Size()
	if err := errors.Join(err, pr.close()); err != nil {
		return err
	}
	return fills(name, extents, uint64(size))
}

func (c *checker) sumsFile(name string, r *layerRecord) error {
	if err := c.padding(name, extent{sumsHeaderUsed, sumsHeaderSize}); err != nil {
		return err
	}
	sr, err := openSums(c.p.fs, r.ID)
	if err != nil {
		return err
	}
	extents := []extent{{0, sumsHeaderSize}, {sr.header.indexOffset, sr.header.length}}
	le := binary.LittleEndian
	var sums uint64
	for n := range sr.count() {
		e := sr.index[n*sumsEntrySize:]
		extents = append(extents, extent{le.Uint64(e[8:]), le.Uint64(e[8:]) + uint64(le.Uint32(e[16:]))})
		l, leafErr := sr.leaf(n)
		if leafErr != nil {
			return errors.Join(leafErr, sr.close())
		}
		for _, at := range l.places {
			if at != nowhere {
				sums++
			}
		}
	}
	if err := sr.close(); err != nil {
		return err
	}
	if sums != sr.header.sums {
		return errorf(ErrCorrupt, name, "offset 24: %d sums are announced, there are %d", sr.header.sums, sums)
	}
	return fills(name, extents, sr.header.length)
}

// fills verifies that extents lie side by side and fill a file.
func fills(name string, extents []extent, size uint64) error {
	slices.SortFunc(extents, func(a, b extent) int {
		if a.start != b.start {
			return int(int64(a.start - b.start))
		}
		return int(int64(a.end - b.end))
	})
	at := uint64(0)
	for _, e := range extents {
		if e.start != at {
			return errorf(ErrCorrupt, name, "offset %d: the next part of the file begins at %d", at, e.start)
		}
		at = e.end
	}
	if at != size {
		return errorf(ErrCorrupt, name, "offset %d: the file should end here, it has %d bytes", at, size)
	}
	return nil
}
