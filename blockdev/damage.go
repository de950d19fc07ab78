package blockdev

import (
	"errors"
	"io/fs"
)

// Damage of one layer's files is the matter of the LUNs and snapshots that
// stand on it. They cannot be opened and say why; the others go on, and so does
// what maintenance there is that needs no damaged layer. Nothing of this is put
// on record: once the files are whole again, the next opening of the pool finds
// nothing wrong.

// breakLayer notes that a layer's map cannot be read.
func (p *Pool) breakLayer(layer uint32, err error) {
	p.brokenMu.Lock()
	defer p.brokenMu.Unlock()
	if p.broken == nil {
		p.broken = make(map[uint32]error)
	}
	if p.broken[layer] == nil {
		p.broken[layer] = err
		p.log.Error("a layer is damaged", "layer", layer, "error", err)
	}
}

// brokenLayer returns why a layer's map cannot be read, nil if nothing is known
// to be wrong with it.
func (p *Pool) brokenLayer(layer uint32) error {
	p.brokenMu.Lock()
	defer p.brokenMu.Unlock()
	return p.broken[layer]
}

// isDamage tells whether an error means that a file of a layer is damaged or
// missing, rather than that something could not be done to it.
func isDamage(err error) bool {
	return errors.Is(err, ErrCorrupt) || errors.Is(err, fs.ErrNotExist)
}

// breakLUN takes up a LUN that cannot be opened, so that it can be shown and
// deleted.
func (p *Pool) breakLUN(r *lunRecord, cause error) {
	l := &lun{pool: p, id: r.ID, broken: true}
	l.size.Store(r.SizeBytes)
	l.m.Store(newExtentMap())
	l.failed.Store(&Error{Object: lunObject(r.Name), Class: ErrFailed, Detail: "cannot be opened", Cause: cause})
	var origins []uint32
	if layer := p.cat.layers[r.Head]; layer != nil {
		origins = layer.Origins
	}
	l.head = newHead(r.Head, &journal{err: ErrFailed}, origins)
	p.log.Error("LUN cannot be opened", "lun", r.Name, "error", cause)
	p.mu.Lock()
	p.luns[r.ID] = l
	p.mu.Unlock()
}
