package ext4

import (
	"cmp"
	"slices"
)

// from is the part of r from block b of the file on.
func (r placedRun) from(b fileBlock) placedRun {
	into := uint64(b - r.at)
	rest := placedRun{b, run{0, r.count - into}}
	if r.start != 0 {
		rest.start = r.start + fsBlock(into)
	}
	return rest
}

// end is the block of the file after r.
func (r placedRun) end() fileBlock { return r.at + fileBlock(r.count) }

// lastLaid gives what is left of runs that were laid over each other one after
// the other, in the order of the file. It takes O(n log n), in whatever order
// they come.
func lastLaid(laid []placedRun) []placedRun {
	edges := make([]fileBlock, 0, 2*len(laid))
	for _, r := range laid {
		edges = append(edges, r.at, r.end())
	}
	slices.Sort(edges)
	edges = slices.Compact(edges)
	// Piece i lies between edges i and i+1. The last run comes first and takes
	// all pieces that it covers; those before it take what is left.
	owner := make([]int, len(edges)) // of the piece, counted from 1; 0: none
	free := newFreePieces(len(edges))
	for k, r := range slices.Backward(laid) {
		first, _ := slices.BinarySearch(edges, r.at)
		end, _ := slices.BinarySearch(edges, r.end())
		for i := free.from(first); i < end; i = free.from(i) {
			owner[i] = k + 1
			free.take(i)
		}
	}
	var out []placedRun
	for i, k := range owner {
		switch {
		case k == 0:
		case i > 0 && owner[i-1] == k:
			out[len(out)-1].count += uint64(edges[i+1] - edges[i])
		default:
			r := laid[k-1].from(edges[i])
			r.count = uint64(edges[i+1] - edges[i])
			out = append(out, r)
		}
	}
	return out
}

// freePieces finds pieces that are not taken. Element i leads to the first free
// piece from i on, by way of others that do.
type freePieces []int

func newFreePieces(n int) freePieces {
	f := make(freePieces, n+1)
	for i := range f {
		f[i] = i
	}
	return f
}

func (f freePieces) take(i int) { f[i] = i + 1 }

// from is the first free piece from i on.
func (f freePieces) from(i int) int {
	for f[i] != i {
		f[i] = f[f[i]] // shorter ways for those who come after
		i = f[i]
	}
	return i
}

// patchedMap is a block map with ranges laid over it.
type patchedMap struct {
	base   blockMap
	ranges []placedRun
}

func (m *patchedMap) runAt(b fileBlock) (run, error) {
	i, found := slices.BinarySearchFunc(m.ranges, b, func(r placedRun, b fileBlock) int { return cmp.Compare(r.at, b) })
	if !found {
		i--
	}
	if i >= 0 {
		if r := m.ranges[i]; uint64(b-r.at) < r.count {
			return r.from(b).run, nil
		}
	}
	r, err := m.base.runAt(b)
	if err == nil && i+1 < len(m.ranges) {
		r.count = min(r.count, uint64(m.ranges[i+1].at-b))
	}
	return r, err
}
