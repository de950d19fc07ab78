package blockdev

import (
	"bytes"
	"context"
	"fmt"
	"testing"
)

// wantSegments fails the test unless the segments take up some blocks.
func wantSegments(t *testing.T, when string, got, blocks int64) {
	t.Helper()
	if got != blocks*BlockSize {
		t.Errorf("%s: the segments take %d blocks, want %d", when, got/BlockSize, blocks)
	}
}

// What clones of a deleted snapshot hide, all of them, is given back, at each
// step no more than that.
func TestDeletedBranchGivesBackWhatAllHide(t *testing.T) {
	d, _, p := hookedPool(t)
	ctx := context.Background()
	a := makeLUN(t, p, "a", 32)
	fillBlocks(t, a, 1, 0, 16)
	takeSnapshot(t, p, "a", "s")
	var clones []*Volume
	for i := range 3 {
		name := fmt.Sprint("clone", i)
		_, err := p.Clone(ctx, "a", "s", name)
		must(t, err)
		v, err := p.OpenLUN(name, "t")
		must(t, err)
		clones = append(clones, v)
	}
	must(t, p.DeleteSnapshot(ctx, "a", "s", false))
	must(t, p.Settle(ctx))
	wantSegments(t, "deleted", segBytes(t, d), 16)

	for i, v := range append(clones, a) {
		fillBlocks(t, v, byte(10+i), int64(2*i), 10) // all: blocks 6 to 9
		must(t, v.Discard(ctx, 12*BlockSize, 2*BlockSize))
	}
	must(t, p.Settle(ctx))
	// Of the 16 blocks, the 4 that all have overwritten and those of 12 and 13
	// that all have overwritten or discarded are gone. Blocks 12 and 13 that
	// the last clones and a had themselves are as well.
	own := int64(0)
	for i := range 4 {
		own += 10
		for b := int64(12); b < 14; b++ {
			if first := int64(2 * i); b >= first && b < first+10 {
				own--
			}
		}
	}
	wantSegments(t, "hidden by all", segBytes(t, d), 16-4-2+own)

	// All read as they should, also after a restart.
	check := func(p *Pool) {
		t.Helper()
		for i, name := range []string{"clone0", "clone1", "clone2", "a"} {
			v, err := p.OpenLUN(name, "t")
			must(t, err)
			got := make([]byte, 32*BlockSize)
			_, err = v.ReadAt(got, 0)
			must(t, err)
			want := append(bytes.Repeat([]byte{1}, 16*BlockSize), make([]byte, 16*BlockSize)...)
			copy(want[2*i*BlockSize:], bytes.Repeat([]byte{byte(10 + i)}, 10*BlockSize))
			clear(want[12*BlockSize : 14*BlockSize])
			if !bytes.Equal(got, want) {
				t.Errorf("%s does not read as it should", name)
			}
			must(t, v.Close())
		}
	}
	check(p)
	must(t, p.Close())
	must(t, Check(d.Session()))
	p, err := openHooked(t, d, &hooks{}, false)
	must(t, err)
	check(p)
	must(t, p.Close())
}

// The bytes that a list calls unique are those that deleting gives back, also
// where clones stand on the snapshot.
func TestUniqueBytesUnderClones(t *testing.T) {
	d, _, p := hookedPool(t)
	ctx := context.Background()
	a := makeLUN(t, p, "a", 16)
	fillBlocks(t, a, 1, 0, 12)
	takeSnapshot(t, p, "a", "s")
	_, err := p.Clone(ctx, "a", "s", "b")
	must(t, err)
	b, err := p.OpenLUN("b", "t")
	must(t, err)
	fillBlocks(t, a, 2, 0, 8)
	fillBlocks(t, b, 3, 4, 8)
	must(t, p.Settle(ctx))
	info, err := p.SnapshotInfo("a", "s")
	must(t, err)
	before := segBytes(t, d)
	must(t, p.DeleteSnapshot(ctx, "a", "s", false))
	must(t, p.Settle(ctx))
	if given := before - segBytes(t, d); given != info.UniqueBytes || given != 4*BlockSize {
		t.Errorf("%d bytes were given back, the list said %d, want %d", given, info.UniqueBytes, 4*BlockSize)
	}
	must(t, p.Close())
}
