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
const (
	probeBytes = 64 << 10
	maxProbes  = 64
)

// probe reads parts of an area, each once, while its format is looked for.
type probe struct {
	r         io.ReaderAt
	sizeBytes int64
	units     map[int64][]byte
	err       error // the first failed read
}

func newProbe(r io.ReaderAt, sizeBytes int64) *probe {
	return &probe{r: r, sizeBytes: sizeBytes, units: map[int64][]byte{}}
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
		from := int((off + int64(done)) % probeBytes)
		if from >= len(unit) {
			break
		}
		done += copy(out[done:], unit[from:])
	}
	return out
}

func (p *probe) unit(i int64) []byte {
	if u, ok := p.units[i]; ok || len(p.units) >= maxProbes {
		return u
	}
	u := make([]byte, min(probeBytes, p.sizeBytes-i*probeBytes))
	if n, err := p.r.ReadAt(u, i*probeBytes); n < len(u) {
		if p.err == nil {
			p.err = errors.Join(err, io.ErrUnexpectedEOF)
		}
		u = nil
	}
	p.units[i] = u
	return u
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
		if len(bytes.Trim(u, "\x00")) > 0 {
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
