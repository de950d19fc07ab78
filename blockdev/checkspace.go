package blockdev

import (
	"errors"
	"path"
	"strings"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// CheckSpace looks for space that a pool takes for nothing: files that nothing
// names, and blocks of segments that nothing maps. What maintenance has still
// to give back does not count, but after a crash more may be found until the
// pool was opened and settled. Nobody may have the pool open. The error joins
// all that it found.
func CheckSpace(fsys blockfile.FS) error {
	return checkPool(fsys, func(c *checker) error {
		for id, r := range c.p.cat.layers {
			for _, o := range r.Origins {
				c.owner[o] = id
			}
		}
		return errors.Join(c.layerFiles(), c.unmapped())
	})
}

// layerFiles finds the directories of layers that are gone, and files that
// were never finished.
func (c *checker) layerFiles() error {
	ids, err := c.p.listIDs("layers")
	if err != nil {
		return err
	}
	for _, id := range ids {
		if c.p.cat.layers[id] == nil {
			c.found(layerDir(id), "no layer has this directory")
		}
		names, err := c.p.fs.ReadDir(layerDir(id))
		if err != nil {
			return err
		}
		for _, n := range names {
			name := path.Join(layerDir(id), n)
			if fits, err := c.dueSums(name, id); err != nil {
				return err
			} else if strings.HasSuffix(n, newSuffix) && !fits {
				c.found(name, "an unfinished file was left")
			}
		}
	}
	return nil
}

// dueSums tells whether a file is sums that the next opening gives their name.
func (c *checker) dueSums(name string, id uint32) (bool, error) {
	if r := c.p.cat.layers[id]; name != sumsName(id)+newSuffix || r == nil || !r.Sealed {
		return false, nil
	}
	return stagedFit(c.p.fs, id)
}

// unmapped finds blocks that take space in the segments of an origin and that
// its owner does not map.
func (c *checker) unmapped() error {
	own := make(map[uint32]*extentMap)
	for id, r := range c.p.cat.layers {
		m, err := c.p.loadOwn(r, false)
		if err != nil {
			return err
		}
		own[id] = m.m
	}
	origins, err := c.p.listIDs("segments")
	if err != nil {
		return err
	}
	for _, o := range origins {
		owner, owned := c.owner[o]
		if c.p.cat.reclaims[o] != nil {
			continue // to be done
		}
		if !owned {
			c.found(originDir(o), "no layer owns these segments")
			continue
		}
		if err := c.p.eachAllocated(o, func(block, count uint64) error {
			runs, err := own[owner].runs(nil, block, count)
			for _, r := range runs {
				if r.place != dataPlace(o) {
					c.found(originDir(o), "%d blocks from %d take space, layer %08x does not map them", r.count, r.block, owner)
				}
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}
