package blockfile

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// fillTable makes a table with deep trees, free pages and a bucket in place.
func fillTable(t testing.TB, path string, keys int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(4, 4))
	for range 4 { // reopened each time, as check and all
		tab, err := openTable(path)
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			err := tab.Update(func(tx Tx) error {
				for range keys / 10 {
					key := fmt.Appendf(nil, "%08d", rng.IntN(keys))
					var err error
					if rng.IntN(3) == 0 {
						err = tx.Delete("many", key)
					} else {
						err = tx.Put("many", key, make([]byte, rng.IntN(300)))
					}
					if err != nil {
						return err
					}
				}
				return errors.Join(tx.Put("few", []byte("k"), []byte("v")), tx.Put("large", []byte("k"), make([]byte, 20000)))
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := tab.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func readTable(path string) error {
	tab, err := openTable(path)
	if err != nil {
		return err
	}
	err = tab.View(func(tx Tx) error {
		for _, bucket := range []string{"few", "large", "many"} {
			if err := tx.ForEach(bucket, func(_, _ []byte) error { return nil }); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = tab.Update(func(tx Tx) error { return tx.Put("few", []byte("other"), []byte("v")) })
	}
	return errors.Join(err, tab.Close())
}

// TestDamagedTable flips bits of a table: opening, reading and changing it is
// an error or goes well, and never ends the process.
func TestDamagedTable(t *testing.T) {
	const seed = 9
	dir := t.TempDir()
	path := filepath.Join(dir, "table")
	fillTable(t, path, 5000)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkTable(good); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	bad, found := filepath.Join(dir, "bad"), 0
	try := func(off int, bit uint) {
		b := append([]byte(nil), good...)
		b[off] ^= 1 << bit
		if checkTable(b) != nil {
			found++
			return
		}
		if err := os.WriteFile(bad, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := readTable(bad); err != nil {
			t.Errorf("seed %d: byte %d, bit %d passes the check, then: %v", seed, off, bit, err)
		}
	}
	for page := 0; page < len(good); page += 4096 {
		try(page+rng.IntN(pageHeader), rng.UintN(8))
		try(page+pageHeader+rng.IntN(200), rng.UintN(8))
	}
	for off := range pageHeader + metaSize { // both metas, whole
		for bit := range uint(8) {
			before := found
			try(off, bit)
			try(4096+off, bit)
			if found != before+2 {
				t.Errorf("byte %d, bit %d of a meta: not found", off, bit)
			}
		}
	}
	t.Logf("%d found, %d bytes", found, len(good))
}

func FuzzTable(f *testing.F) {
	path := filepath.Join(f.TempDir(), "table")
	fillTable(f, path, 50)
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:8192])
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := checkTable(b); err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("error without a class: %v", err)
		}
	})
}
