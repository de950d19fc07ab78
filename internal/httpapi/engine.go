package httpapi

import (
	"context"
	"time"

	"github.com/rowan-storage/rowan/blockdev"
)

// Engine is what the API operates on. *blockdev.Pool is one.
type Engine interface {
	lunReader
	lunWriter
	snapshotReader
	snapshotWriter
	brancher
	scrubber
}

type lunReader interface {
	Info() (blockdev.PoolInfo, error)
	LUNs() ([]blockdev.LUNInfo, error)
	LUN(name string) (blockdev.LUNInfo, error)
}

type lunWriter interface {
	CreateLUN(ctx context.Context, name string, sizeBytes int64) (blockdev.LUNInfo, error)
	ResizeLUN(ctx context.Context, name string, sizeBytes int64) (blockdev.LUNInfo, error)
	RenameLUN(ctx context.Context, name, newName string) (blockdev.LUNInfo, error)
	DeleteLUN(ctx context.Context, name string, o blockdev.DeleteLUNOptions) error
}

type snapshotReader interface {
	Snapshots(lun string) ([]blockdev.SnapshotInfo, error)
	SnapshotInfo(lun, name string) (blockdev.SnapshotInfo, error)
	Diff(ctx context.Context, lun, from, to string, offsetBytes, lengthBytes int64,
		yield func(lengthBytes int64, c blockdev.Change) bool) error
}

type snapshotWriter interface {
	Snapshot(ctx context.Context, r blockdev.SnapshotRequest) ([]blockdev.SnapshotInfo, error)
	RenameSnapshot(ctx context.Context, lun, name, newName string) (blockdev.SnapshotInfo, error)
	LockSnapshot(ctx context.Context, lun, name string, until *time.Time) (blockdev.SnapshotInfo, error)
	UnlockSnapshot(ctx context.Context, lun, name string) (blockdev.SnapshotInfo, error)
	DeleteSnapshot(ctx context.Context, lun, name string, force bool) error
}

type brancher interface {
	Clone(ctx context.Context, lun, name, newLUN string) (blockdev.LUNInfo, error)
	Revert(ctx context.Context, lun, name string, o blockdev.RevertOptions) (blockdev.SnapshotInfo, error)
}

type scrubber interface {
	StartScrub(ctx context.Context, lun, snapshot string) (blockdev.ScrubInfo, error)
	StopScrub(ctx context.Context) (blockdev.ScrubInfo, error)
	LastScrub() (blockdev.ScrubInfo, error)
}
