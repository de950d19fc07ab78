package blockdev

import (
	"errors"
	"fmt"
	"slices"
	"sync"
)

// A view is the extent map of a layer that is not open, in memory. Views are
// made when first needed; those in use and a few more are kept.
type view struct {
	m    *extentMap
	refs int
	used uint64 // when last asked for, by the count of askings
}

// pins are the maps of layers whose presence maps are not written yet. They
// have a lock of their own that is never held for long, since a freeze takes
// it.
type pins struct {
	mu   sync.Mutex
	maps map[uint32]*extentMap
}

func (p *pins) get(layer uint32) *extentMap {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.maps[layer]
}

// put keeps the map of a layer that was just swapped out.
func (p *pins) put(layer uint32, m *extentMap) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.maps == nil {
		p.maps = make(map[uint32]*extentMap)
	}
	p.maps[layer] = m
}

// drop lets go of the map of a layer that is sealed.
func (p *pins) drop(layer uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.maps, layer)
}

// spareViews is how many views are kept that nobody uses.
const spareViews = 4

// acquireView returns the extent map of a layer and keeps it in memory until
// releaseView.
func (p *Pool) acquireView(layer uint32) (*extentMap, error) {
	p.viewMu.Lock()
	defer p.viewMu.Unlock()
	v, err := p.view(layer)
	if err != nil {
		return nil, err
	}
	v.refs++
	return v.m, nil
}

func (p *Pool) releaseView(layer uint32) {
	p.viewMu.Lock()
	defer p.viewMu.Unlock()
	if v := p.views[layer]; v != nil { // gone with its layer, if that was deleted
		v.refs--
	}
	p.dropViews()
}

// viewMap returns the extent map of a layer without keeping it.
func (p *Pool) viewMap(layer uint32) (*extentMap, error) {
	if m := p.pins.get(layer); m != nil {
		return m, nil
	}
	p.viewMu.Lock()
	defer p.viewMu.Unlock()
	v, err := p.view(layer)
	if err != nil {
		return nil, err
	}
	return v.m, nil
}

// view finds or builds the view of a layer. viewMu is held.
func (p *Pool) view(layer uint32) (*view, error) {
	p.viewTick++
	for {
		if v := p.kept(layer); v != nil {
			return v, nil
		}
		m, chain, err := p.buildView(layer)
		if err == nil {
			v := &view{m: m, used: p.viewTick}
			p.views[layer] = v
			p.dropViews()
			return v, nil
		}
		if !p.changed(chain) {
			return nil, fmt.Errorf("blockdev: map of layer %08x: %w", layer, err)
		}
		// A layer was merged into another, or removed, in the middle of it.
	}
}

// buildView lays over the nearest view below a layer that is in memory the
// presence maps from there up. chain are the records it went by, as far as it
// came.
func (p *Pool) buildView(layer uint32) (m *extentMap, chain []*layerRecord, err error) {
	m = p.maps.newMap()
	for id := layer; id != 0; {
		if v := p.kept(id); v != nil {
			m = v.m.clone()
			break
		}
		r := p.cat.layer(id)
		if r == nil || len(chain) > maxOrigin {
			return nil, chain, errorf(ErrCorrupt, catalogueFile, "layer %08x is missing", id)
		}
		if err := p.brokenLayer(id); err != nil {
			return nil, chain, err
		}
		chain = append(chain, r)
		id = r.Parent
	}
	for _, r := range slices.Backward(chain) {
		if err := p.overlayLayer(m, r.ID); err != nil {
			return nil, chain, err
		}
	}
	return m, chain, nil
}

// changed tells whether any of some records is not in the catalogue any more.
func (p *Pool) changed(records []*layerRecord) bool {
	return slices.ContainsFunc(records, func(r *layerRecord) bool { return p.cat.layer(r.ID) != r })
}

// kept returns the view of a layer if its map is in memory. viewMu is held.
func (p *Pool) kept(layer uint32) *view {
	v := p.views[layer]
	if v == nil {
		m := p.pins.get(layer)
		if m == nil {
			return nil
		}
		v = &view{m: m}
		p.views[layer] = v
	}
	v.used = p.viewTick
	return v
}

// overlayLayer lays the presence map of a sealed layer over m, and notes if it
// is damaged, or cannot be read while the pool is opened.
func (p *Pool) overlayLayer(m *extentMap, layer uint32) error {
	err := p.overlayPresence(m, layer)
	if p.opening {
		err = unreadable(layer, err)
	}
	if isDamage(err) && p.cat.layer(layer) != nil { // else it was just removed
		p.breakLayer(layer, err)
	}
	return err
}

// overlayPresence lays the presence map of a sealed layer over m.
func (p *Pool) overlayPresence(m *extentMap, layer uint32) error {
	r, err := openPresence(p.fs, layer)
	if err != nil {
		return err
	}
	err = r.leaves(func(index uint64, vals *[leafBlocks]place) error {
		return m.overlayLeaf(index, vals)
	})
	return errors.Join(err, r.close())
}

// dropViews forgets views that nobody uses, all but the latest few. viewMu is
// held.
func (p *Pool) dropViews() {
	for {
		spare, oldest := 0, uint32(0)
		for id, v := range p.views {
			if v.refs > 0 {
				continue
			}
			spare++
			if oldest == 0 || v.used < p.views[oldest].used {
				oldest = id
			}
		}
		if spare <= spareViews {
			return
		}
		delete(p.views, oldest)
	}
}

// forgetView drops the map of a layer that is gone.
func (p *Pool) forgetView(layer uint32) {
	p.viewMu.Lock()
	defer p.viewMu.Unlock()
	delete(p.views, layer)
}
