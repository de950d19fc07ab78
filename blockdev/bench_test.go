package blockdev_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/rowan-storage/rowan/blockdev"
)

const benchSize = 1 << 30

// benchVolume returns a LUN of benchSize, every block written.
func benchVolume(b *testing.B) (*blockdev.Pool, *blockdev.Volume) {
	b.Helper()
	p, err := blockdev.Open(b.TempDir(), blockdev.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.Close() })
	if _, err := p.CreateLUN(context.Background(), "bench", benchSize); err != nil {
		b.Fatal(err)
	}
	v, err := p.OpenLUN("bench", "bench")
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	for off := int64(0); off < benchSize; off += int64(len(buf)) {
		if _, err := v.WriteAt(buf, off); err != nil {
			b.Fatal(err)
		}
	}
	return p, v
}

func BenchmarkRandom4K(b *testing.B) {
	ctx := context.Background()
	p, v := benchVolume(b)
	blocks := rand.New(rand.NewPCG(1, 2)).Perm(benchSize / blockdev.BlockSize)
	buf := make([]byte, blockdev.BlockSize)
	at := func(i int) int64 { return int64(blocks[i%len(blocks)]) * blockdev.BlockSize }
	run := func(name string, op func(i int) error) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(blockdev.BlockSize)
			b.ReportAllocs()
			for i := range b.N {
				if err := op(i); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("read", func(i int) error { return v.TryReadAt(buf, at(i)) })
	run("overwrite", func(i int) error { _, err := v.WriteAt(buf, at(i)); return err })
	n := 0
	run("first-write-after-snapshot", func(i int) error {
		if i%len(blocks) == 0 {
			n++
			if _, err := p.Snapshot(ctx, blockdev.SnapshotRequest{Items: []blockdev.SnapshotItem{{LUN: "bench", Name: fmt.Sprint("s", n)}}}); err != nil {
				return err
			}
		}
		_, err := v.WriteAt(buf, at(i))
		return err
	})
}
