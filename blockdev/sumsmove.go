package blockdev

import (
	"errors"
	"io/fs"
	"os"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// When blocks of a sealed layer are moved to another origin their sums must
// move with them, or damage of a copy would not be found. The presence map and
// the sums are two files, which no rename replaces at once. So the new sums are
// made durable under their temporary name, then the presence map is replaced,
// then the sums get their name. If a crash comes between, the opening of the
// pool finds them, and that they fit the presence map.

// stageSums makes durable, under their temporary name, the sums of a layer whose
// map will be after instead of before: what both have, at its new place. It
// returns false for a layer that has no sums.
func (p *Pool) stageSums(layer uint32, before, after *extentMap) (bool, error) {
	r, err := openSums(p.fs, layer)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if errors.Is(err, ErrCorrupt) {
		p.log.Error("sums are damaged, and do not move with their blocks", "layer", layer, "error", err)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	src := r.source(anySum)
	src.leaf = func(n int) (*sumLeaf, error) {
		l, err := r.leaf(n)
		if err != nil {
			return nil, err
		}
		for i, at := range l.places {
			block := src.leaves[n]*leafBlocks + uint64(i)
			l.places[i] = nowhere
			if at != nowhere && before.has(block, at) {
				if l.places[i], err = after.at(block); err != nil {
					return nil, err
				}
			}
		}
		return l, nil
	}
	w, err := collectSums(p.fs, layer, src)
	if err == nil {
		err = w.stage()
	}
	err = errors.Join(err, r.close())
	if errors.Is(err, ErrCorrupt) {
		p.log.Error("sums are damaged, and do not move with their blocks", "layer", layer, "error", err)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// The name has to be there if the presence map is.
	return true, p.fs.SyncDir(layerDir(layer))
}

// unstageSums drops sums that were staged.
func (p *Pool) unstageSums(layer uint32) {
	if err := p.fs.Remove(sumsName(layer) + newSuffix); err != nil {
		p.log.Warn("staged sums are left", "layer", layer, "error", err)
	}
}

// adoptSums gives sums their name that were staged when the daemon died, if the
// presence map is the one that they are for. Otherwise they are left to be
// removed.
func (p *Pool) adoptSums(layer uint32) error {
	if fits, err := stagedFit(p.fs, layer); err != nil || !fits {
		return err
	}
	f, err := p.fs.Open(sumsName(layer)+newSuffix, os.O_RDWR)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	// The presence map may have its name by a rename that is not durable.
	if err := p.fs.SyncDir(layerDir(layer)); err != nil {
		return err
	}
	return placeSums(p.fs, layer)
}

// stagedFit tells whether the sums under a temporary name are whole and for the
// presence map as it is.
func stagedFit(fsys blockfile.FS, layer uint32) (fits bool, err error) {
	r, err := openSumsFile(fsys, layer, sumsName(layer)+newSuffix)
	if isDamage(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	pr, err := openPresence(fsys, layer)
	if isDamage(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	found := uint64(0)
	err = pr.leaves(func(index uint64, vals *[leafBlocks]place) error {
		l, err := r.find(index)
		if err != nil || l == nil {
			return err
		}
		for i, at := range l.places {
			if at != nowhere && at == vals[i] {
				found++
			}
		}
		return nil
	})
	err = errors.Join(err, pr.close())
	if isDamage(err) {
		return false, nil
	}
	return err == nil && found == r.header.sums, err
}
