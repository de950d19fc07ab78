package offline

import (
	"context"

	"github.com/rowan-storage/rowan/blockdev"
)

// Finding is something that a check found.
type Finding = blockdev.PoolFinding

// Check verifies every file of the pool in a directory, and repairs what can be
// rebuilt if so told. progress is told how many bytes were read. The error is
// ENOENT where there is no pool, EBUSY while a process has it open.
func Check(ctx context.Context, dir string, repair bool, progress func(done, total int64)) ([]Finding, error) {
	return blockdev.CheckPool(ctx, dir, blockdev.CheckOptions{Repair: repair, Progress: progress})
}
