package snapfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

// probeBytes is the unit in which an area is read while its format is looked
// for, maxProbes how many such units are read at most.
//
// A unit that cannot be read as a whole is read in pieces.
const (
	probeBytes = 64 << 10
	pieceBytes = 4 << 10
	maxProbes  = 64
)

// probe reads parts of an area, each once, while its format is looked for.
type probe struct {
	r         io.ReaderAt
	sizeBytes int64
	units     map[int64]probeUnit
	err       error // of the first read of what was asked for that failed, or of one that was late
	failures  int   // how many there were
}

// probeUnit is a unit that was read.
type probeUnit struct {
	data []byte
	errs map[int64]error // of pieces that cannot be read; nil if all can
}

func newProbe(r io.ReaderAt, sizeBytes int64) *probe {
	return &probe{r: r, sizeBytes: sizeBytes, units: map[int64]probeUnit{}}
}

// at returns n bytes at off, or n zeros if they do not lie in the area or
// cannot be read. Errors are kept in p.err.
func (p *probe) at(off int64, n int) []byte {
	out := make([]byte, n)
	if off < 0 || off > p.sizeBytes-int64(n) {
		return out
	}
	for done := 0; done < n; {
		unit := p.unit((off + int64(done)) / probeBytes)
		from := (off + int64(done)) % probeBytes
		if from >= int64(len(unit.data)) {
			break
		}
		k := copy(out[done:min(n, done+pieceBytes-int(from%pieceBytes))], unit.data[from:])
		if err := unit.errs[from/pieceBytes]; err != nil {
			p.failures++
			if p.err == nil || errors.Is(err, errLate) {
				p.err = err
			}
		}
		done += k
	}
	return out
}

func (p *probe) unit(i int64) probeUnit {
	if u, ok := p.units[i]; ok || len(p.units) >= maxProbes {
		return u
	}
	u := probeUnit{data: make([]byte, min(probeBytes, p.sizeBytes-i*probeBytes))}
	if err := p.read(u.data, i*probeBytes); err != nil {
		u.errs = make(map[int64]error)
		for at := int64(0); at < int64(len(u.data)); at += pieceBytes {
			piece := u.data[at:min(at+pieceBytes, int64(len(u.data)))]
			if !errors.Is(err, errLate) { // else another try would be as late
				err = p.read(piece, i*probeBytes+at)
			}
			if err != nil {
				clear(piece)
				u.errs[at/pieceBytes] = err
			}
		}
	}
	p.units[i] = u
	return u
}

func (p *probe) read(b []byte, off int64) error {
	if n, err := p.r.ReadAt(b, off); n < len(b) {
		return errors.Join(err, io.ErrUnexpectedEOF)
	}
	return nil
}

// is tells whether magic stands at off.
func (p *probe) is(off int64, magic string) bool {
	return string(p.at(off, len(magic))) == magic
}

func (p *probe) le16(off int64) uint16 { return binary.LittleEndian.Uint16(p.at(off, 2)) }
func (p *probe) le32(off int64) uint32 { return binary.LittleEndian.Uint32(p.at(off, 4)) }
func (p *probe) le64(off int64) uint64 { return binary.LittleEndian.Uint64(p.at(off, 8)) }
func (p *probe) be16(off int64) uint16 { return binary.BigEndian.Uint16(p.at(off, 2)) }
func (p *probe) be32(off int64) uint32 { return binary.BigEndian.Uint32(p.at(off, 4)) }

// text returns the text in n bytes at off, up to the first NUL, without blanks
// around it.
func (p *probe) text(off int64, n int) string {
	b, _, _ := bytes.Cut(p.at(off, n), []byte{0})
	return strings.TrimSpace(strings.ToValidUTF8(string(b), "\uFFFD"))
}

// uuid returns the 16 bytes at off as a UUID, "" if they are all zero.
func (p *probe) uuid(off int64) string {
	b := p.at(off, 16)
	if [16]byte(b) == [16]byte{} {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// zeros tells whether everything that was read so far is zero.
func (p *probe) zeros() bool {
	for _, u := range p.units {
		if len(bytes.Trim(u.data, "\x00")) > 0 {
			return false
		}
	}
	return true
}

// utf16le decodes a name in UTF-16, little-endian, up to the first NUL.
func utf16le(b []byte) string {
	var units []uint16
	for ; len(b) >= 2; b = b[2:] {
		u := binary.LittleEndian.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return strings.TrimSpace(string(utf16.Decode(units)))
}
