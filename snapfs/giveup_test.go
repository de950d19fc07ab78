package snapfs_test

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/ext4"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// TestOpeningGivenUp: who gives up waiting for a filesystem ends the opening of
// it, unless others wait for it too; those get it all the same.
func TestOpeningGivenUp(t *testing.T) {
	data, err := os.ReadFile(extImage(t, map[string]string{"file": "content"}))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		r := snapfs.New(&memorySource{data: data}, snapfs.Options{})
		defer r.Close()
		list(t, r, "/web/a")
		opens := 0
		r.SetReader("ext4", func(ctx context.Context, rd io.ReaderAt, n int64) (tree.FileSystem, error) {
			if opens++; opens == 1 {
				<-ctx.Done()
			}
			f, err := ext4.Open(ctx, rd, n)
			if err != nil {
				return nil, err
			}
			return f, ctx.Err()
		})
		walk := func(ctx context.Context) error {
			_, err := r.Walk(ctx, snapfs.RootIno, "web/a/fs/file", false)
			return err
		}
		ctx, cancel := context.WithCancel(t.Context())
		var first, second error
		var wg sync.WaitGroup
		wg.Go(func() { first = walk(ctx) })
		synctest.Wait()
		wg.Go(func() { second = walk(t.Context()) })
		synctest.Wait()
		cancel()
		wg.Wait()
		if !errors.Is(first, context.Canceled) || !errors.Is(first, snapfs.ErrUnreachable) {
			t.Errorf("who gave up: %v", first)
		}
		if second != nil || opens != 2 {
			t.Errorf("who did not: %v, opened %d times", second, opens)
		}
		expectContent(t, r, "/web/a/fs/file", "content")
	})
}
