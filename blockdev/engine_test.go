package blockdev_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/rowan-storage/rowan/blockdev"
)

func openPool(t *testing.T, dir string) *blockdev.Pool {
	t.Helper()
	p, err := blockdev.Open(dir, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func openLUN(t *testing.T, p *blockdev.Pool, name string) *blockdev.Volume {
	t.Helper()
	v, err := p.OpenLUN(name, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

func wantBytes(t *testing.T, v *blockdev.Volume, off int64, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := v.ReadAt(got, off); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("at %d: got %x…, want %x…", off, got[:min(8, len(got))], want[:min(8, len(want))])
	}
}

// TestLife walks one LUN through all operations, and a restart.
func TestLife(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	p := openPool(t, dir)
	if _, err := p.CreateLUN(ctx, "a", 64<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := blockdev.Open(dir, blockdev.Options{}); !errors.Is(err, blockdev.ErrInUse) {
		t.Fatalf("second open: %v", err)
	}
	v := openLUN(t, p, "a")
	one, two := bytes.Repeat([]byte{1}, 10000), bytes.Repeat([]byte{2}, 5000)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(v *blockdev.Volume, b []byte, off int64) {
		t.Helper()
		_, err := v.WriteAt(b, off)
		must(err)
	}
	write(v, one, 12345)
	_, err := p.Snapshot(ctx, blockdev.SnapshotRequest{Items: []blockdev.SnapshotItem{{LUN: "a", Name: "s1"}}})
	must(err)
	write(v, two, 12346)
	must(v.Discard(ctx, 20000, 10000))
	must(v.Flush(ctx))
	s1, err := p.OpenSnapshot("a", "s1", "test")
	must(err)
	wantBytes(t, s1, 12345, one)
	mixed := bytes.Clone(one)
	copy(mixed[1:], two)
	clear(mixed[20000-12345:])
	wantBytes(t, v, 12345, mixed)
	must(s1.Close())
	_, err = p.Clone(ctx, "a", "s1", "b")
	must(err)
	wantBytes(t, openLUN(t, p, "b"), 12345, one)
	_, err = p.Revert(ctx, "a", "s1", blockdev.RevertOptions{})
	if !errors.Is(err, blockdev.ErrInUse) {
		t.Fatalf("revert under a client: %v", err)
	}
	saved, err := p.Revert(ctx, "a", "s1", blockdev.RevertOptions{Force: true})
	must(err)
	wantBytes(t, v, 12345, one)
	must(p.Settle(ctx))
	must(p.DeleteSnapshot(ctx, "a", "s1", false))
	must(p.Settle(ctx))
	wantBytes(t, v, 12345, one)
	must(p.Close())

	p = openPool(t, dir)
	wantBytes(t, openLUN(t, p, "a"), 12345, one)
	before, err := p.OpenSnapshot("a", saved.Name, "test")
	must(err)
	wantBytes(t, before, 12345, mixed)
	must(before.Close())
}
