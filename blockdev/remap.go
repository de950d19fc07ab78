package blockdev

import "errors"

// remap changes every map in memory that shows the blocks of a job's layer.
// Presence maps read from now on have the new places. Reads may go on: until
// the old places are given back, both hold the same. Until the sums are moved as
// well, reads of moved blocks are not verified. A comparison of two maps
// that is under way may take blocks that were moved for written ones.
//
// After an error some maps may still lead to the old places.
//
// Maintenance's runMu is held.
func (p *Pool) remap(job *compactJob) error {
	var errs []error
	done := make(map[*extentMap]bool)
	p.viewMu.Lock()
	for id, v := range p.views {
		if v.refs == 0 && p.standsOn(id, job.layer) {
			delete(p.views, id)
		}
	}
	shown := p.viewsOn(job.layer)
	p.viewMu.Unlock()
	for _, m := range append(shown, p.mapsOn(job.layer)...) {
		errs = append(errs, job.remap(m))
		done[m] = true
	}
	// Now those few that were made meanwhile from others before these had
	// followed. A map is made from another under one of these locks.
	p.opMu.Lock()
	defer p.opMu.Unlock()
	late := p.mapsOn(job.layer)
	p.viewMu.Lock()
	defer p.viewMu.Unlock()
	for _, m := range append(late, p.viewsOn(job.layer)...) {
		if !done[m] {
			errs = append(errs, job.remap(m))
		}
	}
	return errors.Join(errs...)
}

// viewsOn returns the maps of views of layers that stand on another. viewMu is
// held.
func (p *Pool) viewsOn(layer uint32) (out []*extentMap) {
	for id, v := range p.views {
		if p.standsOn(id, layer) {
			out = append(out, v.m)
		}
	}
	return out
}

// mapsOn returns the maps of LUNs, and of layers that are not sealed yet, that
// stand on a layer.
func (p *Pool) mapsOn(layer uint32) (out []*extentMap) {
	for _, l := range p.allLUNs() {
		if p.standsOn(l.currentHead().layer, layer) {
			out = append(out, l.m.Load())
		}
	}
	p.pins.mu.Lock()
	defer p.pins.mu.Unlock()
	for id, m := range p.pins.maps {
		if p.standsOn(id, layer) {
			out = append(out, m)
		}
	}
	return out
}
