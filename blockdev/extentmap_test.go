package blockdev

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestExtentMapModel compares an extent map and its clones with plain slices.
func TestExtentMapModel(t *testing.T) {
	const blocks = 3*nodeLeaves*leafBlocks/2 + 77
	const seed = 1
	rng := rand.New(rand.NewPCG(seed, 0))
	type pair struct {
		m     *extentMap
		model []place
	}
	pairs := []pair{{newExtentMap(), make([]place, blocks)}}
	for step := range 3000 {
		p := &pairs[rng.IntN(len(pairs))]
		count := uint64(1 + rng.IntN(1<<rng.IntN(12)))
		block := uint64(rng.Int64N(int64(blocks - count + 1)))
		if rng.IntN(4) == 0 { // whole leaves become uniform
			block, count = block/leafBlocks*leafBlocks, leafBlocks
			count = min(count, blocks-block)
		}
		at := place(rng.IntN(6))
		if from := place(1 + rng.IntN(5)); rng.IntN(4) == 0 {
			p.m.replace(block, count, from, at)
			for i := block; i < block+count; i++ {
				if p.model[i] == from {
					p.model[i] = at
				}
			}
		} else {
			p.m.set(block, count, at)
			fill(p.model[block:block+count], at)
		}
		if rng.IntN(300) == 0 && len(pairs) < 6 {
			pairs = append(pairs, pair{p.m.clone(), slices.Clone(p.model)})
		}
		if step%500 != 0 {
			continue
		}
		for i, p := range pairs {
			checkExtentMap(t, i, p.m, p.model)
		}
	}
	for i, p := range pairs {
		checkExtentMap(t, i, p.m, p.model)
		data := 0
		for _, at := range p.model {
			if at.isData() {
				data++
			}
		}
		if scan, kept := p.m.countBlocks(place.isData), p.m.dataBlocks(); scan != uint64(data) || kept != uint64(data) {
			t.Errorf("map %d counts %d data blocks by scan, %d as it goes, want %d", i, scan, kept, data)
		}
	}
}

func checkExtentMap(t *testing.T, i int, m *extentMap, model []place) {
	t.Helper()
	var next uint64
	for _, r := range m.runs(nil, 0, uint64(len(model))) {
		if r.block != next || r.count == 0 {
			t.Fatalf("map %d: run of %d blocks at %d, want one at %d", i, r.count, r.block, next)
		}
		for b := r.block; b < r.block+r.count; b++ {
			if model[b] != r.place {
				t.Fatalf("map %d: block %d is at %d, want %d", i, b, r.place, model[b])
			}
		}
		next += r.count
	}
	if next != uint64(len(model)) {
		t.Fatalf("map %d: runs cover %d blocks of %d", i, next, len(model))
	}
	if b := uint64(len(model)) / 3; m.at(b) != model[b] {
		t.Fatalf("map %d: block %d is at %d, want %d", i, b, m.at(b), model[b])
	}
}

// TestExtentMapMemory shows that a sequentially filled LUN takes no memory per
// block, and that a clone shares everything.
func TestExtentMapMemory(t *testing.T) {
	m := newExtentMap()
	for b := uint64(0); b < nodeLeaves*leafBlocks; b += 256 {
		m.set(b, 256, dataPlace(7))
	}
	own := 0
	m.leaves(func(_ uint64, l *leaf) error {
		if l.vals != nil {
			own++
		}
		return nil
	})
	if own != 0 {
		t.Errorf("%d leaves of a uniform map have values of their own", own)
	}
	c := m.clone()
	m.set(5, 1, dataPlace(8))
	if c.at(5) != dataPlace(7) || m.at(5) != dataPlace(8) || m.at(6) != dataPlace(7) {
		t.Error("a change of one map shows in its clone")
	}
	if c.root[0].nodes[0].leaves[1] != m.root[0].nodes[0].leaves[1] {
		t.Error("an unchanged leaf is not shared")
	}
}

// TestReplaceKeepsWhatIsShared: replacing what is not there leaves the parts that
// maps share, and one place that fills a leaf takes no memory per block.
func TestReplaceKeepsWhatIsShared(t *testing.T) {
	m := newExtentMap()
	m.set(0, 3*leafBlocks, dataPlace(7))
	m.set(leafBlocks+5, 1, dataPlace(8))
	c := m.clone()
	m.replace(0, dirBlocks+nodeBlocks, dataPlace(9), dataPlace(1))
	if m.root[0] != c.root[0] {
		t.Error("a map was taken apart for nothing")
	}
	m.replace(0, dirBlocks+nodeBlocks, dataPlace(8), dataPlace(7))
	if l := m.leafAt(1); l.vals != nil || l.at(5) != dataPlace(7) || c.at(leafBlocks+5) != dataPlace(8) {
		t.Error("a leaf with one place has values of its own, or its clone changed")
	}
	if m.leafAt(0) != c.leafAt(0) {
		t.Error("an unchanged leaf is not shared")
	}
	m.replace(0, 3*leafBlocks, dataPlace(7), zeroPlace(6))
	if m.dataBlocks() != 0 || m.leafAt(2).vals != nil || c.dataBlocks() != 3*leafBlocks {
		t.Error("uniform leaves are not replaced as a whole")
	}
}

func TestHugeMapIsCheapToScan(t *testing.T) {
	m := newExtentMap()
	last := uint64(MaxLUNBytes/BlockSize - 1)
	m.set(last, 1, dataPlace(1))
	got := m.runs(nil, 0, last+1)
	want := []mapRun{{0, last, nowhere}, {last, 1, dataPlace(1)}}
	if !slices.Equal(got, want) {
		t.Errorf("runs %v, want %v", got, want)
	}
}

// TestDifferencesOfMapsThatShare: what two maps share is passed by, and nothing
// else is.
func TestDifferencesOfMapsThatShare(t *testing.T) {
	const blocks = 3*dirBlocks + 5000
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		change := func(m *extentMap, origin uint32) {
			for range 40 {
				first := rng.Uint64N(4) * dirBlocks / 2
				block := first + rng.Uint64N(4*leafBlocks)
				m.set(block, 1+rng.Uint64N(min(3*leafBlocks, blocks-block)), dataPlace(origin+rng.Uint32N(3)))
			}
		}
		a := newExtentMap()
		change(a, 1)
		b := a.clone()
		if seed%2 == 0 {
			change(b, 3)
		}
		got := make(map[uint64][2]place)
		eachDifference(a, b, func(block, count uint64, pa, pb place) bool {
			for i := range count {
				got[block+i] = [2]place{pa, pb}
			}
			return true
		}, 0, blocks)
		shared := make(map[uint64]bool)
		b.leavesBeside(a, func(index uint64, _ *leaf) error { shared[index] = true; return nil })
		want := 0
		for _, first := range []uint64{0, dirBlocks / 2, dirBlocks, 3 * dirBlocks / 2} {
			for block := first; block < first+8*leafBlocks; block++ {
				pa, pb := a.at(block), b.at(block)
				if pa == pb {
					continue
				}
				want++
				if got[block] != [2]place{pa, pb} {
					t.Fatalf("seed %d: block %d differs, %v and %v, and is not told", seed, block, pa, pb)
				}
				if !shared[block/leafBlocks] {
					t.Fatalf("seed %d: leaf %d differs and is passed by", seed, block/leafBlocks)
				}
			}
		}
		if len(got) != want {
			t.Fatalf("seed %d: %d differences are told, want %d", seed, len(got), want)
		}
	}
}
