package blockdevtest_test

import (
	"context"
	"fmt"

	"github.com/rowan-storage/rowan/blockdev"
	"github.com/rowan-storage/rowan/blockdev/blockdevtest"
	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// engine is the real engine with small shards and journals, so that LUNs of a
// few blocks cross every boundary, and merges its segments as soon as a layer has
// those of two. With manual maintenance a Case runs the same
// way each time.
func engine(manual bool) blockdevtest.Target { return engineWith(options(manual)) }

// spilling is engine with next to no memory for maps, so that what is not in
// use at the moment is in the spill file.
func spilling(manual bool) blockdevtest.Target {
	o := options(manual)
	o.MapMemoryBytes = 1
	return engineWith(o)
}

func engineWith(o blockdev.Options) blockdevtest.Target {
	return blockdevtest.Target{
		Open: func(fs blockfile.FS, bootID string) (blockdevtest.Pool, error) {
			o := o
			o.FS, o.BootID = fs, bootID
			p, err := blockdev.Open("pool", o)
			if err != nil {
				return nil, err
			}
			return pool{p}, nil
		},
		Check:      blockdev.Check,
		CheckSpace: blockdev.CheckSpace,
	}
}

func options(manual bool) blockdev.Options {
	return blockdev.Options{
		ShardBytes:        8 * blockdev.BlockSize,
		JournalBytes:      blockdev.BlockSize,
		ReserveBytes:      32 * blockdev.BlockSize,
		MaxOrigins:        1,
		ManualMaintenance: manual,
	}
}

func openEngine(fs blockfile.FS, bootID string, manual bool) (*blockdev.Pool, error) {
	o := options(manual)
	o.FS, o.BootID = fs, bootID
	return blockdev.Open("pool", o)
}

// pool is a blockdev.Pool as the harness sees it.
type pool struct{ *blockdev.Pool }

func (p pool) State() ([]blockdevtest.LUNState, error) {
	luns, err := p.LUNs()
	if err != nil {
		return nil, err
	}
	var out []blockdevtest.LUNState
	for _, l := range luns {
		s := blockdevtest.LUNState{Name: l.Name, SizeBytes: l.SizeBytes, Failed: l.Failed != ""}
		snapshots, err := p.Snapshots(l.Name)
		if err != nil {
			return nil, err
		}
		for _, x := range snapshots {
			s.Snapshots = append(s.Snapshots, blockdevtest.SnapshotState{Name: x.Name, SizeBytes: x.SizeBytes})
		}
		out = append(out, s)
	}
	return out, nil
}

func (p pool) Do(ctx context.Context, a blockdevtest.Action) error {
	lun := ""
	if len(a.LUNs) > 0 {
		lun = a.LUNs[0]
	}
	var err error
	switch a.Kind {
	case blockdevtest.OpCreateLUN:
		_, err = p.CreateLUN(ctx, a.NewName, a.SizeBytes)
	case blockdevtest.OpResize:
		_, err = p.ResizeLUN(ctx, lun, a.SizeBytes)
	case blockdevtest.OpRenameLUN:
		_, err = p.RenameLUN(ctx, lun, a.NewName)
	case blockdevtest.OpDeleteLUN:
		err = p.DeleteLUN(ctx, lun, blockdev.DeleteLUNOptions{WithSnapshots: true, Force: a.Force})
	case blockdevtest.OpSnapshot:
		var r blockdev.SnapshotRequest
		for _, l := range a.LUNs {
			r.Items = append(r.Items, blockdev.SnapshotItem{LUN: l, Name: a.NewName})
		}
		_, err = p.Snapshot(ctx, r)
	case blockdevtest.OpRevert:
		_, err = p.Revert(ctx, lun, a.Snapshot, blockdev.RevertOptions{Force: a.Force, SavedName: a.NewName})
	case blockdevtest.OpClone:
		_, err = p.Clone(ctx, lun, a.Snapshot, a.NewName)
	case blockdevtest.OpDeleteSnapshot:
		err = p.DeleteSnapshot(ctx, lun, a.Snapshot, a.Force)
	case blockdevtest.OpRenameSnapshot:
		_, err = p.RenameSnapshot(ctx, lun, a.Snapshot, a.NewName)
	case blockdevtest.OpSettle:
		err = p.Settle(ctx)
	case blockdevtest.OpCompact:
		err = p.Compact(ctx)
	default:
		err = fmt.Errorf("no such action: %v", a)
	}
	return err
}

func (p pool) OpenLUN(name string) (blockdevtest.Volume, error) {
	v, err := p.Pool.OpenLUN(name, "test")
	if err != nil {
		return nil, err
	}
	return v, nil
}

func (p pool) OpenSnapshot(lun, name string) (blockdevtest.Volume, error) {
	v, err := p.Pool.OpenSnapshot(lun, name, "test")
	if err != nil {
		return nil, err
	}
	return v, nil
}

func (p pool) Diff(ctx context.Context, lun, from, to string, off, n int64, yield func(length int64, d blockdevtest.Difference) bool) error {
	return p.Pool.Diff(ctx, lun, from, to, off, n, func(length int64, c blockdev.Change) bool {
		switch c {
		case blockdev.Same:
			return yield(length, blockdevtest.Same)
		case blockdev.Zeroed:
			return yield(length, blockdevtest.Zeroed)
		}
		return yield(length, blockdevtest.Changed)
	})
}
