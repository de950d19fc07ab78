package blockdev

import (
	"cmp"
	"context"
	"slices"

	"github.com/google/uuid"
)

// maxNameBytes bounds the names of LUNs and snapshots.
const maxNameBytes = 64

// ValidName returns why a name is not one for a LUN or snapshot, nil if it is:
// 1 to 64 of the characters A-Z a-z 0-9 . _ -, the first a letter or digit.
func ValidName(name string) error {
	ok := len(name) >= 1 && len(name) <= maxNameBytes
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		alphanumeric := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		ok = alphanumeric || i > 0 && (c == '.' || c == '_' || c == '-')
	}
	if !ok {
		if len(name) > maxNameBytes {
			name = name[:maxNameBytes] + "…"
		}
		return errorf(ErrInvalid, "name", "%q: use 1 to %d of A-Z a-z 0-9 . _ -, beginning with a letter or digit", name, maxNameBytes)
	}
	return nil
}

func validSize(sizeBytes int64) error {
	if sizeBytes < BlockSize || sizeBytes > MaxLUNBytes || sizeBytes%BlockSize != 0 {
		return errorf(ErrInvalid, "size", "%d bytes: a LUN has a multiple of %d bytes, up to 100 TiB", sizeBytes, BlockSize)
	}
	return nil
}

func sortLUNs(luns []*lun) {
	slices.SortFunc(luns, func(a, b *lun) int { return cmp.Compare(a.id, b.id) })
}

func (p *Pool) lunByID(id uint64) *lun {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.luns[id]
}

// LUNs describes all LUNs, by name.
func (p *Pool) LUNs() ([]LUNInfo, error) {
	p.cat.mu.RLock()
	records := make([]*lunRecord, 0, len(p.cat.luns))
	for _, r := range p.cat.luns {
		records = append(records, r)
	}
	p.cat.mu.RUnlock()
	slices.SortFunc(records, func(a, b *lunRecord) int { return cmp.Compare(a.Name, b.Name) })
	out := make([]LUNInfo, 0, len(records))
	for _, r := range records {
		if l := p.lunByID(r.ID); l != nil {
			out = append(out, l.info(r))
		}
	}
	return out, nil
}

// LUN describes one LUN.
func (p *Pool) LUN(name string) (LUNInfo, error) {
	r, err := p.cat.findLUN(name)
	if err != nil {
		return LUNInfo{}, err
	}
	l := p.lunByID(r.ID)
	if l == nil {
		return LUNInfo{}, &Error{Object: lunObject(name), Class: ErrNotFound}
	}
	return l.info(r), nil
}

func (l *lun) info(r *lunRecord) LUNInfo {
	snapshots := 0
	l.pool.cat.mu.RLock()
	for _, s := range l.pool.cat.snapshots {
		if s.LUN == r.ID {
			snapshots++
		}
	}
	l.pool.cat.mu.RUnlock()
	h, m := l.currentHead(), l.m.Load()
	unique, err := m.countBlocks(h.inPlace)
	if err != nil {
		l.pool.log.Warn("blocks of a LUN not counted", "lun", r.Name, "error", err)
	}
	info := LUNInfo{
		ID: r.ID, UUID: r.UUID, Name: r.Name, SizeBytes: r.SizeBytes, Created: r.Created, Failed: l.pool.cat.failure(r.ID),
		Origin: r.Origin, Clients: l.handles.count(), Snapshots: snapshots,
		MappedBytes: int64(m.dataBlocks()) * BlockSize,
		UniqueBytes: int64(unique) * BlockSize,
	}
	if e := l.failed.Load(); e != nil && info.Failed == "" {
		info.Failed = e.Error()
	}
	return info
}

// CreateLUN makes a LUN of sizeBytes that reads as zeros.
func (p *Pool) CreateLUN(ctx context.Context, name string, sizeBytes int64) (LUNInfo, error) {
	if err := validSize(sizeBytes); err != nil {
		return LUNInfo{}, err
	}
	if err := p.begin(ctx); err != nil {
		return LUNInfo{}, err
	}
	defer p.opMu.Unlock()
	return p.createLUN(lunRecord{Name: name, SizeBytes: sizeBytes}, 0, p.maps.newMap())
}

// createLUN makes a LUN whose head stands on a layer, 0 for none, with the map
// m. opMu is held.
func (p *Pool) createLUN(r lunRecord, parent uint32, m *extentMap) (LUNInfo, error) {
	if err := ValidName(r.Name); err != nil {
		return LUNInfo{}, err
	}
	if p.cat.lunByName(r.Name) != nil {
		return LUNInfo{}, &Error{Object: lunObject(r.Name), Class: ErrExists}
	}
	if err := p.admit(); err != nil {
		return LUNInfo{}, err
	}
	next := p.cat.pool
	layer := layerRecord{ID: next.NextLayer, Parent: parent, Blocks: uint64(r.SizeBytes / BlockSize), Origins: []uint32{next.NextLayer}}
	r.ID, r.Head, r.UUID, r.Created = next.NextLUN, layer.ID, uuid.NewString(), p.now().UTC()
	next.NextLUN++
	next.NextLayer++
	h, err := p.commitHead(layer, putLUN(r), putPool(next))
	if err != nil {
		return LUNInfo{}, err
	}
	h.below = m.clone()
	l := &lun{pool: p, id: r.ID, head: h}
	l.size.Store(r.SizeBytes)
	l.m.Store(m)
	p.mu.Lock()
	p.luns[r.ID] = l
	p.mu.Unlock()
	return l.info(&r), nil
}

// commitHead makes the files of a new head and commits its layer with further
// changes.
func (p *Pool) commitHead(layer layerRecord, changes ...change) (*head, error) {
	j, err := p.prepareLayer(layer.ID)
	if err != nil {
		return nil, p.prepareError("new layer", err)
	}
	h := newHead(layer.ID, j, layer.Origins)
	err = p.syncLayerNames()
	if err == nil {
		err = p.cat.commit(append(changes, putLayer(layer))...)
	}
	if err != nil {
		p.abandon([]*head{h})
		return nil, p.prepareError("new layer", err)
	}
	return h, nil
}

// ResizeLUN makes a LUN larger; what is added reads as zeros. LUNs do not
// shrink.
func (p *Pool) ResizeLUN(ctx context.Context, name string, sizeBytes int64) (LUNInfo, error) {
	if err := validSize(sizeBytes); err != nil {
		return LUNInfo{}, err
	}
	if err := p.begin(ctx); err != nil {
		return LUNInfo{}, err
	}
	defer p.opMu.Unlock()
	r, err := p.cat.findLUN(name)
	if err != nil {
		return LUNInfo{}, err
	}
	l := p.lunByID(r.ID)
	if err := l.usable(); err != nil {
		return LUNInfo{}, err
	}
	if sizeBytes < r.SizeBytes {
		return LUNInfo{}, errorf(ErrInvalid, lunObject(name), "has %d bytes and cannot shrink to %d: what lies beyond would be lost", r.SizeBytes, sizeBytes)
	}
	grown, layer := *r, *p.cat.layer(r.Head)
	grown.SizeBytes = sizeBytes
	layer.Blocks = uint64(sizeBytes / BlockSize)
	if err := p.cat.commit(putLUN(grown), putLayer(layer)); err != nil {
		return LUNInfo{}, err
	}
	l.size.Store(sizeBytes)
	return l.info(&grown), nil
}

// RenameLUN gives a LUN another name. Open volumes stay open.
func (p *Pool) RenameLUN(ctx context.Context, name, newName string) (LUNInfo, error) {
	if err := ValidName(newName); err != nil {
		return LUNInfo{}, err
	}
	if err := p.begin(ctx); err != nil {
		return LUNInfo{}, err
	}
	defer p.opMu.Unlock()
	r, err := p.cat.findLUN(name)
	if err != nil {
		return LUNInfo{}, err
	}
	if name != newName && p.cat.lunByName(newName) != nil {
		return LUNInfo{}, &Error{Object: lunObject(newName), Class: ErrExists}
	}
	renamed := *r
	renamed.Name = newName
	if err := p.cat.commit(putLUN(renamed)); err != nil {
		return LUNInfo{}, err
	}
	return p.lunByID(r.ID).info(&renamed), nil
}

// DeleteLUN deletes a LUN and gives its space back. ErrInUse if clients are
// connected or it has snapshots, ErrLocked if one of them is locked, unless
// the options allow it; clones made from its snapshots stay.
func (p *Pool) DeleteLUN(ctx context.Context, name string, o DeleteLUNOptions) error {
	l, err := p.removeLUN(ctx, name, o)
	if err != nil {
		return err
	}
	l.retire()
	p.forgetRetired(l)
	p.maintenance.wake()
	return nil
}

// removeLUN commits to the catalogue that a LUN is gone and ends its I/O.
func (p *Pool) removeLUN(ctx context.Context, name string, o DeleteLUNOptions) (*lun, error) {
	if err := p.begin(ctx); err != nil {
		return nil, err
	}
	defer p.opMu.Unlock()
	r, err := p.cat.findLUN(name)
	if err != nil {
		return nil, err
	}
	snapshots := p.snapshotRecords(r.ID)
	if len(snapshots) > 0 && !o.WithSnapshots {
		return nil, errorf(ErrInUse, lunObject(name), "has %d snapshots: delete them first, or with it", len(snapshots))
	}
	changes := []change{deleteLUN(r.ID), deleteFailure(r.ID)}
	for _, s := range snapshots {
		if err := p.deletable(r, s, o.Force); err != nil {
			return nil, err
		}
		changes = append(changes, deleteSnapshot(s.ID))
	}
	l := p.lunByID(r.ID)
	if n := l.handles.count(); n > 0 && !o.Force {
		return nil, errorf(ErrInUse, lunObject(name), "%d clients are connected (%s)", n, l.handles.names())
	}
	if err := p.cat.commit(changes...); err != nil {
		return nil, err
	}
	for _, s := range snapshots {
		p.forgetSnapshot(s.ID)
	}
	l.handles.expire()
	return l, nil
}

// retire ends what is under way in a LUN that was deleted and drops its head.
// The layers that were swapped out and are not sealed yet still are: clones may
// stand on them.
func (l *lun) retire() {
	h := l.stop()
	l.roomMu.Lock()
	defer l.roomMu.Unlock()
	l.maintainMu.Lock()
	defer l.maintainMu.Unlock()
	h.drop(l.pool.segments)
	if err := h.journal.close(); err != nil {
		l.pool.log.Warn("journal of a deleted LUN", "layer", h.layer, "error", err)
	}
}

// forgetRetired forgets a LUN that was deleted, once all its layers are sealed.
func (p *Pool) forgetRetired(l *lun) {
	if !l.gone.Load() || len(l.oldHeads()) > 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.luns, l.id)
}

// drop forgets what the layer wrote and did not sync.
func (h *head) drop(c *segmentCache) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.dirty {
		c.put(s)
	}
	c.dirty.Add(-int64(len(h.dirty)))
	h.dirty = nil
}
