package blockdev

import (
	"errors"
	"fmt"
)

// A view is the extent map of a sealed layer in memory. Views are made when
// first needed; those in use, those of layers not sealed yet, and a few more
// are kept.
type view struct {
	m      *extentMap
	refs   int
	pinned bool   // the layer's presence map is not written yet
	used   uint64 // when last asked for, by the count of askings
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
	p.viewMu.Lock()
	defer p.viewMu.Unlock()
	v, err := p.view(layer)
	if err != nil {
		return nil, err
	}
	return v.m, nil
}

// view finds or builds the view of a layer: the nearest view below it that
// is in memory, with the presence maps between laid over it. viewMu is held.
func (p *Pool) view(layer uint32) (*view, error) {
	p.viewTick++
	var chain []uint32
	m := (*extentMap)(nil)
	for id := layer; id != 0; {
		if v := p.views[id]; v != nil {
			v.used = p.viewTick
			if id == layer {
				return v, nil
			}
			m = v.m.clone()
			break
		}
		r := p.cat.layer(id)
		if r == nil || len(chain) > maxOrigin {
			return nil, errorf(ErrCorrupt, catalogueFile, "layer %08x is missing", id)
		}
		chain = append(chain, id)
		id = r.Parent
	}
	if m == nil {
		m = newExtentMap()
	}
	for i := len(chain) - 1; i >= 0; i-- {
		if err := p.overlayPresence(m, chain[i]); err != nil {
			return nil, fmt.Errorf("blockdev: map of layer %08x: %w", layer, err)
		}
	}
	v := &view{m: m, used: p.viewTick}
	p.views[layer] = v
	p.dropViews()
	return v, nil
}

// overlayPresence lays the presence map of a sealed layer over m.
func (p *Pool) overlayPresence(m *extentMap, layer uint32) error {
	r, err := openPresence(p.fs, layer)
	if err != nil {
		return err
	}
	err = r.leaves(func(index uint64, vals *[leafBlocks]place) error {
		m.overlayLeaf(index, &leaf{vals: vals})
		return nil
	})
	return errors.Join(err, r.close())
}

// dropViews forgets views that nobody uses, all but the latest few. viewMu is
// held.
func (p *Pool) dropViews() {
	for {
		spare, oldest := 0, uint32(0)
		for id, v := range p.views {
			if v.refs > 0 || v.pinned {
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

// pinView keeps the map of a layer that was just swapped out until it is
// sealed.
func (p *Pool) pinView(layer uint32, m *extentMap) {
	p.viewMu.Lock()
	defer p.viewMu.Unlock()
	p.viewTick++
	p.views[layer] = &view{m: m, pinned: true, used: p.viewTick}
}

func (p *Pool) unpinView(layer uint32) {
	p.viewMu.Lock()
	defer p.viewMu.Unlock()
	if v := p.views[layer]; v != nil {
		v.pinned = false
	}
	p.dropViews()
}

// forgetView drops the map of a layer that is gone.
func (p *Pool) forgetView(layer uint32) {
	p.viewMu.Lock()
	defer p.viewMu.Unlock()
	delete(p.views, layer)
}
