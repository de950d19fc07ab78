package blockdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// newSuffix marks a file that is being written and takes its real name by a
// rename once it is synced. Such files are removed when a pool is opened.
const newSuffix = ".new"

// journalScan is what the journal of a layer holds on disk.
type journalScan struct {
	files    []scannedFile
	believed uint64 // records through this sequence number count
	nextSeq  uint64 // one more than the last sequence number seen
}

type scannedFile struct {
	header  journalHeader
	records []byte // those with right checksums and sequence numbers
	first   uint64 // sequence number of the first of them
}

// empty tells whether no record was found, believed or not.
func (s *journalScan) empty() bool {
	for _, f := range s.files {
		if len(f.records) > 0 {
			return false
		}
	}
	return true
}

// scanJournal reads the journal files of a layer from a generation on.
//
// Records written under the running kernel are in its page cache with the
// data they point at and count all. After a reboot, or where onlyCommitted is
// set, only those count that a commit record covers: the data of the others
// may have been lost.
func scanJournal(fs blockfile.FS, layer uint32, from, nextSeq uint64, bootID string, onlyCommitted bool) (*journalScan, error) {
	generations, err := journalGenerations(fs, layer, from)
	if err != nil {
		return nil, err
	}
	s := &journalScan{believed: nextSeq - 1, nextSeq: nextSeq}
	sameBoot := !onlyCommitted
	var lost lostRecords
	for i, g := range generations {
		name := journalName(layer, g)
		if g != from+uint64(i) {
			return nil, errorf(ErrCorrupt, journalName(layer, from+uint64(i)), "the file is missing, later ones are there")
		}
		f, err := scanJournalFile(fs, name, layer, g, s.nextSeq, &lost)
		if err != nil {
			return nil, err
		}
		s.files = append(s.files, f)
		s.nextSeq = max(s.nextSeq, f.first+uint64(len(f.records)/recordSize))
		sameBoot = sameBoot && f.header.bootID == bootID
		f.each(func(r record) {
			if r.kind == recordCommit {
				s.believed = max(s.believed, r.block)
			}
		})
	}
	if sameBoot {
		s.believed = s.nextSeq - 1
	}
	if lost.damage(sameBoot) {
		return nil, errorf(ErrCorrupt, lost.file, "record %d is damaged, later ones are good", s.nextSeq)
	}
	return s, nil
}

// lostRecords counts what is readable beyond the end of a journal. A power cut
// while a flush was under way can leave such records, and the commit record of
// that flush; the next flush would have begun only when they were durable.
type lostRecords struct {
	file             string
	records, commits int
}

// damage tells whether the journal's end is not one that a crash can leave.
func (l lostRecords) damage(sameBoot bool) bool {
	return l.commits > 1 || sameBoot && l.records > 0
}

// journalGenerations lists a layer's journal files from a generation on.
func journalGenerations(fs blockfile.FS, layer uint32, from uint64) ([]uint64, error) {
	names, err := fs.ReadDir(layerDir(layer))
	if err != nil {
		return nil, err
	}
	var generations []uint64
	for _, name := range names {
		if g, ok := parseJournalName(name); ok && g >= from {
			generations = append(generations, g)
		}
	}
	slices.Sort(generations)
	if len(generations) == 0 || generations[0] != from {
		return nil, errorf(ErrCorrupt, journalName(layer, from), "the file is missing")
	}
	return generations, nil
}

// scanJournalFile reads one file and finds where its records end.
func scanJournalFile(fs blockfile.FS, name string, layer uint32, generation, nextSeq uint64, lost *lostRecords) (scannedFile, error) {
	b, err := readFile(fs, name, maxJournalFileBytes)
	if err != nil {
		return scannedFile{}, err
	}
	if len(b) < minJournalBytes {
		return scannedFile{}, errorf(ErrCorrupt, name, "%d bytes are too few for a journal", len(b))
	}
	h, err := decodeJournalHeader(b)
	if err != nil {
		return scannedFile{}, &Error{Object: name, Class: ErrCorrupt, Detail: "offset 0", Cause: err}
	}
	if h.layer != layer || h.generation != generation || h.length != int64(len(b)) {
		return scannedFile{}, errorf(ErrCorrupt, name, "offset 0: the header is of layer %08x, generation %d, %d bytes", h.layer, h.generation, h.length)
	}
	salt := h.salt()
	b = b[journalHeaderSize:]
	if r, ok := decodeRecord(b, salt); ok && r.seq < nextSeq {
		nextSeq = r.seq // a checkpoint holds the first records of this file
	}
	f := scannedFile{header: h, first: nextSeq}
	n := 0
	for ; n+recordSize <= len(b); n += recordSize {
		r, ok := decodeRecord(b[n:], salt)
		if !ok || r.seq != nextSeq+uint64(n/recordSize) {
			break
		}
	}
	f.records = b[:n]
	// Records are written in order into zeros, and no sector is torn between
	// records: what follows the last one is zeros, or a whole record of after
	// a sector that did not reach the disk.
	if n+recordSize <= len(b) {
		if _, ok := decodeRecord(b[n:], salt); !ok && !isZero(b[n:n+recordSize]) {
			return f, errorf(ErrCorrupt, name, "offset %d: record %d is damaged", journalHeaderSize+n, nextSeq+uint64(n/recordSize))
		}
	}
	for ; n+recordSize <= len(b); n += recordSize {
		if isZero(b[n : n+recordSize]) {
			continue // most of a journal
		}
		if r, ok := decodeRecord(b[n:], salt); ok && r.seq > nextSeq {
			lost.file = name
			lost.records++
			if r.kind == recordCommit {
				lost.commits++
			}
		}
	}
	return f, nil
}

func isZero(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
	}
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// each calls fn for every record of a file.
func (f *scannedFile) each(fn func(record)) {
	salt := f.header.salt()
	for b := f.records; len(b) >= recordSize; b = b[recordSize:] {
		r, _ := decodeRecord(b, salt)
		fn(r)
	}
}

// apply lays the believed map changes over m. Changes past blocks are damage.
func (s *journalScan) apply(m *extentMap, blocks uint64) error {
	var err error
	for i := range s.files {
		f := &s.files[i]
		f.each(func(r record) {
			if r.seq > s.believed || r.kind == recordCommit {
				return
			}
			if r.kind > recordCommit || r.block >= blocks || uint64(r.count) > blocks-r.block || r.origin == 0 || r.origin > maxOrigin {
				err = errors.Join(err, errorf(ErrCorrupt, journalName(f.header.layer, f.header.generation),
					"offset %d: a record of kind %d maps %d blocks from %d to origin %d, the LUN has %d blocks",
					journalHeaderSize+(r.seq-f.first)*recordSize, r.kind, r.count, r.block, r.origin, blocks))
				return
			}
			if setErr := m.set(r.block, uint64(r.count), r.place()); setErr != nil && err == nil {
				err = setErr
			}
		})
	}
	return err
}

// readFile returns the content of a file of at most limit bytes.
func readFile(fs blockfile.FS, name string, limit int64) ([]byte, error) {
	f, err := fs.Open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, errorf(ErrCorrupt, name, "%d bytes, more than the %d that it may have", size, limit)
	}
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); err != nil && !(errors.Is(err, io.EOF) && n == len(b)) {
		return nil, fmt.Errorf("blockdev: read %s: %w", name, err)
	}
	return b, nil
}
