package snapfs_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/imagetest"
)

// TestSparseFile: of a file of 1 TiB with two blocks nothing else is taken for
// data, which whoever copies it would read.
func TestSparseFile(t *testing.T) {
	ctx := context.Background()
	dir := imagetest.Dir(t)
	const size = 1 << 40
	path := filepath.Join(dir, "terabyte")
	if err := os.WriteFile(path, []byte("start"), 0o600); err != nil {
		t.Fatal(err)
	}
	imagetest.WriteAt(t, path, size-3, []byte("end"))
	image := imagetest.New(t, "ext4.img", 4*imagetest.MiB)
	imagetest.Ext4("data", dir, "-O", "^has_journal")(t, image)
	src := imagetest.NewSource(t)
	src.Add(t, "web", "a", image)
	r := newRoot(t, src)
	ino, err := r.Walk(ctx, snapfs.RootIno, "web/a/fs/terabyte", false)
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.Open(ctx, ino)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at, data := int64(0), int64(0)
	if err := f.Extents(ctx, 0, f.Size(), func(n int64, isData bool) bool {
		if isData {
			data += n
		}
		at += n
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if at != size || data == 0 || data > 1<<17 {
		t.Errorf("%d bytes of data in %d, expected two blocks in %d", data, at, int64(size))
	}
}
