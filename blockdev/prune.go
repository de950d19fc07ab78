package blockdev

import (
	"context"
	"slices"
)

// prunable lists the layers that nothing names and that can be removed now or
// merged into their only child. One with several children is a branch.
func (p *Pool) prunable() []uint32 {
	open, failed := p.openLayers(), p.failedLUNs()
	p.cat.mu.RLock()
	defer p.cat.mu.RUnlock()
	named := p.cat.names()
	children := p.cat.byParent()
	var out []uint32
	for id, r := range p.cat.layers {
		if named[id] || open[id] {
			continue
		}
		switch c := children[id]; {
		case len(c) == 0:
			out = append(out, id)
		case len(c) == 1 && r.Sealed && (c[0].Sealed || p.isUsableHead(c[0].ID, failed) && !p.wantsCompaction(r)) &&
			p.brokenLayer(id) == nil && p.brokenLayer(c[0].ID) == nil:
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// openLayers returns the layers that LUNs at run time still write or sync.
func (p *Pool) openLayers() map[uint32]bool {
	open := make(map[uint32]bool)
	for _, l := range p.allLUNs() {
		for _, h := range l.oldHeads() {
			open[h.layer] = true
		}
		open[l.currentHead().layer] = true
	}
	return open
}

// prune removes a layer that nothing names, or merges it into its only child.
// It returns false if that has to wait.
func (p *Pool) prune(id uint32) (bool, error) {
	r := p.cat.layer(id)
	if r == nil {
		return false, nil
	}
	p.compaction.drop(id)
	children := p.cat.children(id)
	switch {
	case len(children) == 0:
		return p.removeLayer(r)
	case len(children) > 1:
		return false, nil
	}
	child := children[0]
	if l := p.lunOfHead(child.ID); l != nil {
		return p.mergeIntoHead(r, l, child.ID)
	}
	if !child.Sealed {
		return false, nil
	}
	if err := p.mergePresence(r, child); err != nil {
		return false, err
	}
	return p.adopt(r, child.ID, nil)
}

// removeLayer removes a layer that no other stands on.
func (p *Pool) removeLayer(r *layerRecord) (bool, error) {
	p.opMu.Lock()
	if len(p.cat.children(r.ID)) > 0 || p.cat.named(r.ID) {
		p.opMu.Unlock()
		return false, nil
	}
	changes := []change{deleteLayer(r.ID)}
	for _, o := range r.Origins {
		changes = append(changes, putReclaim(reclaimRecord{Origin: o}))
	}
	err := p.cat.commit(changes...)
	p.opMu.Unlock()
	if err != nil {
		return false, err
	}
	p.forgetView(r.ID)
	p.sums.forget(r.ID)
	return true, removeDir(p.fs, layerDir(r.ID))
}

// mergePresence adds to the presence map of a sealed child what its sealed
// parent maps and it does not. Until the catalogue drops the parent this
// changes nothing: the places are those that were seen through the child.
func (p *Pool) mergePresence(parent, child *layerRecord) error {
	merged := p.maps.newMap()
	for _, id := range []uint32{parent.ID, child.ID} {
		if err := p.overlayLayer(merged, id); err != nil {
			return err
		}
	}
	h := presenceHeader{layer: child.ID, blocks: child.Blocks, sealed: true}
	if err := p.writePresence(h, merged, newExtentMap(), func(at place) bool { return at != nowhere }); err != nil {
		return err
	}
	p.mergeSums(parent.ID, child.ID, merged)
	return nil
}

// mergeIntoHead merges a layer into the head that stands on it: a checkpoint
// takes its blocks over, then the head owns its segments and writes in place
// to them.
func (p *Pool) mergeIntoHead(r *layerRecord, l *lun, child uint32) (bool, error) {
	l.maintainMu.Lock()
	defer l.maintainMu.Unlock()
	h := l.currentHead()
	if l.usable() != nil || h.layer != child {
		return false, nil
	}
	frozen, err := l.checkpoint(h, r.Origins)
	if err != nil || frozen == nil {
		return false, err
	}
	// Reads of deleted snapshots still see r's blocks, which the head will
	// write in place.
	if err := p.grace.wait(context.Background()); err != nil {
		return false, err
	}
	return p.adopt(r, h.layer, func(origins []uint32) {
		l.gate.Lock()
		h.setOrigins(origins)
		h.below = newExtentMap() // has r's blocks, which are the head's now
		l.gate.Unlock()
	})
}

// adopt drops a layer whose blocks its only child has taken over, and gives
// its segments to the child. If the tree has changed since, it does nothing
// and returns false. owned is called with all origins of the child.
func (p *Pool) adopt(r *layerRecord, childID uint32, owned func(origins []uint32)) (bool, error) {
	p.opMu.Lock()
	children := p.cat.children(r.ID)
	if len(children) != 1 || children[0].ID != childID || p.cat.named(r.ID) || owned == nil && !children[0].Sealed {
		p.opMu.Unlock()
		return false, nil
	}
	child := *children[0]
	child.Parent = r.Parent
	child.Origins = slices.Concat(child.Origins, r.Origins)
	changes := []change{putLayer(child), deleteLayer(r.ID)}
	for _, o := range r.Origins {
		changes = append(changes, putReclaim(reclaimRecord{Origin: o, Owner: childID}))
	}
	err := p.cat.commit(changes...)
	if err == nil && owned != nil {
		owned(child.Origins)
	}
	p.opMu.Unlock()
	if err != nil {
		return false, err
	}
	p.forgetView(r.ID)
	p.sums.forget(r.ID)
	p.summing.wake()
	return true, removeDir(p.fs, layerDir(r.ID))
}
