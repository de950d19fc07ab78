package blockdevtest

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

func openTable(t *testing.T, d *Disk) blockfile.Table {
	t.Helper()
	tab, err := d.OpenTable("t")
	must(t, err)
	return tab
}

func dump(t *testing.T, tab blockfile.Table, bucket string) map[string]string {
	t.Helper()
	got := map[string]string{}
	last := ""
	must(t, tab.View(func(tx blockfile.Tx) error {
		return tx.ForEach(bucket, func(k, v []byte) error {
			if string(k) <= last {
				t.Errorf("key %q after %q", k, last)
			}
			last = string(k)
			got[last] = string(v)
			return nil
		})
	}))
	return got
}

func TestTableAgainstAMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	d := NewDisk(DiskOptions{})
	tab := openTable(t, d)
	must(t, d.SyncDir("."))
	want := map[string]string{}
	failed := errors.New("changed my mind")
	for i := range 500 {
		after := maps.Clone(want)
		fail := rng.IntN(4) == 0
		err := tab.Update(func(tx blockfile.Tx) error {
			for range rng.IntN(5) {
				k := fmt.Sprintf("k%02d", rng.IntN(40))
				if rng.IntN(3) == 0 {
					must(t, tx.Delete("b", []byte(k)))
					delete(after, k)
				} else {
					v := fmt.Sprint(i)
					must(t, tx.Put("b", []byte(k), []byte(v)))
					after[k] = v
				}
				if got := string(tx.Get("b", []byte(k))); got != after[k] {
					t.Fatalf("get %q = %q in the transaction, want %q", k, got, after[k])
				}
			}
			if fail {
				return failed
			}
			return nil
		})
		switch {
		case fail && !errors.Is(err, failed):
			t.Fatal(err)
		case !fail:
			must(t, err)
			want = after
		}
		if rng.IntN(20) == 0 {
			d.Crash([]Kind{Kill, PowerCutLoseAll}[rng.IntN(2)], uint64(i))
			tab = openTable(t, d)
		}
		if got := dump(t, tab, "b"); !reflect.DeepEqual(got, want) {
			t.Fatalf("after %d transactions %v, want %v", i+1, got, want)
		}
	}
}

func TestTableRules(t *testing.T) {
	d := NewDisk(DiskOptions{})
	tab := openTable(t, d)
	var kept blockfile.Tx
	var value []byte
	key := []byte("k")
	must(t, tab.Update(func(tx blockfile.Tx) error {
		must(t, tx.Put("b", key, nil))
		if err := tx.Put("b", nil, []byte("v")); err == nil {
			t.Error("an empty key was taken")
		}
		return nil
	}))
	must(t, tab.View(func(tx blockfile.Tx) error {
		if v := tx.Get("b", key); v == nil || len(v) != 0 {
			t.Errorf("an empty value reads as %v", v)
		}
		if tx.Get("b", []byte("x")) != nil || tx.Get("none", key) != nil {
			t.Error("a missing key has a value")
		}
		if err := tx.Put("b", key, key); err == nil {
			t.Error("a view can write")
		}
		return nil
	}))
	must(t, tab.Update(func(tx blockfile.Tx) error {
		kept = tx
		must(t, tx.Put("b", key, []byte("value")))
		value = tx.Get("b", key)
		return nil
	}))
	if err := kept.Put("b", key, key); err == nil || kept.Get("b", key) != nil {
		t.Error("a transaction works after its end")
	}
	if string(value) == "value" {
		t.Error("a value handed out stays good after the end of the transaction")
	}
	stop := errors.New("stop")
	err := tab.View(func(tx blockfile.Tx) error {
		return tx.ForEach("b", func(k, v []byte) error { return stop })
	})
	if !errors.Is(err, stop) {
		t.Errorf("for each: %v", err)
	}
	must(t, tab.Close())
	if err := tab.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("second close: %v", err)
	}
	if got := slices.Sorted(maps.Keys(dump(t, openTable(t, d), "b"))); !slices.Equal(got, []string{"k"}) {
		t.Errorf("keys %v after reopening", got)
	}
}

func TestTableNameNeedsSyncDir(t *testing.T) {
	d := NewDisk(DiskOptions{})
	must(t, openTable(t, d).Update(func(tx blockfile.Tx) error {
		return tx.Put("b", []byte("k"), []byte("v"))
	}))
	d.Crash(PowerCutLoseAll, 1)
	if names, err := d.ReadDir("."); err != nil || len(names) != 0 {
		t.Errorf("names %v, %v", names, err)
	}
}
