package blockdev_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rowan-storage/rowan/blockdev"
	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// mountSmall makes a filesystem of so many bytes in a file and mounts it.
func mountSmall(t *testing.T, kind string, size int64) string {
	t.Helper()
	mkfs, err := exec.LookPath("mkfs." + kind)
	if os.Getuid() != 0 || err != nil {
		if os.Getenv("ROWAN_CI") != "" {
			t.Fatalf("mkfs.%s and root are needed", kind)
		}
		t.Skipf("mkfs.%s and root are needed", kind)
	}
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{mkfs, "-q", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	})
	return dir
}

// eat writes a file until the filesystem is full.
func eat(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if errors.Is(err, syscall.ENOSPC) {
		return // not even room for a name
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 4096; size /= 4 {
		for err == nil {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		err = nil
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// TestFullFilesystem fills a pool on a real filesystem to the last byte, and
// empties it again (invariants 7 and 11).
func TestFullFilesystem(t *testing.T) {
	for kind, size := range map[string]int64{"ext4": 64 << 20, "xfs": 320 << 20} {
		t.Run(kind, func(t *testing.T) { testFullFilesystem(t, mountSmall(t, kind, size), size) })
	}
}

func testFullFilesystem(t *testing.T, mount string, size int64) {
	const mib = 1 << 20
	ctx, dir := context.Background(), filepath.Join(mount, "pool")
	open := func() *blockdev.Pool {
		t.Helper()
		// Maintenance by itself would race for space with what eats it.
		p, err := blockdev.Open(dir, blockdev.Options{ManualMaintenance: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		return p
	}
	p := open()
	v := createLUN(t, p, "a", size)
	write(t, v, bytes.Repeat([]byte{1}, 8*mib), 0)
	snapshot(t, p, "s", "a")
	var off int64
	for two := bytes.Repeat([]byte{2}, mib); ; off += mib {
		if _, err := v.WriteAt(two, off); errors.Is(err, blockdev.ErrNoSpace) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if off < 8*mib {
		t.Fatalf("only %d bytes could be written", off)
	}
	eat(t, filepath.Join(mount, "others"))
	verify := func() {
		t.Helper()
		wantBytes(t, v, 0, bytes.Repeat([]byte{2}, int(off)))
	}
	verify()
	if err := v.Flush(ctx); err != nil {
		t.Fatalf("flush: %v", err)
	}
	write(t, v, bytes.Repeat([]byte{2}, mib), 0) // in place
	if info, err := p.Info(); err != nil || info.Space != blockdev.SpaceFull {
		t.Errorf("%+v, %v", info, err)
	}
	if err := errors.Join(v.Close(), p.Close()); err != nil {
		t.Fatalf("close: %v", err)
	}
	eat(t, filepath.Join(mount, "others2"))
	p = open()
	v = openLUN(t, p, "a")
	verify()
	if err := p.DeleteSnapshot(ctx, "a", "s", false); err != nil {
		t.Fatal(err)
	}
	if err := p.Settle(ctx); err != nil {
		t.Fatal(err)
	}
	verify()
	write(t, v, bytes.Repeat([]byte{2}, 2*mib), off)
	off += 2 * mib
	if err := v.Discard(ctx, 8*mib, mib); err != nil {
		t.Fatal(err)
	}
	write(t, v, bytes.Repeat([]byte{2}, mib), 8*mib)
	verify()
	if err := errors.Join(v.Close(), p.Close()); err != nil {
		t.Fatal(err)
	}
	if err := blockdev.Check(blockfile.OS(dir)); err != nil {
		t.Error(err)
	}
}
