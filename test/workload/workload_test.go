package workload

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
)

// memory is a device in memory that can be made to do wrong.
type memory struct {
	mu      sync.Mutex
	data    []byte
	writes  int
	lose    int // the number of the write that is acknowledged but not done
	failing int // the number of the write from which on all fail, half done
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return copy(p, m.data[off:]), nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writes++
	switch {
	case m.writes == m.lose:
		return len(p), nil
	case m.failing > 0 && m.writes >= m.failing:
		half := len(p) / 2 / SectorSize * SectorSize
		copy(m.data[off:], p[:half])
		return 0, errors.New("gone")
	}
	return copy(m.data[off:], p), nil
}

func (m *memory) Flush(context.Context) error { return nil }

func (m *memory) Discard(_ context.Context, off, n int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.data[off : off+n])
	return nil
}

func (m *memory) WriteZeroes(ctx context.Context, off, n int64) error { return m.Discard(ctx, off, n) }

func (m *memory) snapshot() *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &memory{data: slices.Clone(m.data)}
}

const testSectors = 1024

func start(devices int) (*Workload, []*memory, []Device, []io.ReaderAt) {
	w := New(Config{Seed: 1, Devices: devices, Sectors: testSectors, Writers: 8})
	var mem []*memory
	var devs []Device
	var readers []io.ReaderAt
	for range devices {
		m := &memory{data: make([]byte, testSectors*SectorSize)}
		mem, devs, readers = append(mem, m), append(devs, m), append(readers, m)
	}
	return w, mem, devs, readers
}

func mustRead(t *testing.T, w *Workload, readers ...io.ReaderAt) Versions {
	t.Helper()
	v, err := w.Read(readers)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestRightDevicePasses(t *testing.T) {
	w, mem, devs, readers := start(2)
	if err := w.Run(t.Context(), devs, 200); err != nil {
		t.Fatal(err)
	}
	if err := w.CheckAll(mustRead(t, w, readers...)); err != nil {
		t.Fatal(err)
	}

	kept := mem[0].snapshot()
	image := mustRead(t, w, readers...)
	if err := w.Run(t.Context(), devs, 200); err != nil {
		t.Fatal(err)
	}
	if err := w.CheckAll(image); err == nil {
		t.Error("an old image passed for the present one")
	}
	mem[0].data = kept.data
	w.Rewind(0, image[0])
	if err := w.CheckAll(mustRead(t, w, readers...)); err != nil {
		t.Errorf("after a revert: %v", err)
	}
}

func TestLostWriteIsFound(t *testing.T) {
	w, mem, devs, readers := start(1)
	if err := w.Run(t.Context(), devs, 100); err != nil {
		t.Fatal(err)
	}
	mem[0].lose = mem[0].writes + 1
	if err := w.Run(t.Context(), devs, 1); err != nil {
		t.Fatal(err)
	}
	if err := w.CheckAll(mustRead(t, w, readers...)); err == nil {
		t.Error("a lost write passed")
	}
	if err := w.Settle(mustRead(t, w, readers...)); err == nil {
		t.Error("a lost write passed as a crash")
	}
}

func TestCrashKeepsWhatWasAcknowledged(t *testing.T) {
	w, mem, devs, readers := start(2)
	for round := range 5 {
		mem[1].failing = mem[1].writes + 100
		if err := w.Run(t.Context(), devs, 0); err == nil {
			t.Fatal("the devices did not fail")
		}
		mem[1].failing = 0
		if err := w.Settle(mustRead(t, w, readers...)); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if err := w.CheckAll(mustRead(t, w, readers...)); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
}

func TestSnapshotsAreOnePointInTime(t *testing.T) {
	for _, c := range []struct {
		name     string
		together bool
	}{{"of all devices", true}, {"of one after the other", false}} {
		t.Run(c.name, func(t *testing.T) {
			w, mem, devs, _ := start(2)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := w.Run(ctx, devs, 0); err != nil {
					t.Error(err)
				}
			})
			failures := 0
			for range 20 {
				for before := w.Requests(); w.Requests() < before+200; {
					if _, err := mem[0].ReadAt(make([]byte, 1), 0); err != nil {
						t.Fatal(err)
					}
				}
				win := w.Begin()
				var a, b *memory
				if c.together {
					mem[0].mu.Lock()
					mem[1].mu.Lock()
					a, b = &memory{data: slices.Clone(mem[0].data)}, &memory{data: slices.Clone(mem[1].data)}
					mem[0].mu.Unlock()
					mem[1].mu.Unlock()
				} else {
					a = mem[0].snapshot()
					for before := w.Requests(); w.Requests() < before+200; {
						if _, err := mem[0].ReadAt(make([]byte, 1), 0); err != nil {
							t.Fatal(err)
						}
					}
					b = mem[1].snapshot()
				}
				w.End(win)
				if err := w.CheckSnapshot(win, mustRead(t, w, a, b)); err != nil {
					failures++
					if c.together {
						t.Error(err)
					}
				}
			}
			cancel()
			wg.Wait()
			if !c.together && failures == 0 {
				t.Error("devices snapshot at different times passed for one point in time")
			}
		})
	}
}

func TestDecodeFindsForeignData(t *testing.T) {
	p := make([]byte, SectorSize)
	encode(p, 1, 7, 42)
	if v, err := decode(p, 1, 7); v != 42 || err != nil {
		t.Errorf("got %d, %v", v, err)
	}
	if _, err := decode(p, 1, 8); err == nil {
		t.Error("another sector's data passed")
	}
	if _, err := decode(p, 0, 7); err == nil {
		t.Error("another device's data passed")
	}
	p[300] ^= 1
	if _, err := decode(p, 1, 7); err == nil {
		t.Error("a changed byte passed")
	}
	if _, err := decode(bytes.Repeat([]byte{0xee}, SectorSize), 1, 7); err == nil {
		t.Error("a strange sector passed")
	}
	if v, err := decode(make([]byte, SectorSize), 1, 7); v != zeroVersion || err != nil {
		t.Errorf("zeros: got %d, %v", v, err)
	}
}
