package blockdev

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkReadSnapshot reads a snapshot of 256 MiB from the page cache before
// its layer has sums, and when it has.
func BenchmarkReadSnapshot(b *testing.B) {
	const size = 256 << 20
	p, err := Open(b.TempDir(), Options{ManualMaintenance: true})
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	if _, err := p.CreateLUN(context.Background(), "a", size); err != nil {
		b.Fatal(err)
	}
	v, err := p.OpenLUN("a", "bench")
	if err != nil {
		b.Fatal(err)
	}
	defer v.Close()
	buf := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(buf)) {
		if _, err := v.WriteAt(buf, off); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := p.Snapshot(context.Background(), SnapshotRequest{Items: []SnapshotItem{{LUN: "a", Name: "s"}}}); err != nil {
		b.Fatal(err)
	}
	for _, summed := range []string{"without", "with"} {
		if summed == "with" {
			if err := p.Settle(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
		s, err := p.OpenSnapshot("a", "s", "bench")
		if err != nil {
			b.Fatal(err)
		}
		for _, n := range []int{512, 4096, 1 << 20} {
			b.Run(fmt.Sprintf("sums=%s/bytes=%d", summed, n), func(b *testing.B) {
				rng := rand.New(rand.NewPCG(1, 1))
				b.SetBytes(int64(n))
				for b.Loop() {
					if _, err := s.ReadAt(buf[:n], rng.Int64N(size/int64(n))*int64(n)); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSums computes the sums of what is read at a time.
func BenchmarkSums(b *testing.B) {
	buf := make([]byte, sumRead)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		for i := 0; i < len(buf); i += BlockSize {
			crcOf(buf[i : i+BlockSize])
		}
	}
}
