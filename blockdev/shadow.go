package blockdev

import (
	"context"
	"slices"
	"time"
)

// A layer that nothing names and on which several stand cannot be merged into
// one of them. What all of them hide is out of everybody's reach all the same,
// and is given back: first the layer's presence map is written without it, then
// its origins are scanned for blocks that it does not map.

// shadowDelay is how long a branch rests after it was looked at. The heads on
// it hide more with every write.
const shadowDelay = time.Minute

// branch is a layer that nothing names and on which several others stand.
type branch struct {
	layer    *layerRecord
	children []*layerRecord // by id
}

// branchState is what a branch was like when it was last looked at.
type branchState struct {
	children []uint32 // sealed ones, by id; of open ones the complement
	written  uint64   // sum of the sequence numbers of the open ones' journals
	at       time.Time
}

// branches lists the branches whose children are all sealed or heads of LUNs
// that did not fail.
func (p *Pool) branches() []branch {
	open, failed := p.openLayers(), p.failedLUNs()
	p.cat.mu.RLock()
	defer p.cat.mu.RUnlock()
	named := p.cat.names()
	children := p.cat.byParent()
	var out []branch
	for id, c := range children {
		r := p.cat.layers[id]
		if len(c) < 2 || r == nil || !r.Sealed || named[id] || open[id] || p.brokenLayer(id) != nil {
			continue
		}
		if slices.ContainsFunc(c, func(c *layerRecord) bool {
			return !c.Sealed && !p.isUsableHead(c.ID, failed) || p.brokenLayer(c.ID) != nil
		}) {
			continue
		}
		slices.SortFunc(c, func(a, b *layerRecord) int { return int(a.ID) - int(b.ID) })
		out = append(out, branch{r, c})
	}
	slices.SortFunc(out, func(a, b branch) int { return int(a.layer.ID) - int(b.layer.ID) })
	return out
}

// state returns what a branch is like now.
func (p *Pool) state(b branch) branchState {
	s := branchState{at: time.Now()}
	for _, c := range b.children {
		if c.Sealed {
			s.children = append(s.children, c.ID)
			continue
		}
		s.children = append(s.children, ^c.ID)
		if l := p.lunOfHead(c.ID); l != nil {
			s.written += l.currentHead().journal.lastSeq()
		}
	}
	return s
}

// newBranches lists the branches that were not looked at since their children
// changed.
func (p *Pool) newBranches() []branch {
	t := &p.maintenance
	out := p.branches()
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.DeleteFunc(out, func(b branch) bool {
		return slices.Equal(t.branches[b.layer.ID].children, p.state(b).children)
	})
}

// giveBackShadowed looks at the branches that have changed; at those where only
// the heads were written, unless at once, not more often than shadowDelay.
func (p *Pool) giveBackShadowed(ctx context.Context, atOnce bool) (progress bool, err error) {
	t := &p.maintenance
	for _, b := range p.branches() {
		if err := ctx.Err(); err != nil {
			return progress, err
		}
		t.mu.Lock()
		last, now := t.branches[b.layer.ID], p.state(b)
		t.mu.Unlock()
		if slices.Equal(last.children, now.children) &&
			(last.written == now.written || !atOnce && now.at.Sub(last.at) < shadowDelay) {
			continue
		}
		dropped, done, err := p.dropShadowed(b)
		if err != nil {
			return progress, err
		}
		progress = progress || dropped
		if done {
			t.mu.Lock()
			t.branches[b.layer.ID] = now
			t.mu.Unlock()
		}
	}
	return progress, nil
}

// cover is what a layer itself maps, durably.
type cover struct {
	m    *extentMap
	owns func(place) bool
}

// dropShadowed takes the blocks that all children hide out of a branch's
// presence map and asks for a scan of its origins, if there are any. It is not
// done if a child has changed meanwhile.
//
// No layer comes to stand on the branch later whose map has less: new ones
// stand on its children, and a child that is merged upwards only adds to the
// map of its own child.
func (p *Pool) dropShadowed(b branch) (dropped, done bool, err error) {
	var covers []cover
	for _, c := range b.children {
		cover, ok, err := p.coverOf(c)
		if err != nil || !ok {
			return false, false, err
		}
		covers = append(covers, cover)
	}
	own := p.maps.newMap()
	if err := p.overlayLayer(own, b.layer.ID); err != nil {
		return false, false, err
	}
	if n, err := own.removeCovered(covers); err != nil || n == 0 {
		return false, err == nil, err
	}
	p.opMu.Lock()
	now := p.cat.layer(b.layer.ID)
	if now != nil {
		err = p.cat.commit(p.reclaimsOf(now)...)
	}
	p.opMu.Unlock()
	if err != nil || now == nil {
		return false, false, err
	}
	h := presenceHeader{layer: b.layer.ID, blocks: b.layer.Blocks, sealed: true}
	if err := p.writePresence(h, own, newExtentMap(), func(at place) bool { return at != nowhere }); err != nil {
		return false, false, err
	}
	p.forgetView(b.layer.ID)
	p.dropSums(b.layer.ID, own)
	return true, true, nil
}

// coverOf returns what a layer itself maps; of a head, what a checkpoint made
// now has. ok is false if the layer has changed its state meanwhile.
func (p *Pool) coverOf(r *layerRecord) (c cover, ok bool, err error) {
	if l := p.lunOfHead(r.ID); l != nil {
		l.maintainMu.Lock()
		defer l.maintainMu.Unlock()
		h := l.currentHead()
		if l.usable() != nil || h.layer != r.ID {
			return cover{}, false, nil
		}
		frozen, err := l.checkpoint(h, nil)
		return cover{frozen, h.owns}, frozen != nil, err
	}
	if r = p.cat.layer(r.ID); r == nil || !r.Sealed {
		return cover{}, false, nil
	}
	m := p.maps.newMap()
	if err := p.overlayLayer(m, r.ID); err != nil {
		return cover{}, false, err
	}
	// A merge that was not finished leaves places of the layer below.
	owns := func(at place) bool { return at != nowhere && slices.Contains(r.Origins, at.origin()) }
	return cover{m, owns}, true, nil
}

// removeCovered makes the blocks that all covers own map to nowhere, and
// returns how many that were.
func (m *extentMap) removeCovered(covers []cover) (removed uint64, err error) {
	type hidden struct {
		index uint64
		vals  [leafBlocks]place
	}
	var changed []hidden
	if err := m.leaves(func(index uint64, vals *[leafBlocks]place) error {
		h := hidden{index, *vals}
		n := uint64(0)
		runs, err := coveredRuns(covers, index*leafBlocks, leafBlocks)
		if err != nil {
			return err
		}
		for _, r := range runs {
			for b := r.block; b < r.block+r.count; b++ {
				if at := &h.vals[b%leafBlocks]; *at != nowhere {
					*at = nowhere
					n++
				}
			}
		}
		if n > 0 {
			removed += n
			changed = append(changed, h)
		}
		return nil
	}); err != nil {
		return 0, err
	}
	for i := range changed {
		if err := m.setLeaf(changed[i].index, &changed[i].vals); err != nil {
			return 0, err
		}
	}
	return removed, nil
}

// coveredRuns returns the runs of blocks in a range that all covers own.
func coveredRuns(covers []cover, block, count uint64) ([]mapRun, error) {
	runs := []mapRun{{block: block, count: count}}
	for _, c := range covers {
		var next []mapRun
		for _, r := range runs {
			under, err := c.m.runs(nil, r.block, r.count)
			if err != nil {
				return nil, err
			}
			for _, at := range under {
				if c.owns(at.place) {
					next = append(next, mapRun{block: at.block, count: at.count})
				}
			}
		}
		runs = next
	}
	return runs, nil
}
