package blockdev

import (
	"errors"
	"io/fs"
	"sync"
)

// sumsCache keeps in memory the sums that reads of snapshots lately needed.
type sumsCache struct {
	mu sync.RWMutex
	// owners says which layer owns an origin, by the catalogue's layers at
	// version.
	owners  map[uint32]uint32
	version uint64
	leaves  map[sumKey]*sumLeaf
	readers map[uint32]*sumsReader // nil for a layer that has no sums, or damaged ones
	// epoch counts what was forgotten: what was read before is not put in
	// after.
	epoch uint64

	// reported holds the blocks whose damage is in the log.
	reported map[reportKey]bool

	blocks sync.Pool // of *[BlockSize]byte, for reads of parts of blocks
}

type sumKey struct {
	layer uint32
	index uint64 // of the leaf
}

type reportKey struct {
	at    place
	block uint64
}

const (
	maxSumLeaves  = 4096 // 16 MiB for 8 GiB of data
	maxSumReaders = 64
	maxReported   = 1024
)

// noSums stands for a leaf without sums. It never changes.
var noSums = new(sumLeaf)

func newSumsCache() sumsCache {
	return sumsCache{
		leaves: make(map[sumKey]*sumLeaf), readers: make(map[uint32]*sumsReader), reported: make(map[reportKey]bool),
	}
}

// cachedSums returns the sums of a leaf of an origin if they are in memory.
func (p *Pool) cachedSums(origin uint32, index uint64) (*sumLeaf, bool) {
	c := &p.sums
	version := p.cat.layersVersion.Load()
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.version != version || c.owners == nil {
		return nil, false
	}
	layer, ok := c.owners[origin]
	if !ok {
		return noSums, true
	}
	if r, known := c.readers[layer]; known && r == nil {
		return noSums, true
	}
	l, ok := c.leaves[sumKey{layer, index}]
	return l, ok
}

// sumsOf returns the sums of a leaf of an origin, those of noSums if it has
// none.
func (p *Pool) sumsOf(origin uint32, index uint64) (*sumLeaf, error) {
	if l, ok := p.cachedSums(origin, index); ok {
		return l, nil
	}
	layer, ok := p.sealedOwner(origin)
	if !ok {
		return noSums, nil
	}
	c := &p.sums
	r, epoch, err := p.sumsReader(layer)
	if err != nil || r == nil {
		return noSums, err
	}
	defer c.put(r)
	l, err := r.find(index)
	if errors.Is(err, ErrCorrupt) {
		p.sumsDamaged(layer, err)
		return noSums, nil
	}
	if err != nil {
		return nil, err
	}
	if l == nil {
		l = noSums
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch == epoch {
		for key := range c.leaves { // any: which one hardly matters
			if len(c.leaves) < maxSumLeaves {
				break
			}
			delete(c.leaves, key)
		}
		c.leaves[sumKey{layer, index}] = l
	}
	return l, nil
}

// sealedOwner returns the sealed layer that owns an origin.
func (p *Pool) sealedOwner(origin uint32) (uint32, bool) {
	c := &p.sums
	c.mu.Lock()
	defer c.mu.Unlock()
	p.cat.mu.RLock()
	defer p.cat.mu.RUnlock()
	if version := p.cat.layersVersion.Load(); c.owners == nil || c.version != version {
		c.owners, c.version = make(map[uint32]uint32), version
		for id, r := range p.cat.layers {
			for _, o := range r.Origins {
				if r.Sealed {
					c.owners[o] = id
				}
			}
		}
	}
	layer, ok := c.owners[origin]
	return layer, ok
}

// sumsReader returns the open sums of a layer, nil if it has none, and the
// epoch; the reader goes back with put.
func (p *Pool) sumsReader(layer uint32) (*sumsReader, uint64, error) {
	c := &p.sums
	c.mu.Lock()
	defer c.mu.Unlock()
	r, known := c.readers[layer]
	if !known {
		var err error
		r, err = openSums(p.fs, layer)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, ErrCorrupt):
			p.log.Error("sums are damaged, blocks are read without them", "layer", layer, "error", err)
		case err != nil:
			return nil, 0, err
		}
		for id := range c.readers {
			if len(c.readers) < maxSumReaders {
				break
			}
			c.drop(id)
		}
		c.readers[layer] = r
	}
	if r != nil {
		r.refs++
	}
	return r, c.epoch, nil
}

// sumsDamaged makes a layer count as one without sums.
func (p *Pool) sumsDamaged(layer uint32, err error) {
	c := &p.sums
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.readers[layer]; r != nil {
		p.log.Error("sums are damaged, blocks are read without them", "layer", layer, "error", err)
		c.drop(layer)
		c.readers[layer] = nil
	}
}

// put gives a reader back.
func (c *sumsCache) put(r *sumsReader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.refs--; r.refs == 0 && r.gone {
		r.close()
	}
}

// drop forgets a layer's reader. mu is held.
func (c *sumsCache) drop(layer uint32) {
	if r := c.readers[layer]; r != nil {
		if r.gone = true; r.refs == 0 {
			r.close()
		}
	}
	delete(c.readers, layer)
}

// forget drops what is known of a layer whose sums were replaced.
func (c *sumsCache) forget(layer uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	c.drop(layer)
	for key := range c.leaves {
		if key.layer == layer {
			delete(c.leaves, key)
		}
	}
}

// close closes all readers; nobody uses them any more.
func (c *sumsCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for layer := range c.readers {
		c.drop(layer)
	}
	clear(c.leaves)
}

// report tells whether damage of a block is news.
func (c *sumsCache) report(k reportKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reported[k] || len(c.reported) >= maxReported {
		return false
	}
	c.reported[k] = true
	return true
}
