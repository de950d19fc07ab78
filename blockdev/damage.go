package blockdev

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"syscall"
)

// Damage of one layer's files is the matter of the LUNs and snapshots that
// stand on it. They cannot be opened and say why; the others go on, and so does
// what maintenance there is that needs no damaged layer. Nothing of this is put
// on record: once the files are whole again, the next opening of the pool finds
// nothing wrong. A layer whose files cannot be read (EIO) while the pool is
// opened is treated in the same way.

// layerError is why a layer cannot be used, though it is not known to be
// damaged, until the pool is opened again.
type layerError struct {
	layer uint32
	cause error
}

func (e *layerError) Error() string { return fmt.Sprintf("layer %08x: %v", e.layer, e.cause) }
func (e *layerError) Unwrap() error { return e.cause }

// unreadable makes an error of reading a layer's files one of that layer, if it
// is that the disk below cannot read them.
func unreadable(layer uint32, err error) error {
	if isDamage(err) || !errors.Is(err, syscall.EIO) {
		return err
	}
	return &layerError{layer, err}
}

// breakLayer notes that a layer's map cannot be read.
func (p *Pool) breakLayer(layer uint32, err error) {
	p.brokenMu.Lock()
	defer p.brokenMu.Unlock()
	if p.broken == nil {
		p.broken = make(map[uint32]error)
	}
	if p.broken[layer] == nil {
		p.broken[layer] = err
		p.log.Error("a layer cannot be used", "layer", layer, "error", err)
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
// missing, or could not be read when the pool was opened, rather than that
// something could not be done to it.
func isDamage(err error) bool {
	_, isLayer := errors.AsType[*layerError](err)
	return isLayer || errors.Is(err, ErrCorrupt) || errors.Is(err, fs.ErrNotExist)
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

// maxFailures is how many failures PoolInfo lists.
const maxFailures = 64

// failures lists the LUNs that failed, and the snapshots that stand on layers
// which cannot be used, and how many more there are.
func (p *Pool) failures() (list []Failure, more int) {
	add := func(name, why string) {
		if len(list) < maxFailures {
			list = append(list, Failure{name, why})
		} else {
			more++
		}
	}
	luns := p.allLUNs()
	slices.SortFunc(luns, func(a, b *lun) int { return cmp.Compare(a.id, b.id) })
	for _, l := range luns {
		r := p.cat.lun(l.id)
		if r == nil {
			continue // deleted
		}
		if why := p.cat.failure(l.id); why != "" {
			add(r.Name, why)
		} else if e := l.failed.Load(); e != nil {
			add(r.Name, e.Error())
		}
	}
	p.brokenMu.Lock()
	broken := maps.Clone(p.broken)
	p.brokenMu.Unlock()
	if len(broken) == 0 {
		return list, more
	}
	for _, s := range p.snapshotRecords(0) {
		if err := p.brokenBelow(s.Layer, broken); err != nil {
			if l := p.cat.lun(s.LUN); l != nil {
				add(l.Name+"@"+s.Name, err.Error())
			}
		}
	}
	return list, more
}

// brokenBelow returns why a layer, or the first below it that cannot be used,
// cannot be. It notes in known what holds for the layers in between.
func (p *Pool) brokenBelow(layer uint32, known map[uint32]error) error {
	p.cat.mu.RLock()
	defer p.cat.mu.RUnlock()
	var passed []uint32
	var found error
	for at := p.cat.layers[layer]; at != nil; at = p.cat.layers[at.Parent] {
		if err, ok := known[at.ID]; ok {
			found = err
			break
		}
		passed = append(passed, at.ID)
	}
	for _, id := range passed {
		known[id] = found
	}
	return found
}
