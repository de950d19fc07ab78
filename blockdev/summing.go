package blockdev

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"
)

// summing makes the sums of sealed layers, in the background.
type summing struct {
	runMu sync.Mutex // one pass at a time

	kick chan struct{}
	quit context.CancelFunc
	done chan struct{}

	pace pace

	mu sync.Mutex
	// settled holds the layers that there is nothing more to do for.
	settled map[uint32]bool
}

const (
	// sumBatch is for how many leaves sums are kept in memory until they are
	// written: 32 MiB for 16 GiB of data.
	sumBatch = 8192
	// sumRead is how much is read at a time.
	sumRead = 256 << 10
	// defaultBackgroundRate is what sums and scrubs each read per second.
	defaultBackgroundRate = 64 << 20
)

func (s *summing) start(p *Pool) {
	s.settled = make(map[uint32]bool)
	s.pace.bytesPerSecond = p.backgroundRate
	if p.manual {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.kick, s.quit, s.done = make(chan struct{}, 1), cancel, make(chan struct{})
	go p.sumLoop(ctx)
	s.wake()
}

// stop ends the loop. What it has not written is computed again after the
// pool is opened again.
func (s *summing) stop() {
	if s.quit != nil {
		s.quit()
		<-s.done
	}
}

// wake makes the loop look for layers without sums.
func (s *summing) wake() {
	select {
	case s.kick <- struct{}{}:
	default: // it will look anyway, or there is no loop
	}
}

// unsettle says that a layer may have data blocks without sums.
func (s *summing) unsettle(layer uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.settled, layer)
}

func (p *Pool) sumLoop(ctx context.Context) {
	s := &p.summing
	defer close(s.done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.kick:
		}
		wait, err := p.sumLayers(ctx, &s.pace)
		if err != nil && ctx.Err() == nil {
			p.log.Error("sums could not be written, will be tried again", "error", err)
			wait = true
		}
		if wait {
			select {
			case <-ctx.Done():
				return
			case <-time.After(retryDelay):
				s.wake()
			}
		}
	}
}

// unsummed lists the sealed layers that may have data blocks without sums, and
// can be read.
func (p *Pool) unsummed() []uint32 {
	s := &p.summing
	p.cat.mu.RLock()
	defer p.cat.mu.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.settled, func(id uint32, _ bool) bool { return p.cat.layers[id] == nil })
	var ids []uint32
	for id, r := range p.cat.layers {
		if r.Sealed && !s.settled[id] && p.brokenLayer(id) == nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// sumLayers makes the sums of all sealed layers that lack any. short tells that
// some have to wait until there is space for them.
func (p *Pool) sumLayers(ctx context.Context, pc *pace) (short bool, err error) {
	s := &p.summing
	s.runMu.Lock()
	defer s.runMu.Unlock()
	var errs []error
	for _, id := range p.unsummed() {
		s.mu.Lock()
		s.settled[id] = true // until a merge says otherwise
		s.mu.Unlock()
		err := p.sumLayer(ctx, id, pc)
		if ctx.Err() != nil {
			return short, ctx.Err()
		}
		if err == nil || p.cat.layer(id) == nil {
			continue // done, or gone meanwhile
		}
		if errors.Is(err, ErrCorrupt) {
			p.log.Error("a layer gets no sums", "layer", id, "error", err)
			continue // trying again would not mend it
		}
		s.unsettle(id)
		if isNoSpace(err) {
			short = true
			continue
		}
		errs = append(errs, err)
	}
	return short, errors.Join(errs...)
}

// sumLayer makes the sums that a layer lacks.
func (p *Pool) sumLayer(ctx context.Context, id uint32, pc *pace) error {
	if lacks, err := p.lacksSums(id); !lacks || err != nil {
		return err
	}
	for from := uint64(0); ; {
		batch, next, err := p.computeSums(ctx, id, from, pc)
		if err != nil {
			return err
		}
		if err := p.storeSums(id, batch); err != nil {
			return err
		}
		if next == 0 {
			return nil
		}
		from = next
	}
}

// lacksSums tells whether a layer maps more data blocks than it has sums of.
func (p *Pool) lacksSums(id uint32) (bool, error) {
	pr, err := openPresence(p.fs, id)
	if err != nil {
		return false, err
	}
	if err := pr.close(); err != nil {
		return false, err
	}
	have := uint64(0)
	sr, err := openSums(p.fs, id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, err
	default:
		have = sr.header.sums
		if err := sr.close(); err != nil {
			return false, err
		}
	}
	return have < pr.header.dataBlocks, nil
}

// computeSums computes sums that a layer lacks, from a leaf on. next is the
// leaf to go on with, 0 at the end. A block that cannot be read gets none.
func (p *Pool) computeSums(ctx context.Context, id uint32, from uint64, pc *pace) (batch map[uint64]*sumLeaf, next uint64, err error) {
	pr, err := openPresence(p.fs, id)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, pr.close()) }()
	sr, err := openSums(p.fs, id)
	if errors.Is(err, fs.ErrNotExist) {
		sr, err = nil, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if sr != nil {
		defer func() { err = errors.Join(err, sr.close()) }()
	}
	batch = make(map[uint64]*sumLeaf)
	buf := make([]byte, sumRead)
	err = pr.leaves(func(index uint64, vals *[leafBlocks]place) error {
		if index < from || next != 0 {
			return nil
		}
		if len(batch) >= sumBatch {
			next = index
			return nil
		}
		have := new(sumLeaf)
		if sr != nil {
			l, err := sr.find(index)
			if err != nil {
				return err
			}
			if l != nil {
				have = l
			}
		}
		made, err := p.sumLeaf(ctx, index, vals, have, buf, pc)
		if made != nil {
			batch[index] = made
		}
		return err
	})
	return batch, next, err
}

// sumLeaf computes the sums of the data blocks of a leaf that have none, nil if
// there are none of these.
func (p *Pool) sumLeaf(ctx context.Context, index uint64, vals *[leafBlocks]place, have *sumLeaf, buf []byte, pc *pace) (*sumLeaf, error) {
	var made *sumLeaf
	lacks := func(i int) bool { return vals[i].isData() && have.places[i] != vals[i] }
	for i := 0; i < leafBlocks; {
		j := i + 1
		if lacks(i) {
			for j < leafBlocks && vals[j] == vals[i] && lacks(j) && (j-i)*BlockSize < len(buf) {
				j++
			}
			b := buf[:(j-i)*BlockSize]
			if err := pc.wait(ctx, int64(len(b))); err != nil {
				return nil, err
			}
			if err := p.readPlace(vals[i], b, int64(index*leafBlocks+uint64(i))*BlockSize); err != nil {
				if _, owned := p.sealedOwner(vals[i].origin()); !owned {
					i = j // moved elsewhere meanwhile, and to be summed there
					continue
				}
				p.log.Error("blocks get no sums", "block", index*leafBlocks+uint64(i), "count", j-i, "error", err)
			} else {
				if made == nil {
					made = new(sumLeaf)
				}
				for k := i; k < j; k++ {
					made.places[k], made.sums[k] = vals[k], crcOf(b[(k-i)*BlockSize:][:BlockSize])
				}
			}
		}
		i = j
	}
	return made, nil
}

// storeSums adds sums to those of a layer, unless it is gone meanwhile or was
// merged into a head: what was read then is not what it held.
func (p *Pool) storeSums(id uint32, batch map[uint64]*sumLeaf) error {
	if len(batch) == 0 {
		return nil
	}
	p.maintenance.runMu.Lock() // layers are merged under it
	defer p.maintenance.runMu.Unlock()
	if r := p.cat.layer(id); r == nil || !r.Sealed {
		return nil
	}
	// What the layer maps may have become less since the batch was read.
	own := p.maps.newMap()
	if err := p.overlayLayer(own, id); err != nil {
		return err
	}
	fresh := batchSource(batch)
	fresh.want = func(block uint64, at place) bool { return own.has(block, at) }
	sources := []sumSource{fresh}
	r, err := openSums(p.fs, id)
	if err == nil {
		defer r.close()
		sources = append(sources, r.source(anySum))
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	defer p.sums.forget(id)
	return writeSums(p.fs, id, sources...)
}

// mergeSums gives a sealed child the sums of the blocks that it takes over from
// its parent, by the map of both. Where that is not possible the child lacks
// them, and they are computed anew: giving space back must not fail for it.
// Maintenance's runMu is held.
func (p *Pool) mergeSums(parent, child uint32, merged *extentMap) {
	err := p.tryMergeSums(parent, child, merged)
	p.summing.unsettle(child)
	if err != nil {
		p.log.Warn("sums of a merged layer are lost", "layer", parent, "into", child, "error", err)
	}
}

func (p *Pool) tryMergeSums(parent, child uint32, merged *extentMap) error {
	var sources []sumSource
	for _, id := range []uint32{child, parent} {
		r, err := openSums(p.fs, id)
		if errors.Is(err, fs.ErrNotExist) {
			if id == parent {
				return nil
			}
			continue
		}
		if err != nil {
			return err
		}
		defer r.close()
		want := anySum
		if id == parent {
			want = func(block uint64, at place) bool { return merged.has(block, at) }
		}
		sources = append(sources, r.source(want))
	}
	defer p.sums.forget(child)
	return writeSums(p.fs, child, sources...)
}

// dropSums drops the sums of blocks that a sealed layer does not map any more,
// by its map as it is now. Where that fails they stay and mean nothing: the map
// does not lead to them. Maintenance's runMu is held.
func (p *Pool) dropSums(id uint32, own *extentMap) {
	r, err := openSums(p.fs, id)
	if err == nil {
		err = writeSums(p.fs, id, r.source(func(block uint64, at place) bool { return own.has(block, at) }))
		p.sums.forget(id)
		err = errors.Join(err, r.close())
	}
	p.summing.unsettle(id)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.log.Warn("sums of dropped blocks are left", "layer", id, "error", err)
	}
}
