package httpapi

import (
	"context"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rowan-storage/rowan/blockdev"
	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

// SnapshotPath is the part of a path that names a snapshot.
type SnapshotPath struct {
	LUN      string `path:"lun" doc:"Name of the LUN"`
	Snapshot string `path:"snapshot" doc:"Name of the snapshot"`
}

type listSnapshotsInput struct {
	LUN string `query:"lun" doc:"Only those of this LUN"`
}

// snapshotRequest is a snapshot's path with a body.
type snapshotRequest[T any] struct {
	SnapshotPath
	Body T
}

type deleteSnapshotInput struct {
	SnapshotPath
	Force bool `query:"force" doc:"Even while clients are reading it; their reads fail from then on"`
}

const oneSnapshot = "/luns/{lun}/snapshots/{snapshot}"

func (s *Server) registerSnapshots() {
	handle(s, huma.Operation{
		OperationID: "list-snapshots", Method: http.MethodGet, Path: "/snapshots", Tags: []string{"snapshots"},
		Summary: "List the snapshots by LUN, then time",
	}, s.listSnapshots)
	handle(s, huma.Operation{
		OperationID: "create-snapshots", Method: http.MethodPost, Path: "/snapshots", Tags: []string{"snapshots"},
		Summary: "Snapshot a group of LUNs in one point of time", DefaultStatus: http.StatusCreated,
	}, s.createSnapshots)
	handle(s, huma.Operation{
		OperationID: "get-snapshot", Method: http.MethodGet, Path: oneSnapshot, Tags: []string{"snapshots"},
		Summary: "Describe a snapshot",
	}, s.getSnapshot)
	handle(s, huma.Operation{
		OperationID: "change-snapshot", Method: http.MethodPatch, Path: oneSnapshot, Tags: []string{"snapshots"},
		Summary: "Rename a snapshot",
	}, s.changeSnapshot)
	handle(s, huma.Operation{
		OperationID: "delete-snapshot", Method: http.MethodDelete, Path: oneSnapshot, Tags: []string{"snapshots"},
		Summary: "Delete a snapshot", DefaultStatus: http.StatusNoContent,
	}, s.deleteSnapshot)
	handle(s, huma.Operation{
		OperationID: "lock-snapshot", Method: http.MethodPut, Path: oneSnapshot + "/lock", Tags: []string{"snapshots"},
		Summary: "Keep a snapshot from deletion",
	}, s.lockSnapshot)
	handle(s, huma.Operation{
		OperationID: "unlock-snapshot", Method: http.MethodDelete, Path: oneSnapshot + "/lock", Tags: []string{"snapshots"},
		Summary: "Take a snapshot's lock off",
	}, s.unlockSnapshot)
	handle(s, huma.Operation{
		OperationID: "clone-snapshot", Method: http.MethodPost, Path: oneSnapshot + "/clone", Tags: []string{"snapshots"},
		Summary: "Make a writable LUN that begins as the snapshot", DefaultStatus: http.StatusCreated,
	}, s.cloneSnapshot)
	handle(s, huma.Operation{
		OperationID: "revert-lun", Method: http.MethodPost, Path: oneSnapshot + "/revert", Tags: []string{"snapshots"},
		Summary: "Bring the LUN back to the snapshot, keeping its present state as another",
	}, s.revertLUN)
	handle(s, huma.Operation{
		OperationID: "diff-lun", Method: http.MethodGet, Path: "/luns/{lun}/diff", Tags: []string{"snapshots"},
		Summary:     "List the ranges that differ between two states of a LUN",
		Description: "Between pages the present state of a LUN may change; snapshots do not.",
	}, s.diff)
}

func (s *Server) listSnapshots(_ context.Context, in *listSnapshotsInput) (*body[wire.Snapshots], error) {
	infos, err := s.opts.Engine.Snapshots(in.LUN)
	return s.snapshotsAnswer(infos, err)
}

func (s *Server) createSnapshots(ctx context.Context, in *body[wire.CreateSnapshots]) (*body[wire.Snapshots], error) {
	r := blockdev.SnapshotRequest{CreatedBy: userOf(ctx), Comment: in.Body.Comment, Consistency: blockdev.Crash}
	for _, item := range in.Body.Items {
		r.Items = append(r.Items, blockdev.SnapshotItem{LUN: item.LUN, Name: item.Name})
	}
	infos, err := s.opts.Engine.Snapshot(ctx, r)
	return s.snapshotsAnswer(infos, err)
}

func (s *Server) getSnapshot(_ context.Context, in *SnapshotPath) (*body[wire.Snapshot], error) {
	info, err := s.opts.Engine.SnapshotInfo(in.LUN, in.Snapshot)
	return s.snapshotAnswer(info, err)
}

func (s *Server) changeSnapshot(ctx context.Context, in *snapshotRequest[wire.ChangeSnapshot]) (*body[wire.Snapshot], error) {
	info, err := s.opts.Engine.RenameSnapshot(ctx, in.LUN, in.Snapshot, in.Body.Name)
	return s.snapshotAnswer(info, err)
}

func (s *Server) deleteSnapshot(ctx context.Context, in *deleteSnapshotInput) (*none, error) {
	return &none{}, s.opts.Engine.DeleteSnapshot(ctx, in.LUN, in.Snapshot, in.Force)
}

func (s *Server) lockSnapshot(ctx context.Context, in *snapshotRequest[wire.Lock]) (*body[wire.Snapshot], error) {
	info, err := s.opts.Engine.LockSnapshot(ctx, in.LUN, in.Snapshot, in.Body.Until)
	return s.snapshotAnswer(info, err)
}

func (s *Server) unlockSnapshot(ctx context.Context, in *SnapshotPath) (*body[wire.Snapshot], error) {
	info, err := s.opts.Engine.UnlockSnapshot(ctx, in.LUN, in.Snapshot)
	return s.snapshotAnswer(info, err)
}

func (s *Server) cloneSnapshot(ctx context.Context, in *snapshotRequest[wire.Clone]) (*body[wire.LUN], error) {
	info, err := s.opts.Engine.Clone(ctx, in.LUN, in.Snapshot, in.Body.Name)
	return s.lunAnswer(info, err)
}

func (s *Server) revertLUN(ctx context.Context, in *snapshotRequest[wire.Revert]) (*body[wire.Reverted], error) {
	saved, err := s.opts.Engine.Revert(ctx, in.LUN, in.Snapshot, blockdev.RevertOptions{
		Force: in.Body.Force, SavedName: in.Body.SavedName, CreatedBy: userOf(ctx),
	})
	if err != nil {
		return nil, err
	}
	return &body[wire.Reverted]{Body: wire.Reverted{Saved: s.wireSnapshot(saved)}}, nil
}

func (s *Server) snapshotAnswer(info blockdev.SnapshotInfo, err error) (*body[wire.Snapshot], error) {
	if err != nil {
		return nil, err
	}
	return &body[wire.Snapshot]{Body: s.wireSnapshot(info)}, nil
}

func (s *Server) snapshotsAnswer(infos []blockdev.SnapshotInfo, err error) (*body[wire.Snapshots], error) {
	if err != nil {
		return nil, err
	}
	out := &body[wire.Snapshots]{}
	out.Body.Snapshots = make([]wire.Snapshot, 0, len(infos))
	for _, info := range infos {
		out.Body.Snapshots = append(out.Body.Snapshots, s.wireSnapshot(info))
	}
	return out, nil
}

func (s *Server) wireSnapshot(i blockdev.SnapshotInfo) wire.Snapshot {
	w := wire.Snapshot{
		ID: i.ID, LUN: i.LUN, Name: i.Name, Created: i.Created.UTC(), SizeBytes: i.SizeBytes,
		Group: i.Group, CreatedBy: i.CreatedBy, Comment: i.Comment, Consistency: string(i.Consistency),
		Evidence: i.Evidence, Locked: i.Locked, Clients: i.Clients, Failed: i.Failed,
		MappedBytes: i.MappedBytes, UniqueBytes: i.UniqueBytes,
	}
	if i.LockedUntil != nil {
		until := i.LockedUntil.UTC()
		w.LockedUntil = &until
	}
	w.NBDURIs = nbdURIs(s.opts.NBD(), w.Ref())
	return w
}

// problemType is the type of every error answer.
var problemType = reflect.TypeFor[wire.Problem]()
