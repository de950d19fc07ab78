package nbd

import (
	"math/rand/v2"
	"sync"
	"testing"
)

// BenchmarkUnixSocket measures server and client together, on a device in
// memory: what the protocol costs.
func BenchmarkUnixSocket(b *testing.B) {
	for _, test := range []struct {
		name    string
		n       int
		depth   int
		writing bool
	}{
		{"read-4k-depth-32", 4096, 32, false},
		{"write-4k-depth-32", 4096, 32, true},
		{"read-1m-depth-8", 1 << 20, 8, false},
		{"write-1m-depth-8", 1 << 20, 8, true},
		{"read-4k-depth-1", 4096, 1, false},
	} {
		b.Run(test.name, func(b *testing.B) {
			const size = 64 << 20
			d := newMemDevice(size)
			d.fill(0, size)
			s := serve(b, Config{}, map[string]*Export{"": {Device: d}})
			c := dial(b, s, ClientOptions{})
			b.SetBytes(int64(test.n))
			b.ReportAllocs()
			b.ResetTimer()
			var all sync.WaitGroup
			for w := range test.depth {
				all.Go(func() {
					p := make([]byte, test.n)
					random := rand.New(rand.NewPCG(uint64(w), 1))
					for range b.N / test.depth {
						off := random.Int64N(size/int64(test.n)) * int64(test.n)
						var err error
						if test.writing {
							_, err = c.WriteAt(p, off)
						} else {
							_, err = c.ReadAt(p, off)
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
		})
	}
}

// The hot path allocates nothing for each request. The client's part of it is
// counted too, and must not either.
func TestSmallRequestsDoNotAllocate(t *testing.T) {
	d := newMemDevice(1 << 20)
	d.fill(0, 1<<20)
	c := dial(t, serve(t, Config{}, map[string]*Export{"": {Device: d}}), ClientOptions{})
	limit := 1.0
	if raceDetector {
		limit = 20
	}
	p := make([]byte, 4096)
	for name, do := range map[string]func() error{
		"read":  func() error { _, err := c.ReadAt(p, 4096); return err },
		"write": func() error { _, err := c.WriteAt(p, 8192); return err },
	} {
		perRequest := testing.AllocsPerRun(2000, func() {
			if err := do(); err != nil {
				t.Fatal(err)
			}
		})
		if perRequest >= limit {
			t.Errorf("%s: %v allocations for each request", name, perRequest)
		}
	}
}
