package httpapi_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/rowan-storage/rowan/blockdev"
)

// fakeEngine records the calls that it gets and answers what a test told it.
type fakeEngine struct {
	mu    sync.Mutex
	calls []string

	err     error // what every call fails with
	lun     blockdev.LUNInfo
	snap    blockdev.SnapshotInfo
	scrub   blockdev.ScrubInfo
	changes []change
	block   chan struct{} // if set, CreateLUN waits for it or its context
	entered chan struct{} // told when CreateLUN waits
	panics  bool

	request blockdev.SnapshotRequest
	revert  blockdev.RevertOptions
	until   *time.Time
}

type change struct {
	length int64
	kind   blockdev.Change
}

func (f *fakeEngine) call(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
	if f.panics {
		panic("a bug of the engine")
	}
	return f.err
}

func (f *fakeEngine) last() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.calls) == 0 {
		return ""
	}
	return f.calls[len(f.calls)-1]
}

func (f *fakeEngine) Info() (blockdev.PoolInfo, error) {
	return blockdev.PoolInfo{
		UUID: "u", Dir: "/pool", LUNs: 1, Snapshots: 2, TotalBytes: 3, FreeBytes: 4, Pending: 5,
		Space: blockdev.SpaceLow, WarnBytes: 6, ReserveBytes: 7, ReservedBytes: 8,
		Failures: []blockdev.Failure{{Name: "web@mon", Why: "reasons"}}, MoreFailures: 9,
	}, f.call("Info")
}

func (f *fakeEngine) LUNs() ([]blockdev.LUNInfo, error) {
	return []blockdev.LUNInfo{f.lun}, f.call("LUNs")
}

func (f *fakeEngine) LUN(name string) (blockdev.LUNInfo, error) {
	return f.lun, f.call("LUN %q", name)
}

func (f *fakeEngine) CreateLUN(ctx context.Context, name string, size int64) (blockdev.LUNInfo, error) {
	if f.block != nil {
		f.entered <- struct{}{}
		select {
		case <-f.block:
		case <-ctx.Done():
			return blockdev.LUNInfo{}, ctx.Err()
		}
	}
	return f.lun, f.call("CreateLUN %q %d", name, size)
}

func (f *fakeEngine) ResizeLUN(_ context.Context, name string, size int64) (blockdev.LUNInfo, error) {
	return f.lun, f.call("ResizeLUN %q %d", name, size)
}

func (f *fakeEngine) RenameLUN(_ context.Context, name, newName string) (blockdev.LUNInfo, error) {
	info := f.lun
	info.Name = newName
	return info, f.call("RenameLUN %q %q", name, newName)
}

func (f *fakeEngine) DeleteLUN(_ context.Context, name string, o blockdev.DeleteLUNOptions) error {
	return f.call("DeleteLUN %q %v %v", name, o.WithSnapshots, o.Force)
}

func (f *fakeEngine) Snapshots(lun string) ([]blockdev.SnapshotInfo, error) {
	return []blockdev.SnapshotInfo{f.snap}, f.call("Snapshots %q", lun)
}

func (f *fakeEngine) SnapshotInfo(lun, name string) (blockdev.SnapshotInfo, error) {
	return f.snap, f.call("SnapshotInfo %q %q", lun, name)
}

func (f *fakeEngine) Diff(_ context.Context, lun, from, to string, off, n int64,
	yield func(int64, blockdev.Change) bool,
) error {
	if err := f.call("Diff %q %q %q %d %d", lun, from, to, off, n); err != nil {
		return err
	}
	at := int64(0)
	for _, c := range f.changes {
		end := at + c.length
		if end > off {
			if !yield(end-max(at, off), c.kind) {
				return nil
			}
		}
		at = end
	}
	return nil
}

func (f *fakeEngine) Snapshot(_ context.Context, r blockdev.SnapshotRequest) ([]blockdev.SnapshotInfo, error) {
	f.request = r
	return []blockdev.SnapshotInfo{f.snap}, f.call("Snapshot")
}

func (f *fakeEngine) RenameSnapshot(_ context.Context, lun, name, newName string) (blockdev.SnapshotInfo, error) {
	return f.snap, f.call("RenameSnapshot %q %q %q", lun, name, newName)
}

func (f *fakeEngine) LockSnapshot(_ context.Context, lun, name string, until *time.Time) (blockdev.SnapshotInfo, error) {
	f.until = until
	return f.snap, f.call("LockSnapshot %q %q", lun, name)
}

func (f *fakeEngine) UnlockSnapshot(_ context.Context, lun, name string) (blockdev.SnapshotInfo, error) {
	return f.snap, f.call("UnlockSnapshot %q %q", lun, name)
}

func (f *fakeEngine) DeleteSnapshot(_ context.Context, lun, name string, force bool) error {
	return f.call("DeleteSnapshot %q %q %v", lun, name, force)
}

func (f *fakeEngine) Clone(_ context.Context, lun, name, newLUN string) (blockdev.LUNInfo, error) {
	return f.lun, f.call("Clone %q %q %q", lun, name, newLUN)
}

func (f *fakeEngine) Revert(_ context.Context, lun, name string, o blockdev.RevertOptions) (blockdev.SnapshotInfo, error) {
	f.revert = o
	return f.snap, f.call("Revert %q %q %v", lun, name, o.Force)
}

func (f *fakeEngine) StartScrub(_ context.Context, lun, snapshot string) (blockdev.ScrubInfo, error) {
	return f.scrub, f.call("StartScrub %q %q", lun, snapshot)
}

func (f *fakeEngine) StopScrub(context.Context) (blockdev.ScrubInfo, error) {
	return f.scrub, f.call("StopScrub")
}

func (f *fakeEngine) LastScrub() (blockdev.ScrubInfo, error) {
	return f.scrub, f.call("LastScrub")
}
