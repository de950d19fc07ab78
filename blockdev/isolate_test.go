package blockdev

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/rowan-storage/rowan/blockdev/blockdevtest"
)

// twoLUNs is a pool with the LUNs a and b, each with snapshots s1 and s2 and
// data over them, as kill -9 leaves it. Block 0 holds '2', block 1 'h'.
func twoLUNs(t *testing.T) (*blockdevtest.Disk, *hooks) {
	t.Helper()
	d, h, p := hookedPool(t)
	for _, name := range []string{"a", "b"} {
		v := makeLUN(t, p, name, 8)
		fillBlocks(t, v, '1', 0, 2)
		takeSnapshot(t, p, name, "s1")
		fillBlocks(t, v, '2', 0, 1)
		takeSnapshot(t, p, name, "s2")
		must(t, p.Settle(context.Background()))
		fillBlocks(t, v, 'h', 1, 1)
		must(t, v.Flush(context.Background()))
	}
	d.Crash(blockdevtest.Kill, 1)
	_ = p.Close() // fails: its disk is gone
	return d, h
}

// layersOf returns the head of a LUN and the layers of its snapshots.
func layersOf(p *Pool, lun string) (head, s1, s2 uint32) {
	r := p.cat.lunByName(lun)
	for _, s := range p.snapshotRecords(r.ID) {
		if s.Name == "s1" {
			s1 = s.Layer
		} else {
			s2 = s.Layer
		}
	}
	return r.Head, s1, s2
}

func expectBlocks(t *testing.T, p *Pool, lun, want string) {
	t.Helper()
	v, err := p.OpenLUN(lun, "t")
	if err != nil {
		t.Errorf("LUN %s: %v", lun, err)
		return
	}
	defer v.Close()
	got := make([]byte, len(want)*BlockSize)
	if _, err := v.ReadAt(got, 0); err != nil {
		t.Errorf("LUN %s: %v", lun, err)
		return
	}
	for i, c := range []byte(want) {
		if !bytes.Equal(got[i*BlockSize:(i+1)*BlockSize], bytes.Repeat([]byte{c}, BlockSize)) {
			t.Errorf("block %d of LUN %s holds %q, want %q", i, lun, got[i*BlockSize], c)
		}
	}
}

// unreadableFile names a file of LUN a that a test has not readable.
func unreadableFile(t *testing.T, d *blockdevtest.Disk, h *hooks, what string) string {
	t.Helper()
	p, err := openHooked(t, d, h, false)
	must(t, err)
	head, s1, s2 := layersOf(p, "a")
	d.Crash(blockdevtest.Kill, 2)
	_ = p.Close() // fails: its disk is gone
	switch what {
	case "journal of the head":
		return layerDir(head) + "/journal"
	case "map of the layer below":
		return presenceName(s2)
	}
	return presenceName(s1)
}

// A file of a layer that cannot be read when the pool is opened concerns those
// who stand on that layer, as long as it is so.
func TestUnreadableLayerIsIsolated(t *testing.T) {
	for _, what := range []string{"journal of the head", "map of the layer below", "map of the lowest layer"} {
		t.Run(what, func(t *testing.T) {
			ctx := context.Background()
			d, h := twoLUNs(t)
			file := unreadableFile(t, d, h, what)
			d.Inject(blockdevtest.Fault{Classes: blockdevtest.ReadAt, Nth: 1, Forever: true, Err: syscall.EIO,
				Name: func(n string) bool { return strings.HasPrefix(n, file) }})
			p, err := openHooked(t, d, h, false)
			if err != nil {
				t.Fatalf("the pool does not open: %v", err)
			}
			_, err = p.OpenLUN("a", "t")
			if !errors.Is(err, syscall.EIO) || errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), syscall.EIO.Error()) {
				t.Errorf("LUN a: %v", err)
			}
			if _, err := p.Snapshot(ctx, SnapshotRequest{Items: []SnapshotItem{{LUN: "a", Name: "new"}}}); err == nil {
				t.Error("a snapshot of LUN a was taken")
			}
			if info, err := p.LUN("a"); err != nil || !strings.Contains(info.Failed, syscall.EIO.Error()) {
				t.Errorf("LUN a is %+v, %v", info, err)
			}
			expectBlocks(t, p, "b", "2h")
			if list, err := p.Snapshots(""); err != nil || len(list) != 4 {
				t.Errorf("%d snapshots, %v", len(list), err)
			}
			// Nobody names the layer of s1 any more, and it is not merged.
			head, s1, s2 := layersOf(p, "a")
			must(t, p.DeleteSnapshot(ctx, "a", "s1", true))
			must(t, p.DeleteSnapshot(ctx, "b", "s1", true))
			if err := p.Settle(ctx); err != nil && !isDamage(err) {
				t.Errorf("maintenance: %v", err)
			}
			if what != "journal of the head" { // on which neither stands
				for _, id := range []uint32{head, s1, s2} {
					if p.cat.layer(id) == nil {
						t.Errorf("layer %08x is gone", id)
					}
				}
			}
			must(t, p.Close())

			d.ClearFaults()
			p, err = openHooked(t, d, h, false)
			must(t, err)
			if info, err := p.LUN("a"); err != nil || info.Failed != "" {
				t.Errorf("LUN a is %+v, %v once its files can be read", info, err)
			}
			expectBlocks(t, p, "a", "2h")
			expectBlocks(t, p, "b", "2h")
			must(t, p.Settle(ctx))
			if p.cat.layer(s1) != nil {
				t.Error("the layer that nobody needs is still there")
			}
			must(t, p.Close())
		})
	}
}

// What a dead process left and a sync could not make durable is lost, also when
// a later sync succeeds; the other LUNs are served at once.
func TestFailedSyncAtOpeningIsFinal(t *testing.T) {
	d, h, p := hookedPool(t)
	for _, name := range []string{"a", "b"} {
		fillBlocks(t, makeLUN(t, p, name, 8), '1', 0, 1)
	}
	origin := p.cat.layer(p.cat.lunByName("a").Head).Origins[0]
	d.Crash(blockdevtest.Kill, 1)
	_ = p.Close() // fails: its disk is gone
	d.Inject(blockdevtest.Fault{Classes: blockdevtest.Sync, Nth: 1, Err: syscall.EIO,
		Name: func(n string) bool { return strings.HasPrefix(n, originDir(origin)) }})
	for range 2 {
		p, err := openHooked(t, d, h, false)
		if err != nil {
			t.Fatalf("the pool does not open: %v", err)
		}
		if info, err := p.LUN("a"); err != nil || !strings.Contains(info.Failed, "sync") {
			t.Errorf("LUN a is %+v, %v", info, err)
		}
		expectBlocks(t, p, "b", "1")
		if v, err := p.OpenLUN("a", "t"); err != nil {
			t.Errorf("LUN a cannot be read: %v", err)
		} else if _, err := v.WriteAt([]byte{1}, 0); !errors.Is(err, ErrFailed) {
			t.Errorf("a write to LUN a: %v", err)
		} else {
			must(t, v.Close())
		}
		_ = p.Close() // fails for a LUN that did
		d.ClearFaults()
	}
}

// What cannot be written to the catalogue keeps the pool shut.
func TestFailedCommitAtOpening(t *testing.T) {
	d, h := twoLUNs(t)
	d.Inject(blockdevtest.Fault{Classes: blockdevtest.Update, Nth: 1, Err: syscall.EIO})
	if p, err := openHooked(t, d, h, false); err == nil {
		p.Close()
		t.Error("the pool opened")
	}
	d.ClearFaults()
	p, err := openHooked(t, d, h, false)
	must(t, err)
	expectBlocks(t, p, "a", "2h")
	must(t, p.Close())
}
