package ext4

import (
	"cmp"
	"slices"
)

// blockMap says where the blocks of a file are.
type blockMap interface {
	// runAt describes the blocks of the file from b on, for as long as they
	// are next to each other on disk, or all missing. It may end a run early.
	runAt(b fileBlock) (run, error)
}

// run is a number of blocks of a file that lie next to each other.
type run struct {
	start fsBlock // 0: a hole, or allocated but never written; reads as zeros
	count uint64  // at least 1
}

// maxFileBlocks is how many blocks a file can have: their numbers are 32 bits
// wide in extents.
const maxFileBlocks = 1 << 32

// blockMap is the map of an inode that has one.
func (f *FS) blockMap(in *inode) (blockMap, error) {
	var m blockMap
	if in.has(flagExtents) {
		m = &extentMap{f: f, in: in}
	} else {
		m = &indirectMap{f, in}
	}
	if p := f.patches[in.ino]; p != nil && len(p.ranges) > 0 {
		m = &patchedMap{base: m, ranges: p.ranges}
	}
	return m, nil
}

// placedRun is a run and where in the file it is.
type placedRun struct {
	at fileBlock
	run
}

// layOut collects the runs of the first end blocks of a file. It is for files
// that cannot have a block of the filesystem twice, and makes sure that they do
// not: such a file is no longer than the filesystem, whatever its size says.
// With an error it returns the runs before the one that it is about.
func layOut(in *inode, m blockMap, end fileBlock) ([]placedRun, error) {
	var runs []placedRun
	for b := fileBlock(0); b < end; {
		r, err := m.runAt(b)
		if err != nil {
			return runs, err
		}
		r.count = min(r.count, uint64(end-b))
		if n := len(runs); n > 0 && r.start == 0 && runs[n-1].start == 0 {
			runs[n-1].count += r.count
		} else {
			runs = append(runs, placedRun{b, r})
		}
		if len(runs) > maxLaidOut {
			return nil, in.corrupt("block map: more than %d pieces", maxLaidOut)
		}
		b += fileBlock(r.count)
	}
	sorted := slices.Clone(runs)
	slices.SortFunc(sorted, func(a, b placedRun) int { return cmp.Compare(a.start, b.start) })
	for i := 1; i < len(sorted); i++ {
		before, r := sorted[i-1], sorted[i]
		if r.start != 0 && before.start != 0 && before.start+fsBlock(before.count) > r.start {
			return nil, in.corrupt("block map: block %d is in the file twice", r.start)
		}
	}
	return runs, nil
}
