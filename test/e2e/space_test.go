package e2e

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/test/harness"
)

// TestSpaceComesBack overwrites a LUN between snapshots and watches the pool's
// size on disk as du counts it.
func TestSpaceComesBack(t *testing.T) {
	harness.Need(t, "nbdcopy", "qemu-io")
	d := harness.Start(t)
	d.Rowan("lun", "create", "web", "--size", "1G")
	const data = 64 * mib
	empty := d.PoolBytes()
	fill := func() {
		t.Helper()
		path := filepath.Join(t.TempDir(), "data")
		random := make([]byte, data)
		rand.Read(random)
		if err := os.WriteFile(path, random, 0o600); err != nil {
			t.Fatal(err)
		}
		// Into the first 64 MiB only: nbdcopy wants a target that is no smaller.
		harness.Run(t, "nbdcopy", "--flush", path, d.URI("web"))
		os.Remove(path)
	}
	// used waits until the pool takes what it should: so many times the data,
	// and a few MiB for maps and journals.
	used := func(times int, after string) {
		t.Helper()
		low, high := int64(times)*data-mib, empty+int64(times)*data+16*mib
		var got int64
		defer func() {
			if t.Failed() {
				t.Logf("%s: the pool takes %d bytes, empty it took %d", after, got, empty)
			}
		}()
		harness.Eventually(t, time.Minute, after, func() bool {
			got = d.PoolBytes()
			return got >= low && got <= high
		})
	}

	fill()
	used(1, "the first writing")
	d.Rowan("snapshot", "create", "web@one")
	used(1, "a snapshot, which takes nothing")
	fill()
	used(2, "overwriting what the snapshot holds")
	d.Rowan("snapshot", "create", "web@two")
	fill()
	used(3, "overwriting again")

	for _, s := range snapshots(t, d, "web") {
		if s.UniqueBytes != data {
			t.Errorf("%s@%s says that it alone holds %d bytes, want %d", s.LUN, s.Name, s.UniqueBytes, data)
		}
	}
	kept := exportHash(t, d, "web@two")
	d.Rowan("snapshot", "delete", "web@one", "--yes")
	used(2, "deleting the first snapshot")
	if exportHash(t, d, "web@two") != kept {
		t.Error("deleting a snapshot changed the next one")
	}
	d.Rowan("snapshot", "delete", "web@two", "--yes")
	used(1, "deleting both snapshots")
	harness.Run(t, "qemu-io", "-f", "raw", "-c", "discard 0 64M", "-c", "flush", d.URI("web"))
	used(0, "discarding everything")

	fill()
	d.Rowan("snapshot", "create", "web@last")
	d.Rowan("snapshot", "clone", "web@last", "copy")
	d.Rowan("lun", "delete", "web", "--with-snapshots", "--yes")
	used(1, "deleting the LUN and its snapshot, whose blocks a clone still shares")
	d.Rowan("lun", "delete", "copy", "--yes")
	used(0, "deleting the clone")
}
