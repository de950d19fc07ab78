package httpapi

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rowan-storage/rowan/blockdev"
	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

func (s *Server) registerScrubs() {
	handle(s, huma.Operation{
		OperationID: "get-scrub", Method: http.MethodGet, Path: "/scrub", Tags: []string{"appliance"},
		Summary: "Describe the scrub that is running, or the last one",
	}, s.getScrub)
	handle(s, huma.Operation{
		OperationID: "start-scrub", Method: http.MethodPost, Path: "/scrub", Tags: []string{"appliance"},
		Summary:       "Read all that snapshots hold and compare it with the checksums, in the background",
		DefaultStatus: http.StatusAccepted,
	}, s.startScrub)
	handle(s, huma.Operation{
		OperationID: "stop-scrub", Method: http.MethodDelete, Path: "/scrub", Tags: []string{"appliance"},
		Summary: "Stop the scrub that is running",
	}, s.stopScrub)
}

func (s *Server) getScrub(context.Context, *none) (*body[wire.Scrub], error) {
	return scrubAnswer(s.opts.Engine.LastScrub())
}

func (s *Server) startScrub(ctx context.Context, in *body[wire.StartScrub]) (*body[wire.Scrub], error) {
	if in.Body.LUN == "" && in.Body.Snapshot != "" {
		return nil, problem(http.StatusUnprocessableEntity, wire.Invalid, "a snapshot is named without its LUN")
	}
	return scrubAnswer(s.opts.Engine.StartScrub(ctx, in.Body.LUN, in.Body.Snapshot))
}

func (s *Server) stopScrub(ctx context.Context, _ *none) (*body[wire.Scrub], error) {
	return scrubAnswer(s.opts.Engine.StopScrub(ctx))
}

// lastScrub describes the last scrub, nil if there was none.
func (s *Server) lastScrub() (*wire.Scrub, error) {
	info, err := s.opts.Engine.LastScrub()
	if errors.Is(err, blockdev.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	w := wireScrub(info)
	return &w, nil
}

func scrubAnswer(info blockdev.ScrubInfo, err error) (*body[wire.Scrub], error) {
	if err != nil {
		return nil, err
	}
	return &body[wire.Scrub]{Body: wireScrub(info)}, nil
}

func wireScrub(i blockdev.ScrubInfo) wire.Scrub {
	w := wire.Scrub{
		LUN: i.LUN, Snapshot: i.Snapshot, State: string(i.State), Started: i.Started.UTC(),
		TotalBytes: i.TotalBytes, DoneBytes: i.DoneBytes, UnsummedBytes: i.UnsummedBytes,
		Findings: make([]wire.ScrubFinding, 0, len(i.Findings)), MoreFindings: i.MoreFindings,
		Snapshots: make([]wire.ScrubResult, 0, len(i.Snapshots)),
	}
	if i.Finished != nil {
		w.Finished = utc(*i.Finished)
	}
	for _, f := range i.Findings {
		w.Findings = append(w.Findings, wire.ScrubFinding{
			Snapshots: append([]string{}, f.Snapshots...), LUNs: append([]string{}, f.LUNs...),
			OffsetBytes: f.OffsetBytes, LengthBytes: f.LengthBytes,
			File: f.File, FileOffsetBytes: f.FileOffsetBytes, What: f.What,
		})
	}
	for _, r := range i.Snapshots {
		w.Snapshots = append(w.Snapshots, wire.ScrubResult{
			LUN: r.LUN, Snapshot: r.Snapshot, Verdict: string(r.Verdict), Findings: r.Findings,
		})
	}
	return w
}

func utc(t time.Time) *time.Time {
	t = t.UTC()
	return &t
}
