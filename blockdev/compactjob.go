package blockdev

import (
	"context"
	"errors"
	"maps"
	"slices"
)

// compactJob moves blocks of a sealed layer from some of its origins, the
// sources, to another. In order:
//
//  1. the catalogue asks for a scan of all these origins, so that whatever a
//     crash leaves is found; the scans wait while the job is under way;
//  2. the blocks are copied to the same offsets of the target, where the layer
//     maps nothing else, verified on the way, and synced;
//  3. the layer's presence map is replaced, and its sums with it (sumsmove.go);
//  4. every map in memory that shows the layer's blocks follows (remap);
//  5. when nobody reads at the old places any more, the catalogue drops the
//     sources from the layer that it has nothing at, and their files go.
//
// Until the presence map is replaced the copies are blocks that nothing maps;
// from then on what they were made from is.
type compactJob struct {
	layer, target uint32
	sources       map[uint32]bool
	own           *extentMap // what the layer mapped when the job began
	end           uint64     // blocks of leaves below this number are moved
	blocks        uint64     // how many that are, zeros included
	bytes         int64      // how much of it is copied
}

// errDropped is the end of a job whose layer is not there any more, or not for
// compaction.
var errDropped = errors.New("blockdev: the layer is not to be compacted any more")

// moves returns the place that a block of the layer is moved to from another, if
// it is moved.
func (j *compactJob) moves(from place) (to place, ok bool) {
	if from == nowhere || !j.sources[from.origin()] {
		return nowhere, false
	}
	if from.isData() {
		return dataPlace(j.target), true
	}
	return zeroPlace(j.target), true
}

// eachRun calls fn for the runs of blocks that are moved.
func (j *compactJob) eachRun(fn func(r mapRun) error) error {
	return j.own.leaves(func(index uint64, vals *[leafBlocks]place) error {
		if index >= j.end {
			return nil
		}
		for i := 0; i < leafBlocks; {
			k := i + 1
			for k < leafBlocks && vals[k] == vals[i] {
				k++
			}
			if _, ok := j.moves(vals[i]); ok {
				if err := fn(mapRun{index*leafBlocks + uint64(i), uint64(k - i), vals[i]}); err != nil {
					return err
				}
			}
			i = k
		}
		return nil
	})
}

// remap changes a map to name the blocks' new places.
func (j *compactJob) remap(m *extentMap) error {
	return j.eachRun(func(r mapRun) error {
		to, _ := j.moves(r.place)
		return m.replace(r.block, r.count, r.place, to)
	})
}

// compactLayer moves one batch of the blocks of a layer.
func (p *Pool) compactLayer(ctx context.Context, id uint32, pc *pace) error {
	job, err := p.beginCompaction(ctx, id)
	if err != nil {
		return err
	}
	defer p.compaction.drop(id)
	if err := p.copyBlocks(ctx, job, pc); err != nil {
		return err
	}
	return p.finishCompaction(ctx, job)
}

// beginCompaction chooses what to move and claims the origins concerned.
func (p *Pool) beginCompaction(ctx context.Context, id uint32) (*compactJob, error) {
	p.maintenance.runMu.Lock()
	defer p.maintenance.runMu.Unlock()
	r := p.ownMaster(id)
	if r == nil || !p.wantsCompaction(r) {
		return nil, errDropped
	}
	job := &compactJob{layer: id, own: newExtentMap(), sources: make(map[uint32]bool)}
	if err := p.overlayLayer(job.own, id); err != nil {
		if isDamage(err) {
			return nil, errDropped // the layer counts as damaged from now on
		}
		return nil, err
	}
	uses, err := countOrigins(job.own, p.compaction.movable(r.Origins))
	if err != nil {
		return nil, err
	}
	group := mergeGroup(uses, p.compaction.limit)
	for _, u := range group[:len(group)-1] {
		job.sources[u.origin] = true
	}
	job.target = group[len(group)-1].origin
	files := job.choose(p.compaction.batch)
	if err := p.hasRoom(job.bytes + files); err != nil {
		return nil, err
	}
	var changes []change
	for _, u := range group {
		changes = append(changes, putReclaim(reclaimRecord{Origin: u.origin, Owner: id}))
	}
	p.opMu.Lock()
	err = p.cat.commit(changes...)
	p.opMu.Unlock()
	if err != nil {
		return nil, err
	}
	p.compaction.mu.Lock()
	p.compaction.job = job
	p.compaction.mu.Unlock()
	// What reads at places of before the last merge may still read what the
	// copies will overwrite.
	if err := p.grace.wait(ctx); err != nil {
		p.compaction.drop(id)
		return nil, err
	}
	return job, nil
}

// choose sets how far the job goes, for a batch of data blocks, and returns how many bytes the layer's files
// written anew may take.
func (j *compactJob) choose(batch uint64) (files int64) {
	copied := uint64(0)
	j.own.leaves(func(index uint64, vals *[leafBlocks]place) error {
		files += 2 * maxSumLeaf // of the presence map less, of the sums no more
		if copied >= batch {
			return nil
		}
		for i := range leafBlocks {
			if _, ok := j.moves(vals[i]); ok {
				j.blocks++
				if vals[i].isData() {
					copied++
				}
			}
		}
		j.end = index + 1
		return nil
	})
	j.bytes = int64(copied) * BlockSize
	return files + 2*presenceHeaderSize
}

// copyBlocks copies the data blocks that are moved, and makes the copies
// durable.
func (p *Pool) copyBlocks(ctx context.Context, job *compactJob, pc *pace) error {
	buf := make([]byte, compactRead)
	shards := make(map[uint32]bool)
	if err := job.eachRun(func(r mapRun) error {
		for r.place.isData() && r.count > 0 {
			n := min(r.count, uint64(len(buf)/BlockSize))
			b := buf[:n*BlockSize]
			if err := pc.wait(ctx, int64(len(b))); err != nil {
				return err
			}
			if err := p.hasRoom(int64(len(b))); err != nil {
				return err
			}
			if err := p.readVerified(r.place, b, int64(r.block)*BlockSize, false); err != nil {
				return p.leaveBlocks(job, r.place, b, r.block)
			}
			if err := p.copyTo(job, b, int64(r.block)*BlockSize, shards); err != nil {
				return err
			}
			r.block, r.count = r.block+n, r.count-n
		}
		return nil
	}); err != nil {
		return err
	}
	for _, shard := range slices.Sorted(maps.Keys(shards)) {
		s, err := p.segments.get(segmentKey{job.target, shard}, false)
		if err != nil {
			return p.compaction.unlessDropped(job, err)
		}
		err = s.Sync()
		p.segments.put(s)
		if err != nil {
			return p.compaction.unlessDropped(job, err)
		}
	}
	if len(shards) == 0 {
		return nil
	}
	return p.compaction.unlessDropped(job, p.fs.SyncDir(originDir(job.target)))
}

// unlessDropped passes an error on, unless the job was dropped, so that its files
// may be gone.
func (c *compaction) unlessDropped(job *compactJob, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.job != job {
		return errDropped
	}
	return err
}

// copyTo writes copies to the target and notes in which shards.
func (p *Pool) copyTo(job *compactJob, b []byte, off int64, shards map[uint32]bool) error {
	p.compaction.mu.Lock()
	defer p.compaction.mu.Unlock()
	if p.compaction.job != job {
		return errDropped
	}
	return p.eachShard(job.target, off, int64(len(b)), true, func(s *segment, segOff, i, n int64) error {
		shards[s.key.shard] = true
		_, err := s.WriteAt(b[i:i+n], segOff)
		return err
	})
}

// leaveBlocks is the end of a job that cannot read some blocks, or finds them
// damaged. They are reported, and their origin is left as it is: a damaged block
// never gets a place, and by it a sum, that makes it look right.
func (p *Pool) leaveBlocks(job *compactJob, at place, b []byte, block uint64) error {
	if err := p.compaction.unlessDropped(job, nil); err != nil {
		return err
	}
	var bad []badBlock
	for ; len(b) > 0; block, b = block+1, b[BlockSize:] {
		err := p.readVerified(at, b[:BlockSize], int64(block)*BlockSize, false)
		if _, wrong := errors.AsType[*badSum](err); wrong {
			bad = append(bad, badBlock{at: at, block: block, what: "wrong checksum"})
		} else if err != nil {
			bad = append(bad, badBlock{at: at, block: block, what: err.Error()})
		}
	}
	if err := p.compaction.unlessDropped(job, nil); err != nil || len(bad) == 0 {
		return errDropped // where they can be read after all it is tried again
	}
	p.compaction.leave(at.origin())
	p.findBlocks(job.layer, bad)
	return errDropped
}

// finishCompaction has the layer use the copies.
func (p *Pool) finishCompaction(ctx context.Context, job *compactJob) error {
	p.maintenance.runMu.Lock()
	defer p.maintenance.runMu.Unlock()
	if err := p.compaction.unlessDropped(job, nil); err != nil {
		return err
	}
	r := p.ownMaster(job.layer)
	if r == nil {
		return errDropped
	}
	if err := p.cleanHead(job.layer); err != nil {
		return err
	}
	// The layer may have less by now, or more of others' origins.
	now := newExtentMap()
	if err := p.overlayLayer(now, job.layer); err != nil {
		return err
	}
	after := now.clone()
	if err := job.remap(after); err != nil {
		return err
	}
	if job.blocks > 0 {
		if err := p.replaceMap(r, job, now, after); err != nil {
			return err
		}
	}
	return p.dropOrigins(ctx, job, after)
}

// cleanHead writes the presence map of the head that stands on a layer without a
// name anew: a merge of the two that was cut off has left the layer's places in
// it.
func (p *Pool) cleanHead(layer uint32) error {
	children := p.cat.children(layer)
	if p.cat.named(layer) || len(children) != 1 {
		return nil
	}
	l := p.lunOfHead(children[0].ID)
	if l == nil {
		return errDropped
	}
	l.maintainMu.Lock()
	defer l.maintainMu.Unlock()
	h := l.currentHead()
	if l.usable() != nil || h.layer != children[0].ID {
		return errDropped
	}
	frozen, err := l.checkpoint(h, nil)
	if err == nil && frozen == nil {
		return errDropped
	}
	return err
}

// replaceMap replaces the presence map of a layer, now, and its sums, then has
// all maps in memory follow.
func (p *Pool) replaceMap(r *layerRecord, job *compactJob, now, after *extentMap) error {
	staged, err := p.stageSums(r.ID, now, after)
	if err != nil {
		return err
	}
	h := presenceHeader{layer: r.ID, blocks: r.Blocks, sealed: true}
	err = p.writePresenceOnce(h, after, newExtentMap(), func(at place) bool { return at != nowhere })
	if err != nil {
		// It may have its name already.
		onDisk := newExtentMap()
		if readErr := p.overlayPresence(onDisk, r.ID); readErr != nil {
			p.compaction.lose(job)
			return errors.Join(err, readErr)
		}
		if !sameMap(onDisk, after) {
			if staged {
				p.unstageSums(r.ID)
			}
			return err
		}
	}
	if err = p.remap(job); err != nil {
		p.compaction.lose(job) // some maps still lead to the old places
	}
	if staged {
		err = errors.Join(err, placeSums(p.fs, r.ID))
	}
	p.sums.forget(r.ID)
	p.summing.unsettle(r.ID)
	p.summing.wake()
	return err
}

func sameMap(a, b *extentMap) bool {
	same := true
	err := eachDifference(a, b, func(uint64, uint64, place, place) error { same = false; return errEnough }, 0, max(a.end(), b.end()))
	return same && err == nil
}

// lose keeps the origins of a job from being punched, or touched at all, until
// the pool is opened again.
func (c *compaction) lose(job *compactJob) {
	origins := append(slices.Collect(maps.Keys(job.sources)), job.target)
	c.leave(origins...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost == nil {
		c.lost = make(map[uint32]bool)
	}
	for _, o := range origins {
		c.lost[o] = true
	}
}

// dropOrigins takes from a layer, whose map is after, the sources that it has
// nothing at.
func (p *Pool) dropOrigins(ctx context.Context, job *compactJob, after *extentMap) error {
	empty := make(map[uint32]bool)
	uses, err := countOrigins(after, slices.Collect(maps.Keys(job.sources)))
	if err != nil {
		return err
	}
	for _, u := range uses {
		empty[u.origin] = u.data+u.zeros == 0
	}
	if err := p.grace.wait(ctx); err != nil {
		return err
	}
	p.opMu.Lock()
	defer p.opMu.Unlock()
	r := p.cat.layer(job.layer)
	if r == nil {
		return errDropped
	}
	left := *r
	left.Origins = slices.DeleteFunc(slices.Clone(r.Origins), func(o uint32) bool { return empty[o] })
	changes := []change{putLayer(left)}
	for _, o := range r.Origins {
		if empty[o] {
			changes = append(changes, putReclaim(reclaimRecord{Origin: o}))
		}
	}
	return p.cat.commit(changes...)
}
