package interop

import (
	"slices"
	"testing"

	"github.com/rowan-storage/rowan/test/harness"
)

// info is what nbdinfo --json prints.
type info struct {
	Protocol   string
	Structured bool
	Exports    []struct {
		Name         string `json:"export-name"`
		Size         int64  `json:"export-size"`
		Contexts     []string
		ReadOnly     bool  `json:"is_read_only"`
		CanFlush     bool  `json:"can_flush"`
		CanFUA       bool  `json:"can_fua"`
		CanTrim      bool  `json:"can_trim"`
		CanZero      bool  `json:"can_zero"`
		CanFastZero  bool  `json:"can_fast_zero"`
		CanDF        bool  `json:"can_df"`
		CanCache     bool  `json:"can_cache"`
		CanMultiConn bool  `json:"can_multi_conn"`
		BlockMin     int64 `json:"block_size_minimum"`
		BlockPref    int64 `json:"block_size_preferred"`
		BlockMax     int64 `json:"block_size_maximum"`
	}
}

// extent is a line of nbdinfo --map --json.
type extent struct {
	Offset, Length int64
	Type           uint32
}

func blockMap(t *testing.T, context, uri string) []extent {
	t.Helper()
	return harness.Decode[[]extent](t, harness.Run(t, "nbdinfo", "--json", "--map="+context, uri))
}

func TestNBDInfo(t *testing.T) {
	harness.Need(t, "nbdinfo", "nbdcopy")
	d := harness.Start(t)
	create(d, "web", 64)
	create(d, "db", 32)
	d.Rowan("snapshot", "create", "web@monday")

	for _, uri := range []string{d.URI("web"), d.TCPURI("web")} {
		got := harness.Decode[info](t, harness.Run(t, "nbdinfo", "--json", uri))
		if got.Protocol != "newstyle-fixed" || !got.Structured || len(got.Exports) != 1 {
			t.Fatalf("%s: %+v", uri, got)
		}
		e := got.Exports[0]
		if e.Size != 64*mib || e.ReadOnly {
			t.Errorf("%s: size %d, read-only %v", uri, e.Size, e.ReadOnly)
		}
		if !e.CanFlush || !e.CanFUA || !e.CanTrim || !e.CanZero || !e.CanFastZero || !e.CanDF || !e.CanCache || !e.CanMultiConn {
			t.Errorf("%s: something is not offered: %+v", uri, e)
		}
		if e.BlockMin != 1 || e.BlockPref != 4096 || e.BlockMax != 32*mib {
			t.Errorf("%s: block sizes %d, %d, %d", uri, e.BlockMin, e.BlockPref, e.BlockMax)
		}
		for _, c := range []string{"base:allocation", "rowan:changed-since:monday", "qemu:dirty-bitmap:monday"} {
			if !slices.Contains(e.Contexts, c) {
				t.Errorf("%s: contexts %v lack %s", uri, e.Contexts, c)
			}
		}
	}

	snap := harness.Decode[info](t, harness.Run(t, "nbdinfo", "--json", d.URI("web@monday"))).Exports[0]
	if !snap.ReadOnly || snap.Size != 64*mib || !snap.CanMultiConn {
		t.Errorf("web@monday: %+v", snap)
	}

	var names []string
	for _, e := range harness.Decode[info](t, harness.Run(t, "nbdinfo", "--list", "--json", d.URI(""))).Exports {
		names = append(names, e.Name)
	}
	slices.Sort(names)
	if want := []string{"db", "web", "web@monday"}; !slices.Equal(names, want) {
		t.Errorf("exports %v, want %v", names, want)
	}
	if r := harness.Try(t, "nbdinfo", d.URI("nowhere")); r.Code == 0 {
		t.Error("an export that does not exist was opened")
	}
}

// TestMaps compares what the server says of its blocks with what was written.
func TestMaps(t *testing.T) {
	harness.Need(t, "nbdinfo", "qemu-io", "qemu-img")
	d := harness.Start(t)
	create(d, "web", 64)
	harness.Run(t, "qemu-io", "-f", "raw", "-c", "write -P 1 1M 2M", "-c", "write -P 2 8M 64k", "-c", "flush", d.URI("web"))

	const hole = 3 // hole and zeros
	want := []extent{{0, mib, hole}, {mib, 2 * mib, 0}, {3 * mib, 5 * mib, hole}, {8 * mib, 64 << 10, 0}, {8*mib + 64<<10, 56*mib - 64<<10, hole}}
	if got := blockMap(t, "base:allocation", d.URI("web")); !slices.Equal(got, want) {
		t.Errorf("base:allocation is %v, want %v", got, want)
	}

	d.Rowan("snapshot", "create", "web@a")
	harness.Run(t, "qemu-io", "-f", "raw", "-c", "write -P 3 2M 64k", "-c", "discard 8M 64k", "-c", "write -P 4 20M 4k", d.URI("web"))
	changed := []extent{
		{0, 2 * mib, 0}, {2 * mib, 64 << 10, 1}, {2*mib + 64<<10, 6*mib - 64<<10, 0}, {8 * mib, 64 << 10, 1},
		{8*mib + 64<<10, 12*mib - 64<<10, 0}, {20 * mib, 4096, 1}, {20*mib + 4096, 44*mib - 4096, 0},
	}
	for _, context := range []string{"rowan:changed-since:a", "qemu:dirty-bitmap:a"} {
		if got := blockMap(t, context, d.URI("web")); !slices.Equal(got, changed) {
			t.Errorf("%s is %v, want %v", context, got, changed)
		}
	}
	d.Rowan("snapshot", "create", "web@b")
	if got := blockMap(t, "rowan:changed-since:a", d.URI("web@b")); !slices.Equal(got, changed) {
		t.Errorf("a snapshot's change context is %v, want %v", got, changed)
	}

	// The way that QEMU's backup tools read a dirty bitmap: dirty is "data": false.
	type mapped struct {
		Start, Length int64
		Data          bool
	}
	bitmap := "driver=nbd,export=web,server.type=unix,server.path=" + d.NBD + ",x-dirty-bitmap=qemu:dirty-bitmap:a"
	var dirty []extent
	for _, m := range harness.Decode[[]mapped](t, harness.Run(t, "qemu-img", "map", "--output=json", "--image-opts", bitmap)) {
		if !m.Data {
			dirty = append(dirty, extent{m.Start, m.Length, 1})
		}
	}
	if want := []extent{changed[1], changed[3], changed[5]}; !slices.Equal(dirty, want) {
		t.Errorf("qemu-img reads the dirty blocks as %v, want %v", dirty, want)
	}
}
