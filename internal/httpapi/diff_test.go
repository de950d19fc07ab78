package httpapi_test

import (
	"context"
	"encoding/json"
	"reflect"
	"testing"

	"github.com/rowan-storage/rowan/blockdev"
	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

func TestDiffJoinsAndSkips(t *testing.T) {
	f := start(t)
	f.engine.lun.SizeBytes = 100
	f.engine.changes = []change{
		{10, blockdev.Same}, {5, blockdev.Written}, {5, blockdev.Written}, {10, blockdev.Zeroed}, {60, blockdev.Same}, {10, blockdev.Written},
	}
	var got []wire.Range
	for r, err := range f.client.Diff(context.Background(), "web", "mon", "") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r)
	}
	want := []wire.Range{ranged(10, 10, wire.Data), ranged(20, 10, wire.Zero), ranged(90, 10, wire.Data)}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if call := f.engine.last(); call != `Diff "web" "mon" "" 0 100` {
		t.Errorf("the engine got %s", call)
	}
}

func TestDiffPages(t *testing.T) {
	f := start(t)
	f.engine.snap.SizeBytes = 50
	for range 5 {
		f.engine.changes = append(f.engine.changes, change{5, blockdev.Written}, change{5, blockdev.Same})
	}
	var got []wire.Range
	target := "/v1/luns/web/diff?from=a&to=b&limit=2"
	pages := 0
	for target != "" {
		status, body := f.send(t, "GET", target, "", "")
		var page wire.Diff
		if err := json.Unmarshal([]byte(body), &page); err != nil || status != 200 {
			t.Fatalf("status %d: %s", status, body)
		}
		if len(page.Ranges) > 2 || page.SizeBytes != 50 {
			t.Errorf("page is %+v", page)
		}
		got = append(got, page.Ranges...)
		pages++
		target = ""
		if page.NextOffsetBytes != nil {
			target = "/v1/luns/web/diff?from=a&to=b&limit=2&offset_bytes=" + jsonOf(t, *page.NextOffsetBytes)
		}
	}
	want := []wire.Range{ranged(0, 5, wire.Data), ranged(10, 5, wire.Data), ranged(20, 5, wire.Data), ranged(30, 5, wire.Data), ranged(40, 5, wire.Data)}
	if !reflect.DeepEqual(got, want) || pages != 3 {
		t.Errorf("got %v in %d pages, want %v in 3", got, pages, want)
	}
}

// TestDiffClientPages has more ranges than the client asks for at once.
func TestDiffClientPages(t *testing.T) {
	f := start(t)
	const ranges = 2*wire.MaxDiffRanges + 1
	f.engine.lun.SizeBytes = 2 * ranges
	for range ranges {
		f.engine.changes = append(f.engine.changes, change{1, blockdev.Zeroed}, change{1, blockdev.Same})
	}
	next := int64(0)
	for r, err := range f.client.Diff(context.Background(), "web", "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if r != (wire.Range{OffsetBytes: next, LengthBytes: 1, Kind: wire.Zero}) {
			t.Fatalf("got %v, want one at %d", r, next)
		}
		next += 2
	}
	if next != 2*ranges {
		t.Errorf("it ended at %d, want %d", next, 2*ranges)
	}
}

func TestDiffError(t *testing.T) {
	f := start(t)
	f.engine.err = blockdev.ErrNotFound
	errs := 0
	for _, err := range f.client.Diff(context.Background(), "web", "", "") {
		if err == nil {
			t.Error("a range of a diff that failed")
		}
		errs++
	}
	if errs != 1 {
		t.Errorf("%d errors, want 1", errs)
	}
}

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func ranged(offset, length int64, kind string) wire.Range {
	return wire.Range{OffsetBytes: offset, LengthBytes: length, Kind: kind}
}
