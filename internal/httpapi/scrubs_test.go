package httpapi_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/blockdev"
	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

func TestScrubs(t *testing.T) {
	ctx := context.Background()
	f := start(t)
	finished := time.Date(2025, 3, 1, 13, 0, 0, 0, time.UTC)
	f.engine.scrub = blockdev.ScrubInfo{
		LUN: "web", State: blockdev.ScrubDone, Finished: &finished, TotalBytes: 10, DoneBytes: 9, UnsummedBytes: 1,
		Findings:  []blockdev.ScrubFinding{{Snapshots: []string{"web@mon"}, OffsetBytes: 4096, LengthBytes: 8192, File: "f", FileOffsetBytes: 5, What: "bad"}},
		Snapshots: []blockdev.ScrubResult{{LUN: "web", Snapshot: "mon", Verdict: blockdev.Damaged, Findings: 1}},
	}
	s, err := f.client.StartScrub(ctx, "web", "mon")
	if err != nil || f.engine.last() != `StartScrub "web" "mon"` {
		t.Fatalf("%v after %s", err, f.engine.last())
	}
	if s.State != wire.ScrubDone || s.DoneBytes != 9 || !s.Finished.Equal(finished) || len(s.Findings) != 1 || s.Findings[0].LengthBytes != 8192 || s.Snapshots[0].Verdict != "damaged" {
		t.Errorf("%+v", s)
	}
	if s, err = f.client.Scrub(ctx); err != nil || s.LUN != "web" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err = f.client.StopScrub(ctx); err != nil || f.engine.last() != "StopScrub" {
		t.Errorf("%v after %s", err, f.engine.last())
	}
	if status, err := f.client.Status(ctx); err != nil || status.Scrub == nil || status.Scrub.TotalBytes != 10 {
		t.Errorf("%+v, %v", status.Scrub, err)
	}
	var p *wire.Problem
	if _, err := f.client.StartScrub(ctx, "", "mon"); !errors.As(err, &p) || p.Code != wire.Invalid {
		t.Errorf("a snapshot of no LUN: %v", err)
	}
}
