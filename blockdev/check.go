package blockdev

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// Check verifies the metadata of a pool that nobody has open, without changing
// it: every record and checksum, that the layers form a tree, that every
// origin has one owner, that layers map only to origins they own, and that
// every mapped data block lies within its segment. The error joins all that
// it found.
func Check(fsys blockfile.FS) error {
	return checkPool(fsys, func(c *checker) error {
		c.pool()
		return nil
	})
}

// checkPool opens a pool that nobody has open, without changing it, for look,
// and returns what that found.
func checkPool(fsys blockfile.FS, look func(c *checker) error) error {
	p := &Pool{fs: fsys, log: slog.New(slog.DiscardHandler)}
	if err := p.readHeader(); err != nil {
		return err
	}
	lock, err := lockPool(fsys, ".")
	if err != nil {
		return err
	}
	defer lock.Close()
	if p.cat, err = openCatalogue(fsys); err != nil {
		return err
	}
	p.segments = newSegmentCache(fsys, segmentLimit())
	c := newChecker(p)
	err = look(c)
	return errors.Join(append(c.errs, err, p.segments.close(), p.cat.table.Close())...)
}

type checker struct {
	p             *Pool
	errs          []error
	owner         map[uint32]uint32
	segmentBlocks map[segmentKey]uint64
}

func newChecker(p *Pool) *checker {
	return &checker{p: p, owner: make(map[uint32]uint32), segmentBlocks: make(map[segmentKey]uint64)}
}

// pool verifies the catalogue and what belongs to the layers in it.
func (c *checker) pool() {
	c.tree()
	layers := c.p.cat.layers
	for _, id := range slices.Sorted(maps.Keys(layers)) {
		c.layer(layers[id])
		c.files(layers[id])
	}
}

func (c *checker) found(object, format string, args ...any) {
	c.errs = append(c.errs, errorf(ErrCorrupt, object, format, args...))
}

// tree verifies the records against one another.
func (c *checker) tree() {
	cat := c.p.cat
	heads := make(map[uint32]bool)
	for _, r := range cat.luns {
		if cat.layers[r.Head] == nil || cat.layers[r.Head].Sealed || heads[r.Head] {
			c.found(lunObject(r.Name), "its head, layer %08x, is missing, sealed or another's", r.Head)
		}
		heads[r.Head] = true
	}
	for _, s := range cat.snapshots {
		if cat.layers[s.Layer] == nil || cat.luns[s.LUN] == nil || heads[s.Layer] {
			c.found("snapshot "+s.Name, "layer %08x or LUN #%d is missing", s.Layer, s.LUN)
		}
	}
	for id, r := range cat.layers {
		// A layer is younger than the one it stands on, so there is no cycle.
		if r.ID != id || id >= cat.pool.NextLayer || r.Parent >= id || r.Parent != 0 && cat.layers[r.Parent] == nil {
			c.found(catalogueFile, "layer %08x stands on layer %08x, which is missing or younger", id, r.Parent)
		}
		for _, o := range r.Origins {
			if other, ok := c.owner[o]; ok {
				c.found(catalogueFile, "layers %08x and %08x own origin %08x", other, id, o)
			}
			c.owner[o] = id
		}
	}
}

// layer verifies what one layer maps.
func (c *checker) layer(r *layerRecord) {
	m := c.p.maps.newMap()
	if r.Sealed {
		if err := c.p.overlayPresence(m, r.ID); err != nil {
			c.errs = append(c.errs, err)
			return
		}
	} else {
		own, err := c.p.loadOwn(r, false)
		if err != nil {
			c.errs = append(c.errs, err)
			return
		}
		m = own.m
	}
	name := presenceName(r.ID)
	m.leaves(func(index uint64, vals *[leafBlocks]place) error {
		for i, at := range vals {
			block := index*leafBlocks + uint64(i)
			if at == nowhere {
				continue
			}
			if block >= r.Blocks && !isUniform(vals[:]) {
				c.found(name, "block %d is mapped, the LUN has %d", block, r.Blocks)
			}
			if !slices.Contains(r.Origins, at.origin()) && !c.parentOwns(r, at.origin()) {
				c.found(name, "block %d is mapped to origin %08x, which the layer does not own", block, at.origin())
			}
			if at.isData() && block < r.Blocks {
				c.data(name, at.origin(), block)
			}
		}
		return nil
	})
}

// parentOwns tells whether an origin is that of the layer below, which a merge
// that was not finished leaves behind.
func (c *checker) parentOwns(r *layerRecord, origin uint32) bool {
	below := c.p.cat.layers[r.Parent]
	return below != nil && slices.Contains(below.Origins, origin)
}

// data verifies that a mapped block is within its segment.
func (c *checker) data(name string, origin uint32, block uint64) {
	shardBlocks := uint64(c.p.shardBytes / BlockSize)
	key := segmentKey{origin, uint32(block / shardBlocks)}
	have, known := c.segmentBlocks[key]
	if !known {
		var err error
		if have, err = c.blocksOf(key); err != nil {
			c.errs = append(c.errs, err)
		}
		c.segmentBlocks[key] = have
	}
	if block%shardBlocks >= have {
		c.found(name, "block %d is mapped past the end of %s, %d blocks", block, segmentName(key.origin, key.shard), have)
	}
}

func (c *checker) blocksOf(key segmentKey) (uint64, error) {
	f, err := c.p.fs.Open(segmentName(key.origin, key.shard), os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	size, err := f.Size()
	if err := errors.Join(err, f.Close()); err != nil {
		return 0, fmt.Errorf("blockdev: check: %w", err)
	}
	return uint64(size / BlockSize), nil
}
