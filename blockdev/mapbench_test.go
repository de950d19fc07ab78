package blockdev

import (
	"math/rand/v2"
	"testing"
)

// BenchmarkExtentMap looks up, and maps, one block of 64 GiB of which every
// other block was overwritten after a snapshot.
func BenchmarkExtentMap(b *testing.B) {
	const blocks = 64 << 30 / BlockSize
	c, _ := testCache(b, 1<<40)
	m := c.newMap()
	must(b, m.set(0, blocks, dataPlace(1)))
	below := m.clone()
	for i := uint64(0); i < blocks; i += 2 {
		must(b, m.set(i, 1, dataPlace(2)))
	}
	rng := rand.New(rand.NewPCG(1, 1))
	at := make([]uint64, 1<<16)
	for i := range at {
		at[i] = rng.Uint64N(blocks)
	}
	b.Run("runs", func(b *testing.B) {
		var buf [16]mapRun
		for i := range b.N {
			if _, err := m.runs(buf[:0], at[i%len(at)], 1); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("set", func(b *testing.B) {
		for i := range b.N {
			if err := m.set(at[i%len(at)], 1, dataPlace(uint32(2+i/len(at)%2))); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("clone", func(b *testing.B) {
		for range b.N {
			below.clone()
		}
	})
}
