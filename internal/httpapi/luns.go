package httpapi

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rowan-storage/rowan/blockdev"
	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

// body is an answer without headers of its own.
type body[T any] struct{ Body T }

// none is a request without parameters, or an answer without a body.
type none struct{}

// LUNPath is the part of a path that names a LUN. It is exported because the
// parameters of embedded types are found only then.
type LUNPath struct {
	LUN string `path:"lun" doc:"Name of the LUN"`
}

type deleteLUNInput struct {
	LUNPath
	WithSnapshots bool `query:"with_snapshots" doc:"Delete its snapshots too; a LUN that has any is not deleted otherwise"`
	Force         bool `query:"force" doc:"Even while clients are connected"`
}

func (s *Server) registerLUNs() {
	handle(s, huma.Operation{
		OperationID: "get-status", Method: http.MethodGet, Path: "/status", Tags: []string{"appliance"},
		Summary: "How the appliance is",
	}, s.getStatus)
	handle(s, huma.Operation{
		OperationID: "list-luns", Method: http.MethodGet, Path: "/luns", Tags: []string{"LUNs"},
		Summary: "List the LUNs by name",
	}, s.listLUNs)
	handle(s, huma.Operation{
		OperationID: "create-lun", Method: http.MethodPost, Path: "/luns", Tags: []string{"LUNs"},
		Summary: "Create an empty LUN", DefaultStatus: http.StatusCreated,
	}, s.createLUN)
	handle(s, huma.Operation{
		OperationID: "get-lun", Method: http.MethodGet, Path: "/luns/{lun}", Tags: []string{"LUNs"},
		Summary: "Describe a LUN",
	}, s.getLUN)
	handle(s, huma.Operation{
		OperationID: "change-lun", Method: http.MethodPatch, Path: "/luns/{lun}", Tags: []string{"LUNs"},
		Summary: "Rename or grow a LUN",
	}, s.changeLUN)
	handle(s, huma.Operation{
		OperationID: "delete-lun", Method: http.MethodDelete, Path: "/luns/{lun}", Tags: []string{"LUNs"},
		Summary: "Delete a LUN and all that is on it", DefaultStatus: http.StatusNoContent,
	}, s.deleteLUN)
}

func (s *Server) getStatus(context.Context, *none) (*body[wire.Status], error) {
	pool, err := s.opts.Engine.Info()
	if err != nil {
		return nil, err
	}
	scrub, err := s.lastScrub()
	if err != nil {
		return nil, err
	}
	failures := make([]wire.Failure, 0, len(pool.Failures))
	for _, f := range pool.Failures {
		failures = append(failures, wire.Failure{Name: f.Name, Why: f.Why})
	}
	return &body[wire.Status]{Body: wire.Status{
		Version: s.opts.Version, Started: s.opts.Started.UTC(), PID: s.opts.PID, API: s.opts.API,
		Pool: wire.Pool{
			UUID: pool.UUID, Dir: pool.Dir, LUNs: pool.LUNs, Snapshots: pool.Snapshots,
			TotalBytes: pool.TotalBytes, FreeBytes: pool.FreeBytes, Pending: pool.Pending,
			Space: string(pool.Space), WarnBytes: pool.WarnBytes, ReserveBytes: pool.ReserveBytes, ReservedBytes: pool.ReservedBytes,
		},
		NBD:   append([]wire.NBD{}, s.opts.NBD()...),
		Scrub: scrub, Failures: failures, MoreFailures: pool.MoreFailures,
	}}, nil
}

func (s *Server) listLUNs(context.Context, *none) (*body[wire.LUNs], error) {
	infos, err := s.opts.Engine.LUNs()
	if err != nil {
		return nil, err
	}
	out := &body[wire.LUNs]{}
	out.Body.LUNs = make([]wire.LUN, 0, len(infos))
	for _, info := range infos {
		out.Body.LUNs = append(out.Body.LUNs, s.wireLUN(info))
	}
	return out, nil
}

func (s *Server) createLUN(ctx context.Context, in *body[wire.CreateLUN]) (*body[wire.LUN], error) {
	info, err := s.opts.Engine.CreateLUN(ctx, in.Body.Name, in.Body.SizeBytes)
	return s.lunAnswer(info, err)
}

func (s *Server) getLUN(_ context.Context, in *LUNPath) (*body[wire.LUN], error) {
	info, err := s.opts.Engine.LUN(in.LUN)
	return s.lunAnswer(info, err)
}

type changeLUNInput struct {
	LUNPath
	Body wire.ChangeLUN
}

func (s *Server) changeLUN(ctx context.Context, in *changeLUNInput) (*body[wire.LUN], error) {
	name := in.LUN
	if in.Body.Name != nil {
		info, err := s.opts.Engine.RenameLUN(ctx, name, *in.Body.Name)
		if err != nil {
			return nil, err
		}
		name = info.Name
	}
	if in.Body.SizeBytes != nil {
		if _, err := s.opts.Engine.ResizeLUN(ctx, name, *in.Body.SizeBytes); err != nil {
			return nil, err
		}
	}
	info, err := s.opts.Engine.LUN(name)
	return s.lunAnswer(info, err)
}

func (s *Server) deleteLUN(ctx context.Context, in *deleteLUNInput) (*none, error) {
	err := s.opts.Engine.DeleteLUN(ctx, in.LUN, blockdev.DeleteLUNOptions{
		WithSnapshots: in.WithSnapshots, Force: in.Force,
	})
	return &none{}, err
}

func (s *Server) lunAnswer(info blockdev.LUNInfo, err error) (*body[wire.LUN], error) {
	if err != nil {
		return nil, err
	}
	return &body[wire.LUN]{Body: s.wireLUN(info)}, nil
}

func (s *Server) wireLUN(i blockdev.LUNInfo) wire.LUN {
	return wire.LUN{
		ID: i.ID, UUID: i.UUID, Name: i.Name, SizeBytes: i.SizeBytes, Created: i.Created.UTC(),
		Failed: i.Failed, Clients: i.Clients, Snapshots: i.Snapshots, Origin: i.Origin,
		MappedBytes: i.MappedBytes, UniqueBytes: i.UniqueBytes, NBDURIs: nbdURIs(s.opts.NBD(), i.Name),
	}
}
