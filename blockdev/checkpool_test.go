package blockdev

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// checked is the pool closed and looked at.
func (s *summed) checked(repair bool) []PoolFinding {
	s.t.Helper()
	found, err := CheckPool(context.Background(), s.dir, CheckOptions{Repair: repair})
	s.must(err)
	return found
}

// fingerprint is the hash of all files of the pool.
func (s *summed) fingerprint() [32]byte {
	s.t.Helper()
	h := sha256.New()
	s.must(filepath.WalkDir(s.dir, func(name string, d fs.DirEntry, err error) error {
		h.Write([]byte(name))
		if err == nil && !d.IsDir() {
			var b []byte
			b, err = os.ReadFile(name)
			h.Write(b)
		}
		return err
	}))
	return [32]byte(h.Sum(nil))
}

// newChecked is a closed pool with two LUNs and their snapshots.
func newChecked(t *testing.T) *summed {
	t.Helper()
	s := newSummed(t)
	for _, lun := range []string{"a", "b"} {
		v := s.lun(lun)
		s.write(v, 1, 0, 60)
		s.snapshot(lun, "s1")
		s.write(v, 2, 10, 10)
	}
	s.settle()
	s.must(s.p.Close())
	return s
}

func TestCheckPool(t *testing.T) {
	s := newChecked(t)
	before := s.fingerprint()
	if found := s.checked(false); len(found) != 0 {
		t.Fatalf("a good pool: %+v", found)
	}
	if s.fingerprint() != before {
		t.Error("the check changed something")
	}
	if _, err := CheckPool(context.Background(), t.TempDir(), CheckOptions{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("an empty directory: %v", err)
	}
	s.open()
	if _, err := CheckPool(context.Background(), s.dir, CheckOptions{}); !errors.Is(err, ErrInUse) {
		t.Errorf("while it is open: %v", err)
	}
	s.must(s.p.Close())
}

// TestRepair damages one thing after the other.
func TestRepair(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(s *summed)
		file   string
		offset int64
		what   string
		mended bool // and everything can be read again
		harm   bool // some snapshot cannot be read
	}{
		{"a block of data", func(s *summed) { s.flipByte(segmentName(1, 0), 5*BlockSize+9) }, segmentName(1, 0), 5 * BlockSize, "wrong checksum", false, true},
		{"sums", func(s *summed) { s.flipByte(sumsName(1), sumsHeaderSize+20) }, sumsName(1), sumsHeaderSize, "wrong checksum of leaf 0", true, false},
		{"the unused part of sums", func(s *summed) { s.flipByte(sumsName(1), 1000) }, sumsName(1), 1000, notZero, true, false},
		{"the unused part of a presence map", func(s *summed) { s.flipByte(presenceName(1), 1000) }, presenceName(1), 1000, notZero, true, false},
		{"a sealed presence map", func(s *summed) { s.flipByte(presenceName(1), 30) }, presenceName(1), 0, "wrong checksum of the header", false, true},
		{"the pool's header", func(s *summed) { s.flipByte(poolFile, 60) }, poolFile, -1, "", false, true},
		{"the catalogue", func(s *summed) { s.flipByte(catalogueFile, 70) }, catalogueFile, -1, "meta 0", false, true},
		{"a catalogue that is gone", func(s *summed) { s.must(os.Remove(filepath.Join(s.dir, catalogueFile))) }, catalogueFile, -1, "missing", false, true},
		{"a file half written", func(s *summed) {
			s.must(os.WriteFile(filepath.Join(s.dir, sumsName(1)+newSuffix), []byte("x"), 0o600))
		}, sumsName(1) + newSuffix, -1, "being written", true, false},
		{"a layer that nothing refers to", func(s *summed) {
			s.must(os.Mkdir(filepath.Join(s.dir, layerDir(99)), 0o700))
		}, layerDir(99), -1, "nothing refers to it", true, false},
		{"segments that nothing refers to", func(s *summed) {
			s.must(os.Mkdir(filepath.Join(s.dir, originDir(98)), 0o700))
			s.must(os.WriteFile(filepath.Join(s.dir, segmentName(98, 0)), []byte("x"), 0o600))
		}, originDir(98), -1, "nothing refers to it", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newChecked(t)
			tt.damage(s)
			before := s.fingerprint()
			found := s.checked(false)
			i := slices.IndexFunc(found, func(f PoolFinding) bool { return f.File == tt.file && strings.Contains(f.What, tt.what) })
			if i < 0 {
				t.Fatalf("not found: %+v", found)
			}
			if f := found[i]; tt.offset >= 0 && f.OffsetBytes != tt.offset || (f.Repair != "") != tt.mended || (f.Refused != "") == tt.mended {
				t.Errorf("%+v", f)
			}
			if s.fingerprint() != before {
				t.Error("the check changed something")
			}
			found = s.checked(true)
			again := s.checked(false)
			if tt.mended {
				if len(again) != 0 || !found[0].Repaired {
					t.Fatalf("repaired: %+v, and then: %+v", found, again)
				}
			} else if s.fingerprint() != before {
				t.Error("something was changed that cannot be repaired")
			}
			if !tt.mended && tt.harm {
				return
			}
			if !tt.mended {
				s.must(os.RemoveAll(filepath.Join(s.dir, originDir(98))))
			}
			s.open()
			for _, lun := range []string{"a", "b"} {
				if _, err := s.read(lun, "s1", 0, 4<<20); err != nil {
					t.Error(err)
				}
			}
			s.settle()
			s.wantAllSummed()
		})
	}
}

// TestRepairFromJournal: a damaged presence map of a head is dropped where the
// journal holds all of it, and only there.
func TestRepairFromJournal(t *testing.T) {
	s := newSummed(t)
	v := s.lun("a")
	s.write(v, 1, 0, 60)
	whole := filepath.Join(t.TempDir(), "pool") // as kill -9 leaves it
	s.must(os.CopyFS(whole, os.DirFS(s.dir)))
	s.must(s.p.Close())
	s.must(os.WriteFile(filepath.Join(whole, presenceName(1)), make([]byte, 5000), 0o600))
	at := &summed{t: t, dir: whole}
	if found := at.checked(false); len(found) != 1 || found[0].File != presenceName(1) || found[0].Repair == "" {
		t.Fatalf("%+v", found)
	}
	at.checked(true)
	if found := at.checked(false); len(found) != 0 {
		t.Fatalf("%+v", found)
	}
	at.open()
	defer at.p.Close()
	b := make([]byte, BlockSize)
	if _, err := at.lun("a").ReadAt(b, 59*BlockSize); err != nil || b[7] != 1 {
		t.Errorf("%d, %v", b[7], err)
	}

	s.flipByte(presenceName(1), 20) // written by Close, with a journal of after it
	if found := s.checked(true); len(found) != 1 || found[0].Refused == "" || !strings.Contains(found[0].Refused, "(a)") {
		t.Fatalf("%+v", found)
	}
	s.open()
}
