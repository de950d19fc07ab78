package blockdev

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
)

// placeAt is at of a map of which nothing is lost.
func placeAt(t testing.TB, m *extentMap, block uint64) place {
	t.Helper()
	at, err := m.at(block)
	must(t, err)
	return at
}

// TestExtentMapShares shows that a clone shares everything.
func TestExtentMapShares(t *testing.T) {
	m := newExtentMap()
	for i := range uint64(2 * maxSpans) { // leaves, and below a node of spans
		m.set(4*i, 1, dataPlace(7))
		m.set(nodeBlocks+64*i, 64, dataPlace(7))
	}
	c := m.clone()
	if m.root[0] != c.root[0] {
		t.Error("a clone shares nothing")
	}
	m.set(4, 1, dataPlace(8))
	if placeAt(t, c, 4) != dataPlace(7) || placeAt(t, m, 4) != dataPlace(8) || placeAt(t, m, 8) != dataPlace(7) {
		t.Error("a change of one map shows in its clone")
	}
	kids, others := c.root[0].body().kids, m.root[0].body().kids
	if kids[0].body().leaves[1] != others[0].body().leaves[1] || kids[1] != others[1] {
		t.Error("what was not changed is not shared")
	}
}

// heapOf returns the bytes of heap that what make returns takes.
func heapOf(make func() *extentMap) (m *extentMap, bytes int64) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	m = make()
	runtime.GC()
	runtime.ReadMemStats(&after)
	return m, int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

// TestExtentMapMemory holds the memory of maps to what is promised of it.
func TestExtentMapMemory(t *testing.T) {
	const tib = 1 << 40 / BlockSize
	rng := rand.New(rand.NewPCG(1, 0))
	random := func(blocks uint64, n int) func() *extentMap {
		return func() *extentMap {
			m := newExtentMap()
			for range n {
				m.set(rng.Uint64N(blocks), 1, dataPlace(7))
			}
			return m
		}
	}
	filled := func() *extentMap {
		m := newExtentMap()
		for b := uint64(0); b < tib; b += 256 {
			m.set(b, 256, dataPlace(7))
		}
		return m
	}
	for _, c := range []struct {
		name  string
		limit int64
		make  func() *extentMap
	}{
		{"100,000 random blocks of 100 TiB", 64 * 100_000, random(100*tib, 100_000)},
		{"100,000 random blocks of 1 TiB", 64 * 100_000, random(tib, 100_000)},
		{"100,000 random blocks of 64 GiB", 64 * 100_000, random(tib/16, 100_000)},
		{"1 TiB filled in order", 1 << 20, filled},
		{"16 GiB of 1 TiB overwritten all over", 2 << 20, func() *extentMap {
			m := filled()
			for range 2 * tib / 64 {
				m.set(rng.Uint64N(tib/64), 1, dataPlace(8))
			}
			return m
		}},
		{"16 GiB filled all over", 1 << 20, func() *extentMap {
			m := newExtentMap()
			for _, b := range rng.Perm(tib / 64) {
				m.set(uint64(b), 1, dataPlace(7))
			}
			return m
		}},
	} {
		m, bytes := heapOf(c.make)
		t.Logf("%s: %d bytes of heap, %.1f for each of %d blocks", c.name, bytes, float64(bytes)/float64(m.dataBlocks()), m.dataBlocks())
		if bytes > c.limit {
			t.Errorf("%s: %d bytes of heap, want at most %d", c.name, bytes, c.limit)
		}
	}
}

func TestHugeMapIsCheapToScan(t *testing.T) {
	m := newExtentMap()
	last := uint64(MaxLUNBytes/BlockSize - 1)
	m.set(last, 1, dataPlace(1))
	got, err := m.runs(nil, 0, last+1)
	must(t, err)
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
		must(t, eachDifference(a, b, func(block, count uint64, pa, pb place) error {
			for i := range count {
				got[block+i] = [2]place{pa, pb}
			}
			return nil
		}, 0, blocks))
		shared := make(map[uint64]bool)
		must(t, b.leavesBeside(a, func(index uint64, _ *[leafBlocks]place) error { shared[index] = true; return nil }))
		want := 0
		for _, first := range []uint64{0, dirBlocks / 2, dirBlocks, 3 * dirBlocks / 2} {
			for block := first; block < first+8*leafBlocks; block++ {
				pa, pb := placeAt(t, a, block), placeAt(t, b, block)
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

// TestReplaceKeepsWhatIsShared: replacing what is not there leaves the parts that
// maps share, and what has one place again takes no memory per block.
func TestReplaceKeepsWhatIsShared(t *testing.T) {
	m := newExtentMap()
	must(t, m.set(0, 3*leafBlocks, dataPlace(7)))
	must(t, m.set(leafBlocks+5, 1, dataPlace(8)))
	c := m.clone()
	must(t, m.replace(0, dirBlocks+nodeBlocks, dataPlace(9), dataPlace(1)))
	if m.root[0] != c.root[0] {
		t.Error("a map was taken apart for nothing")
	}
	must(t, m.replace(0, dirBlocks+nodeBlocks, dataPlace(8), dataPlace(7)))
	if placeAt(t, m, leafBlocks+5) != dataPlace(7) || placeAt(t, c, leafBlocks+5) != dataPlace(8) || len(m.root[0].body().spans) != 1 {
		t.Error("one place takes more than one span, or its clone changed")
	}
	must(t, m.replace(0, 3*leafBlocks, dataPlace(7), zeroPlace(6)))
	if m.dataBlocks() != 0 || len(m.root[0].body().spans) != 1 || c.dataBlocks() != 3*leafBlocks {
		t.Error("what has one place is not replaced as a whole")
	}
}
