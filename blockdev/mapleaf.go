package blockdev

import "math/bits"

// leaf maps leafBlocks blocks. It takes as much memory as what it holds needs:
//
//	width 0        all blocks have the place uniform
//	width 1, 2, 4  vals is a palette of 2, 4 or 16 places, then for each block
//	               its index in the palette, so many bits wide, the first block
//	               in the lowest bits
//	width 32       vals has the place of each block
//
// After a snapshot a leaf that is written here and there has two places.
type leaf struct {
	edit    *editToken
	uniform place
	width   uint8
	used    uint8 // entries of the palette that mean something
	vals    []place
}

// widthFor returns the width of a leaf of so many different places.
func widthFor(places int) uint8 {
	switch {
	case places <= 1:
		return 0
	case places <= 2:
		return 1
	case places <= 4:
		return 2
	case places <= 16:
		return 4
	}
	return 32
}

// pack makes the smallest leaf of some places; vals is copied.
func pack(edit *editToken, vals *[leafBlocks]place) *leaf {
	var palette [16]place
	used := 0
	for i := 0; i < leafBlocks; {
		p := vals[i]
		if findPlace(palette[:used], p) < 0 {
			if used == len(palette) {
				own := *vals
				return &leaf{edit: edit, width: 32, vals: own[:]}
			}
			palette[used] = p
			used++
		}
		for i++; i < leafBlocks && vals[i] == p; i++ {
		}
	}
	l := &leaf{edit: edit, width: widthFor(used), used: uint8(used)}
	if l.width == 0 {
		l.uniform = palette[0]
		return l
	}
	l.vals = make([]place, l.paletteLen()+leafBlocks*int(l.width)/32)
	copy(l.vals, palette[:used])
	for i := 0; i < leafBlocks; {
		j := i + 1
		for j < leafBlocks && vals[j] == vals[i] {
			j++
		}
		l.fillIndex(i, j, findPlace(palette[:used], vals[i]))
		i = j
	}
	return l
}

func findPlace(palette []place, p place) int {
	for k, at := range palette {
		if at == p {
			return k
		}
	}
	return -1
}

func (l *leaf) paletteLen() int { return 1 << l.width }

// bytes returns the memory that the leaf takes; uniform ones are shared.
func (l *leaf) bytes() int {
	if l.isUniform() {
		return 0
	}
	return 48 + 4*len(l.vals)
}

// isUniform tells whether all blocks have one place.
func (l *leaf) isUniform() bool { return l == nil || l.width == 0 }

// at returns the place of block i.
func (l *leaf) at(i int) place {
	switch {
	case l == nil:
		return nowhere
	case l.width == 0:
		return l.uniform
	case l.width == 32:
		return l.vals[i]
	}
	at := i * int(l.width)
	word := l.vals[l.paletteLen()+at/32]
	return l.vals[word>>(at%32)&(1<<l.width-1)]
}

// run returns the place of block i and the end of the blocks from i on, at most
// end, that share it.
func (l *leaf) run(i, end int) (p place, j int) {
	p = l.at(i)
	switch {
	case l.isUniform():
		return p, end
	case l.width == 32:
		for j = i + 1; j < end && l.vals[j] == p; j++ {
		}
		return p, j
	}
	width, index := int(l.width), l.vals[l.paletteLen():]
	same := repeated(l.width, uint32(index[i*width/32]>>(i*width%32))&(1<<l.width-1))
	for j = i; j < end; {
		at := j * width
		if other := (uint32(index[at/32]) ^ same) >> (at % 32); other != 0 {
			return p, min(j+bits.TrailingZeros32(other)/width, end)
		}
		j += (32 - at%32) / width
	}
	return p, end
}

// repeated returns a word of indexes that all are k.
func repeated(width uint8, k uint32) uint32 {
	return k * (^uint32(0) / (1<<width - 1))
}

// fillIndex makes k the index of the blocks from i to before j.
func (l *leaf) fillIndex(i, j, k int) {
	width, index := int(l.width), l.vals[l.paletteLen():]
	same := repeated(l.width, uint32(k))
	for i < j {
		at := i * width
		n := min(j-i, (32-at%32)/width)
		mask := ^uint32(0) >> (32 - n*width) << (at % 32)
		word := &index[at/32]
		*word = place(uint32(*word)&^mask | same&mask)
		i += n
	}
}

// unpack writes the place of every block to vals.
func (l *leaf) unpack(vals *[leafBlocks]place) {
	for i := 0; i < leafBlocks; {
		p, j := l.run(i, leafBlocks)
		fill(vals[i:j], p)
		i = j
	}
}

// set gives the blocks from i to before j a place. It returns false if the leaf
// has no room for one more place.
func (l *leaf) set(i, j int, p place) bool {
	if l.width == 32 {
		fill(l.vals[i:j], p)
		return true
	}
	if l.width == 0 {
		return false
	}
	k := findPlace(l.vals[:l.used], p)
	if k < 0 {
		if int(l.used) == l.paletteLen() {
			return false
		}
		k = int(l.used)
		l.vals[k] = p
		l.used++
	}
	l.fillIndex(i, j, k)
	return true
}

// dataBlocks counts the blocks from i to before end whose place is data.
func (l *leaf) dataBlocks(i, end int) uint64 {
	var n uint64
	for i < end {
		p, j := l.run(i, end)
		if p.isData() {
			n += uint64(j - i)
		}
		i = j
	}
	return n
}

// with returns a leaf in which the blocks from i to before j have the place p:
// the leaf itself if it may be changed and has room. A leaf that became
// uniform is returned as such.
func (l *leaf) with(edit *editToken, i, j int, p place) *leaf {
	own := l != nil && l.edit == edit
	if !own && l != nil && l.width != 0 && l.width != 32 {
		l = &leaf{edit: edit, width: l.width, used: l.used, vals: append([]place(nil), l.vals...)}
		own = true
	}
	if own && l.set(i, j, p) {
		if l.width < 32 || j == leafBlocks {
			if _, end := l.run(0, leafBlocks); end == leafBlocks {
				return &leaf{uniform: p}
			}
		}
		return l
	}
	// What is packed anew leaves out the places that are not in use any more.
	var vals [leafBlocks]place
	l.unpack(&vals)
	fill(vals[i:j], p)
	return pack(edit, &vals)
}

func fill(vals []place, p place) {
	for i := range vals {
		vals[i] = p
	}
}

func isUniform(vals []place) bool {
	for _, v := range vals[1:] {
		if v != vals[0] {
			return false
		}
	}
	return true
}
