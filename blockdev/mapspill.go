package blockdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// The spill file holds the parts of extent maps that do not fit the memory they
// may take. Nothing in it outlives the process: it has a name only until it is
// open, and is made anew by each.
//
// A record has a slot of 512 bytes times a power of two, at a multiple of its
// size, up to 2 MiB. Little endian:
//
//	 0  8  magic "ROWANSPL"
//	 8  4  CRC32C of what follows
//	12  4  length of the record in bytes
//	16  8  offset of the record in the file
//	24  4  number of the writing, from 1
//	28  4  zero
//	32     a node, see mapBody.encode
const (
	spillName       = "spill"
	spillMagic      = "ROWANSPL"
	spillHeaderSize = 32
	spillUnit       = 512
	spillOrders     = 13 // sizes of slots
)

// errMapLost is the class of the errors that say that a part of a map cannot be
// read back. What is stored is as good as before: the map is rebuilt when the
// pool is opened.
var errMapLost = newClass("a part of the map in memory is lost", syscall.EIO)

// spillSlot is where a record lies.
type spillSlot struct {
	unit   uint32 // offset, in units of 512 bytes
	length uint32 // of the record in bytes
	serial uint32 // number of the writing, 0 for no slot
}

func (s spillSlot) offset() int64 { return int64(s.unit) * spillUnit }

// order returns the size of the slot as a power of two of units.
func (s spillSlot) order() int {
	return bits.Len32((s.length+spillUnit-1)/spillUnit - 1)
}

// spillFile is a file of records of which slots are given back and used again.
type spillFile struct {
	fs blockfile.FS

	mu   sync.Mutex
	file blockfile.File // nil before the first record
	// free holds the slots of each order that are not in use. Two halves of a
	// larger one that both come free are joined.
	free   [spillOrders]map[uint32]struct{}
	end    uint32
	serial uint32
	closed bool
}

// dropSpill removes the file that a process left which died between making it
// and removing its name.
func dropSpill(fsys blockfile.FS) error {
	names, err := fsys.ReadDir(".")
	if err != nil || !slices.Contains(names, spillName) {
		return err
	}
	return fsys.Remove(spillName)
}

// open makes the file. mu is held.
func (s *spillFile) open() error {
	if s.closed {
		return fs.ErrClosed
	}
	if s.file != nil {
		return nil
	}
	f, err := s.fs.Open(spillName, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	if err := s.fs.Remove(spillName); err != nil {
		return errors.Join(err, f.Close())
	}
	s.file = f
	return nil
}

func (s *spillFile) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// write writes a record: b begins with room for the header.
func (s *spillFile) write(b []byte) (spillSlot, error) {
	slot := spillSlot{length: uint32(len(b))}
	s.mu.Lock()
	err := s.open()
	if err == nil {
		slot.unit = s.take(slot.order())
		if s.serial++; s.serial == 0 {
			s.serial++
		}
		slot.serial = s.serial
	}
	s.mu.Unlock()
	if err != nil {
		return spillSlot{}, err
	}
	copy(b, spillMagic)
	slot.header(b)
	if _, err := s.file.WriteAt(b, slot.offset()); err != nil {
		s.drop(slot)
		return spillSlot{}, err
	}
	return slot, nil
}

// header puts into b what identifies the record, and its checksum.
func (s spillSlot) header(b []byte) {
	le := binary.LittleEndian
	le.PutUint32(b[12:], s.length)
	le.PutUint64(b[16:], uint64(s.offset()))
	le.PutUint32(b[24:], s.serial)
	le.PutUint32(b[28:], 0)
	le.PutUint32(b[8:], crcOf(b[12:]))
}

// read returns the node in a record. try is to read only what is in the page
// cache, else the error is blockfile.ErrWouldBlock.
func (s *spillFile) read(slot spillSlot, try bool) ([]byte, error) {
	s.mu.Lock()
	f := s.file
	s.mu.Unlock()
	b := make([]byte, slot.length)
	if try {
		if err := f.TryReadAt(b, slot.offset()); err != nil {
			return nil, blockfile.ErrWouldBlock
		}
	} else if n, err := f.ReadAt(b, slot.offset()); n < len(b) {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("the file ends after %d of %d bytes", n, len(b))
		}
		return nil, slot.lost(err)
	}
	want := slices.Clone(b[:spillHeaderSize])
	copy(want, spillMagic)
	le := binary.LittleEndian
	switch {
	case string(b[:8]) != spillMagic || le.Uint32(b[8:]) != crcOf(b[12:]):
		return nil, slot.lost(errors.New("wrong checksum"))
	case le.Uint32(b[12:]) != slot.length || le.Uint64(b[16:]) != uint64(slot.offset()) || le.Uint32(b[24:]) != slot.serial:
		return nil, slot.lost(fmt.Errorf("it holds record %d for offset %d", le.Uint32(b[24:]), le.Uint64(b[16:])))
	}
	return b[spillHeaderSize:], nil
}

func (s spillSlot) lost(cause error) error {
	return &Error{Object: "spill file", Class: errMapLost, Cause: cause,
		Detail: fmt.Sprintf("offset %d: restart the daemon to have the map rebuilt, nothing that is stored is concerned", s.offset())}
}

// take returns a free slot of an order. mu is held.
func (s *spillFile) take(order int) uint32 {
	at, o := uint32(0), order
	for o < spillOrders && len(s.free[o]) == 0 {
		o++
	}
	if o == spillOrders {
		o--
		at = s.end
		s.end += 1 << o
	} else {
		for at = range s.free[o] {
			break
		}
		delete(s.free[o], at)
	}
	for o > order {
		o--
		s.put(o, at+1<<o)
	}
	return at
}

func (s *spillFile) put(order int, at uint32) {
	if s.free[order] == nil {
		s.free[order] = make(map[uint32]struct{})
	}
	s.free[order][at] = struct{}{}
}

// drop gives a slot back; the largest ones also to the filesystem.
func (s *spillFile) drop(slot spillSlot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, o := slot.unit, slot.order()
	for ; o < spillOrders-1; o++ {
		other := at ^ 1<<o
		if _, free := s.free[o][other]; !free {
			break
		}
		delete(s.free[o], other)
		at = min(at, other)
	}
	s.put(o, at)
	if o == spillOrders-1 && !s.closed {
		_ = s.file.PunchHole(int64(at)*spillUnit, spillUnit<<o) // else the space is used again
	}
}
