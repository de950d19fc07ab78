package blockdev

import (
	"context"
	"maps"
	"slices"
)

// CheckMaps rebuilds the extent map of every LUN, and of the snapshots whose
// maps are in memory, from presence maps and journals, and compares it with
// the map that I/O goes by. The error is ErrCorrupt if one differs. LUNs that
// failed are passed over: what they hold in memory is lost. A LUN's I/O waits
// while its map is compared.
func (p *Pool) CheckMaps(ctx context.Context) error {
	p.maintenance.runMu.Lock() // blocks are moved under it
	defer p.maintenance.runMu.Unlock()
	for _, l := range p.allLUNs() {
		if err := l.checkMap(ctx); err != nil {
			return err
		}
	}
	if err := p.begin(ctx); err != nil {
		return err
	}
	defer p.opMu.Unlock()
	failed := p.layersOfFailed()
	kept := p.keptMaps()
	for _, layer := range slices.Sorted(maps.Keys(kept)) {
		if p.cat.layer(layer) == nil || failed[layer] {
			continue
		}
		if err := p.compareMap(ctx, layer, kept[layer]); err != nil {
			return err
		}
	}
	return nil
}

// keptMaps returns the maps in memory of layers that are not open.
func (p *Pool) keptMaps() map[uint32]*extentMap {
	p.viewMu.Lock()
	defer p.viewMu.Unlock()
	p.pins.mu.Lock()
	defer p.pins.mu.Unlock()
	kept := maps.Clone(p.pins.maps)
	if kept == nil {
		kept = make(map[uint32]*extentMap)
	}
	for layer, v := range p.views {
		kept[layer] = v.m
	}
	return kept
}

func (l *lun) checkMap(ctx context.Context) error {
	l.maintainMu.Lock()
	defer l.maintainMu.Unlock()
	if err := l.pool.begin(ctx); err != nil {
		return err
	}
	defer l.pool.opMu.Unlock()
	l.gate.Lock()
	defer l.gate.Unlock()
	if l.usable() != nil {
		return nil
	}
	return l.pool.compareMap(ctx, l.head.layer, l.m.Load())
}

// compareMap compares the map of a layer with what the disk says. opMu is
// held, and nothing is written to the layer.
func (p *Pool) compareMap(ctx context.Context, layer uint32, m *extentMap) error {
	rebuilt, err := p.rebuildMap(ctx, layer)
	if err != nil {
		return err
	}
	return eachDifference(m, rebuilt, func(block, count uint64, in, other place) error {
		return errorf(ErrCorrupt, presenceName(layer), "%d blocks from %d are at %#x in memory, at %#x on disk", count, block, uint32(in), uint32(other))
	}, 0, max(m.end(), rebuilt.end()))
}

// rebuildMap lays what the layers from the bottom up to a layer have on disk
// over one another.
func (p *Pool) rebuildMap(ctx context.Context, layer uint32) (*extentMap, error) {
	var chain []*layerRecord
	for id := layer; id != 0; {
		r := p.cat.layer(id)
		if r == nil {
			return nil, errorf(ErrCorrupt, catalogueFile, "layer %08x is missing", id)
		}
		chain = append(chain, r)
		id = r.Parent
	}
	m := p.maps.newMap()
	for _, r := range slices.Backward(chain) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if r.Sealed {
			if err := p.overlayPresence(m, r.ID); err != nil {
				return nil, err
			}
			continue
		}
		own, err := p.loadOwn(r, false)
		if err != nil {
			return nil, err
		}
		if err := m.overlay(own.m); err != nil {
			return nil, err
		}
	}
	return m, nil
}
