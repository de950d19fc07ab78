package blockdev

import (
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"

	"github.com/rowan-storage/rowan/blockdev/blockdevtest"
)

// plainMap is an extent map as plain as can be: runs in order that cover
// mapSpace.
type plainMap []mapRun

// mapSpace is how many blocks the maps of a test have: more than the root of
// two entries.
const mapSpace = 2*dirBlocks + 3*nodeBlocks + 5*leafBlocks + 7

func newPlainMap() plainMap { return plainMap{{0, mapSpace, nowhere}} }

// set returns the map with count blocks from block on at a place.
func (m plainMap) set(block, count uint64, p place) plainMap {
	end := block + count
	i, j := m.find(block), m.find(end-1)
	first, last := m[i], m[j]
	var fresh plainMap
	if first.block < block {
		fresh = append(fresh, mapRun{first.block, block - first.block, first.place})
	}
	fresh = append(fresh, mapRun{block, count, p})
	if lastEnd := last.block + last.count; lastEnd > end {
		fresh = append(fresh, mapRun{end, lastEnd - end, last.place})
	}
	return slices.Replace(m, i, j+1, fresh...)
}

// find returns the run that a block lies in.
func (m plainMap) find(block uint64) int {
	return sort.Search(len(m), func(i int) bool { return block < m[i].block+m[i].count })
}

func (m plainMap) at(block uint64) place { return m[m.find(block)].place }

// joined returns the map with adjoining runs of one place made one.
func (m plainMap) joined() plainMap {
	var out plainMap
	for _, r := range m {
		if last := len(out) - 1; last >= 0 && out[last].place == r.place {
			out[last].count += r.count
		} else {
			out = append(out, r)
		}
	}
	return out
}

// mapPair is a map and what it should be.
type mapPair struct {
	m     *extentMap
	plain plainMap
}

// mapTest does to maps what numbers say: next(n) is one below n, false at the
// end.
type mapTest struct {
	t     testing.TB
	next  func(n uint64) uint64
	pairs []mapPair
}

// block returns a block of one of a few regions around the borders of nodes, so
// that changes meet.
func (x *mapTest) block() uint64 {
	regions := []uint64{0, nodeBlocks, dirBlocks, dirBlocks + 3*nodeBlocks, mapSpace - 4096}
	first := regions[x.next(uint64(len(regions)))]
	return first - min(first, 1024) + x.next(4096)
}

func (x *mapTest) place() place {
	if x.next(8) == 0 {
		return nowhere
	}
	return place(2 + x.next(2+x.next(40)))
}

// set changes a pair.
func (x *mapTest) set(p *mapPair, block, count uint64, at place) {
	count = min(count, mapSpace-block)
	must(x.t, p.m.set(block, count, at))
	p.plain = p.plain.set(block, count, at)
}

// step does one operation.
func (x *mapTest) step() {
	p := &x.pairs[x.next(uint64(len(x.pairs)))]
	block, at := x.block(), x.place()
	switch op := x.next(32); {
	case op < 12:
		x.set(p, block, 1+x.next(1<<x.next(12)), at)
	case op < 18: // here and there
		stride, count := 1+x.next(40), x.next(300)
		for range count {
			if block < mapSpace {
				x.set(p, block, 1, at)
			}
			block += stride
		}
	case op < 22: // what is filled becomes uniform
		block = block / leafBlocks * leafBlocks
		x.set(p, block, leafBlocks*(1+x.next(4)), at)
	case op < 23:
		x.set(p, block/nodeBlocks*nodeBlocks, nodeBlocks*(1+x.next(3)), at)
	case op < 24:
		x.set(p, block/dirBlocks*dirBlocks, dirBlocks, at)
	case op < 25:
		x.leaf(p, block/leafBlocks, x.next(2) == 0)
	case op < 27:
		count, from := min(1+x.next(1<<x.next(14)), mapSpace-block), x.place()
		if from == nowhere {
			return
		}
		must(x.t, p.m.replace(block, count, from, at))
		for _, r := range slices.Clone(p.plain) {
			first, end := max(r.block, block), min(r.block+r.count, block+count)
			if r.place == from && first < end {
				p.plain = p.plain.set(first, end-first, at)
			}
		}
	case op < 28:
		q := x.pairs[x.next(uint64(len(x.pairs)))]
		must(x.t, p.m.overlay(q.m.clone()))
		for _, r := range slices.Clone(q.plain) {
			if r.place != nowhere {
				p.plain = p.plain.set(r.block, r.count, r.place)
			}
		}
	case op < 30:
		c := mapPair{p.m.clone(), slices.Clone(p.plain)}
		if len(x.pairs) < 5 {
			x.pairs = append(x.pairs, c)
		} else {
			x.pairs[x.next(5)] = c
		}
	default:
		x.check(p)
		x.compare(p, &x.pairs[x.next(uint64(len(x.pairs)))])
	}
}

// leaf sets a leaf, or lays one over.
func (x *mapTest) leaf(p *mapPair, index uint64, over bool) {
	if (index+1)*leafBlocks > mapSpace {
		return
	}
	var vals [leafBlocks]place
	for i := uint64(0); i < leafBlocks; {
		n := min(1+x.next(1+x.next(100)), leafBlocks-i)
		fill(vals[i:i+n], x.place())
		i += n
	}
	if over {
		must(x.t, p.m.overlayLeaf(index, &vals))
	} else {
		must(x.t, p.m.setLeaf(index, &vals))
	}
	must(x.t, eachRun(&vals, func(i, n uint64, at place) error {
		if at != nowhere || !over {
			p.plain = p.plain.set(index*leafBlocks+i, n, at)
		}
		return nil
	}))
}

// check compares a map with what it should be.
func (x *mapTest) check(p *mapPair) {
	x.t.Helper()
	p.plain = p.plain.joined()
	got, err := p.m.runs(nil, 0, mapSpace)
	if must(x.t, err); !slices.Equal(got, p.plain) {
		x.t.Fatalf("runs are\n%v, want\n%v", got, p.plain)
	}
	block := x.block()
	if got, want := placeAt(x.t, p.m, block), p.plain.at(block); got != want {
		x.t.Fatalf("block %d is at %d, want %d", block, got, want)
	}
	var data, odd uint64
	want := func(at place) bool { return at%3 == 1 }
	for _, r := range p.plain {
		if r.place.isData() {
			data += r.count
		}
		if want(r.place) {
			odd += r.count
		}
	}
	if got := p.m.dataBlocks(); got != data {
		x.t.Fatalf("%d blocks have data, want %d", got, data)
	}
	counted, err := p.m.countBlocks(want)
	if must(x.t, err); counted != odd {
		x.t.Fatalf("%d blocks are counted, want %d", counted, odd)
	}
	x.shape(p.m)
}

// shape verifies what the methods rely on.
func (x *mapTest) shape(m *extentMap) {
	x.t.Helper()
	var visit func(n *mapNode, blocks uint64)
	visit = func(n *mapNode, blocks uint64) {
		if n == nil {
			return
		}
		b := n.body()
		if b == nil {
			must(x.t, m.cache.load(n, false))
			defer n.unpin()
			b = n.body()
		}
		if len(b.spans) > maxSpans || len(b.spans) > 0 && (b.kids != nil || b.leaves != nil) {
			x.t.Fatalf("a node has %d spans, kids: %v, leaves: %v", len(b.spans), b.kids != nil, b.leaves != nil)
		}
		for i, s := range b.spans {
			if s.count == 0 || s.place == nowhere || uint64(s.end()) > blocks ||
				i > 0 && (s.start < b.spans[i-1].end() || s.start == b.spans[i-1].end() && s.place == b.spans[i-1].place) {
				x.t.Fatalf("span %d of %v is wrong", i, b.spans)
			}
		}
		leafBytes := 0
		if b.leaves != nil {
			for _, l := range b.leaves {
				leafBytes += l.bytes()
			}
		}
		if leafBytes != b.leafBytes {
			x.t.Fatalf("leaves take %d bytes, counted are %d", leafBytes, b.leafBytes)
		}
		if b.kids != nil {
			for _, kid := range b.kids {
				visit(kid, nodeBlocks)
			}
		}
	}
	for _, n := range m.root {
		visit(n, dirBlocks)
	}
}

// compare compares the differences of two maps, by blocks and by leaves.
func (x *mapTest) compare(a, b *mapPair) {
	x.t.Helper()
	told := newPlainMap() // the differences, as places of data
	must(x.t, eachDifference(a.m, b.m, func(block, count uint64, pa, pb place) error {
		if pa == pb || a.plain.at(block) != pa || b.plain.at(block) != pb {
			x.t.Fatalf("%d blocks from %d are told to differ, %d and %d", count, block, pa, pb)
		}
		told = told.set(block, count, 2)
		return nil
	}, 0, mapSpace))
	leaves := newPlainMap()
	must(x.t, a.m.leavesBeside(b.m, func(index uint64, vals *[leafBlocks]place) error {
		got, err := a.m.runs(nil, index*leafBlocks, leafBlocks)
		if must(x.t, err); got[0].place != vals[0] || got[len(got)-1].place != vals[leafBlocks-1] {
			x.t.Fatalf("leaf %d is told as %v, is %v", index, vals, got)
		}
		if first := index * leafBlocks; first < mapSpace {
			leaves = leaves.set(first, min(leafBlocks, mapSpace-first), 2)
		}
		return nil
	}))
	for i, j, block := 0, 0, uint64(0); block < mapSpace; {
		ra, rb := a.plain[i], b.plain[j]
		endA, endB := ra.block+ra.count, rb.block+rb.count
		if want := ra.place != rb.place; want != (told.at(block) == 2) {
			x.t.Fatalf("block %d differs: %v, told: %v", block, want, !want)
		} else if want && ra.place != nowhere && leaves.at(block) != 2 {
			x.t.Fatalf("leaf %d differs and is passed by", block/leafBlocks)
		}
		block = min(endA, endB)
		if endA == block {
			i++
		}
		if endB == block {
			j++
		}
	}
}

// testCache returns a cache on a disk in memory.
func testCache(t testing.TB, budget int64) (*mapCache, *blockdevtest.Disk) {
	d := blockdevtest.NewDisk(blockdevtest.DiskOptions{})
	c := newMapCache(d, budget, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { must(t, c.close()) })
	return c, d
}

// TestExtentMapsAgainstPlainOnes does long random sequences of everything that
// can be done to maps and their clones, in memory and with next to none of it.
func TestExtentMapsAgainstPlainOnes(t *testing.T) {
	for seed := range uint64(3) {
		var c *mapCache
		if seed%3 > 0 {
			c, _ = testCache(t, []int64{0, 0, 40 << 10}[seed%3])
		}
		rng := rand.New(rand.NewPCG(seed, 7))
		x := &mapTest{t: t, next: rng.Uint64N, pairs: []mapPair{{c.newMap(), newPlainMap()}}}
		for range 200 {
			x.step()
		}
		for i := range x.pairs {
			x.check(&x.pairs[i])
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// FuzzExtentMap does what bytes say.
func FuzzExtentMap(f *testing.F) {
	f.Add([]byte{0})
	for seed := range uint64(4) {
		b := make([]byte, 600)
		rng := rand.New(rand.NewPCG(seed, 8))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		in = in[:min(len(in), 2000)]
		c, _ := testCache(t, 1<<10)
		x := &mapTest{t: t, pairs: []mapPair{{c.newMap(), newPlainMap()}}}
		x.next = func(n uint64) uint64 {
			var b [2]byte
			in = in[copy(b[:], in):]
			return uint64(binary.LittleEndian.Uint16(b[:])) % n
		}
		for len(in) > 0 {
			x.step()
		}
		for i := range x.pairs {
			x.check(&x.pairs[i])
		}
	})
}
