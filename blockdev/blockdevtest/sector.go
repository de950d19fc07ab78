package blockdevtest

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
)

// value stands for the content of a sector. Zero is all zeros.
type value int32

// values numbers the contents of sectors that were written.
type values struct {
	mu    sync.Mutex
	ids   map[[sectorSize]byte]value
	bytes []*[sectorSize]byte
}

func newValues() *values {
	v := &values{ids: map[[sectorSize]byte]value{}}
	v.id(new([sectorSize]byte))
	return v
}

// id numbers a content.
func (v *values) id(b *[sectorSize]byte) value {
	v.mu.Lock()
	defer v.mu.Unlock()
	id, ok := v.ids[*b]
	if !ok {
		id = value(len(v.bytes))
		c := *b
		v.ids[c] = id
		v.bytes = append(v.bytes, &c)
	}
	return id
}

// lookup finds the number of a content, if it was ever written.
func (v *values) lookup(b *[sectorSize]byte) (value, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	id, ok := v.ids[*b]
	return id, ok
}

func (v *values) content(id value) [sectorSize]byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	return *v.bytes[id]
}

// overlay numbers the content that p makes of another where it is laid over
// it at byte at.
func (v *values) overlay(old value, p []byte, at int64) value {
	b := v.content(old)
	copy(b[at:], p)
	return v.id(&b)
}

// stampSize is the unit of stamped data: 8 bytes that say which write it was,
// and 8 bytes that say where on the LUN it belongs, both big-endian.
const stampSize = 16

// Stamp returns the n bytes that write number id puts at an offset of a LUN.
func Stamp(id uint64, off, n int64) []byte {
	first := off / stampSize * stampSize
	b := make([]byte, 0, alignUp(off+n, stampSize)-first)
	for at := first; at < off+n; at += stampSize {
		b = binary.BigEndian.AppendUint64(b, id)
		b = binary.BigEndian.AppendUint64(b, uint64(at))
	}
	return b[off-first : off-first+n]
}

// describe says which writes a sector at an offset holds pieces of.
func describe(b []byte, off int64) string {
	var parts []string
	for i := 0; i+stampSize <= len(b); i += stampSize {
		s := describeStamp(b[i:i+stampSize], off+int64(i))
		if len(parts) == 0 || parts[len(parts)-1] != s {
			parts = append(parts, s)
		}
		if len(parts) == 6 {
			return strings.Join(append(parts[:5], "..."), ", ")
		}
	}
	return strings.Join(parts, ", ")
}

func describeStamp(b []byte, off int64) string {
	id, at := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	switch {
	case id == 0 && at == 0:
		return "zeros"
	case id == 0 || id > 1<<32 || at > 1<<50:
		return "a mixture"
	case at != uint64(off):
		return fmt.Sprintf("write %d for offset %d", id, at)
	}
	return fmt.Sprintf("write %d", id)
}

// alive is the end of a value that is not superseded.
const alive = math.MaxUint64

// possible is a value that a sector may have: now, while until is alive, or
// only after a power cut, having been superseded at that tick.
type possible struct {
	v     value
	until uint64
}

// sector is what a sector of a LUN may hold. It is replaced, never changed.
type sector []possible

func newSector(v value) sector { return sector{{v, alive}} }

// now returns the values that the sector may have now.
func (s sector) now() []value {
	var vs []value
	for _, p := range s {
		if p.until == alive {
			vs = append(vs, p.v)
		}
	}
	return vs
}

// with returns the sector with further values that it may have now.
func (s sector) with(vs []value) sector {
	s = slices.Clone(s)
	for _, v := range vs {
		if i := s.index(v); i >= 0 {
			s[i].until = alive
		} else {
			s = append(s, possible{v, alive})
		}
	}
	return s
}

func (s sector) index(v value) int {
	return slices.IndexFunc(s, func(p possible) bool { return p.v == v })
}

// only returns the sector when it has one of vs now, and what else it might
// have had was superseded at a tick.
func (s sector) only(vs []value, tick uint64) sector {
	s = s.with(vs)
	for i, p := range s {
		if p.until == alive && !slices.Contains(vs, p.v) {
			s[i].until = tick
		}
	}
	return s
}

// since returns the sector without what was superseded up to a tick.
func (s sector) since(tick uint64) sector {
	if !slices.ContainsFunc(s, func(p possible) bool { return p.until <= tick }) {
		return s
	}
	return slices.DeleteFunc(slices.Clone(s), func(p possible) bool { return p.until <= tick })
}

// settled returns the sector without what only a power cut could bring back.
func (s sector) settled() sector { return s.since(alive - 1) }

// afterCut returns the sector as a power cut leaves it.
func (s sector) afterCut() sector {
	s = slices.Clone(s)
	for i := range s {
		s[i].until = alive
	}
	return s
}
