package httpapi

import (
	"context"
	"fmt"
	"net/http"

	"github.com/rowan-storage/rowan/blockdev"
	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

type diffInput struct {
	LUNPath
	From        string `query:"from" doc:"Name of the earlier snapshot; nothing, so that all data differs, if absent"`
	To          string `query:"to" doc:"Name of the later snapshot; the present state if absent"`
	OffsetBytes int64  `query:"offset_bytes" minimum:"0" doc:"Where to begin"`
	Limit       int    `query:"limit" minimum:"1" maximum:"10000" default:"1000" doc:"How many ranges to return at most"`
}

func (s *Server) diff(ctx context.Context, in *diffInput) (*body[wire.Diff], error) {
	size, err := s.sizeOf(in.LUN, in.To)
	if err != nil {
		return nil, err
	}
	if in.OffsetBytes > size {
		return nil, problem(http.StatusUnprocessableEntity, wire.Invalid,
			fmt.Sprintf("offset %d lies beyond the end of %s, %d", in.OffsetBytes, in.LUN, size))
	}
	page := diffPage{next: in.OffsetBytes, limit: in.Limit, out: wire.Diff{Ranges: []wire.Range{}, SizeBytes: size}}
	if in.OffsetBytes < size {
		err = s.opts.Engine.Diff(ctx, in.LUN, in.From, in.To, in.OffsetBytes, size-in.OffsetBytes, page.add)
		if err != nil {
			return nil, err
		}
	}
	return &body[wire.Diff]{Body: page.out}, nil
}

// sizeOf returns the size of a snapshot, or of the LUN for snapshot "".
func (s *Server) sizeOf(lun, snapshot string) (int64, error) {
	if snapshot == "" {
		info, err := s.opts.Engine.LUN(lun)
		return info.SizeBytes, err
	}
	info, err := s.opts.Engine.SnapshotInfo(lun, snapshot)
	return info.SizeBytes, err
}

// diffPage gathers changed ranges, neighbours of one kind joined, up to a limit.
type diffPage struct {
	next  int64 // offset of the next range that comes
	limit int
	out   wire.Diff
}

// add takes the next range and tells whether to go on.
func (p *diffPage) add(length int64, c blockdev.Change) bool {
	offset := p.next
	p.next += length
	var kind string
	switch c {
	case blockdev.Written:
		kind = wire.Data
	case blockdev.Zeroed:
		kind = wire.Zero
	default:
		return true
	}
	if n := len(p.out.Ranges); n > 0 {
		last := &p.out.Ranges[n-1]
		if last.Kind == kind && last.OffsetBytes+last.LengthBytes == offset {
			last.LengthBytes += length
			return true
		}
		if n == p.limit {
			p.out.NextOffsetBytes = &offset
			return false
		}
	}
	p.out.Ranges = append(p.out.Ranges, wire.Range{OffsetBytes: offset, LengthBytes: length, Kind: kind})
	return true
}
