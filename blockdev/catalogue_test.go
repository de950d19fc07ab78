package blockdev

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// TestDamagedCatalogue flips bits of the catalogue, and of the pool's header:
// the pool is refused with the file's name, or the bit means nothing.
func TestDamagedCatalogue(t *testing.T) {
	const seed, samples = 21, 3000
	ctx := context.Background()
	s := newSummed(t)
	for _, lun := range []string{"a", "b", "c"} {
		v := s.lun(lun)
		s.write(v, 1, 0, 4)
		s.snapshot(lun, "s1")
	}
	s.settle()
	s.must(s.p.DeleteSnapshot(ctx, "b", "s1", true))
	s.must(s.p.Close())
	want, err := openCatalogue(blockfile.OS(s.dir))
	s.must(err)
	s.must(want.table.Close())
	file := filepath.Join(s.dir, catalogueFile)
	good, err := os.ReadFile(file)
	s.must(err)
	rng := rand.New(rand.NewPCG(seed, 0))
	found := 0
	for i := range samples {
		off, bit := rng.IntN(len(good)), rng.UintN(8)
		if i%4 != 0 { // mostly where something is
			off = off/4096*4096 + rng.IntN(400)
		}
		bad := append([]byte(nil), good...)
		bad[off] ^= 1 << bit
		s.must(os.WriteFile(file, bad, 0o600))
		c, err := openCatalogue(blockfile.OS(s.dir))
		if err != nil {
			found++
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), catalogueFile) {
				t.Errorf("byte %d, bit %d: %v", off, bit, err)
			}
			continue
		}
		s.must(c.table.Close())
		if !reflect.DeepEqual(c.luns, want.luns) || !reflect.DeepEqual(c.layers, want.layers) || !reflect.DeepEqual(c.pool, want.pool) ||
			!reflect.DeepEqual(c.snapshots, want.snapshots) || !reflect.DeepEqual(c.reclaims, want.reclaims) {
			t.Errorf("seed %d: byte %d, bit %d is not found and changes the catalogue", seed, off, bit)
		}
	}
	s.must(os.WriteFile(file, good, 0o600))
	t.Logf("%d of %d found", found, samples)
	if found < samples/10 {
		t.Errorf("too little was tried")
	}

	file = filepath.Join(s.dir, poolFile)
	good, err = os.ReadFile(file)
	s.must(err)
	for off := range good {
		for bit := range 8 {
			bad := append([]byte(nil), good...)
			bad[off] ^= 1 << bit
			s.must(os.WriteFile(file, bad, 0o600))
			if err := Check(blockfile.OS(s.dir)); err == nil || !strings.Contains(err.Error(), poolFile) {
				t.Errorf("byte %d, bit %d of the header: %v", off, bit, err)
			}
		}
	}
	s.must(os.WriteFile(file, good, 0o600))
	s.open()
}
