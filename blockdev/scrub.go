package blockdev

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// scrubbing is the scrub under way, at most one, and the last one.
type scrubbing struct {
	startMu sync.Mutex // one start, stop or end at a time
	quit    context.CancelFunc
	done    chan struct{} // nil if none was begun since the pool was opened

	mu     sync.Mutex
	record scrubRecord
}

// saveEvery is how often a scrub's progress is put on record.
const saveEvery = 30 * time.Second

// resumeScrub goes on with the scrub that the end of the last process cut off.
func (p *Pool) resumeScrub() {
	if r := p.cat.lastScrub(); r != nil && r.State == ScrubRunning {
		p.log.Info("scrub goes on", "done_bytes", r.DoneBytes, "total_bytes", r.TotalBytes)
		p.scrubbing.begin(p, *r)
	}
}

func (c *catalogue) lastScrub() *scrubRecord {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.scrub
}

func (s *scrubbing) begin(p *Pool, r scrubRecord) {
	s.mu.Lock()
	s.record = r
	s.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	s.quit, s.done = cancel, make(chan struct{})
	go p.scrub(ctx, s.done)
}

// end stops the scrub under way, if any, so that it can go on later.
func (s *scrubbing) end() {
	s.startMu.Lock()
	defer s.startMu.Unlock()
	s.halt()
}

func (s *scrubbing) halt() {
	if s.done != nil {
		s.quit()
		<-s.done
	}
}

// edit changes the record of the scrub under way and returns a copy.
func (s *scrubbing) edit(fn func(r *scrubRecord)) scrubRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn(&s.record)
	out := s.record
	out.Findings = slices.Clone(out.Findings)
	out.Unsummed = slices.Clone(out.Unsummed)
	return out
}

// StartScrub begins to read everything that the snapshots of a LUN hold, or one
// of them, or all for "", and to compare it with the sums. It goes on in the
// background, also after a restart. ErrInUse if one is running.
func (p *Pool) StartScrub(ctx context.Context, lun, snapshot string) (ScrubInfo, error) {
	s := &p.scrubbing
	s.startMu.Lock()
	defer s.startMu.Unlock()
	if err := p.begin(ctx); err != nil {
		return ScrubInfo{}, err
	}
	defer p.opMu.Unlock()
	if lun != "" {
		if _, err := p.cat.findLUN(lun); err != nil {
			return ScrubInfo{}, err
		}
	}
	if snapshot != "" {
		if _, _, err := p.cat.find(lun, snapshot); err != nil {
			return ScrubInfo{}, err
		}
	}
	if last, ok := p.lastScrub(); ok && last.State == ScrubRunning {
		return ScrubInfo{}, errorf(ErrInUse, "scrub", "one is running since %s: wait for it, or stop it", last.Started.Format(time.RFC3339))
	}
	s.halt() // it is done; its goroutine may not have ended
	r := scrubRecord{
		ScrubInfo: ScrubInfo{LUN: lun, Snapshot: snapshot, State: ScrubRunning, Started: p.now().UTC(), Findings: []ScrubFinding{}, Snapshots: []ScrubResult{}},
		Layer:     1, Limit: p.cat.pool.NextLayer,
	}
	for _, id := range p.scrubLayers(&r) {
		if pr, err := openPresence(p.fs, id); err == nil { // else it will be found
			r.TotalBytes += int64(pr.header.dataBlocks) * BlockSize
			if err := pr.close(); err != nil {
				return ScrubInfo{}, err
			}
		}
	}
	if err := p.cat.commit(putScrub(r)); err != nil {
		return ScrubInfo{}, err
	}
	p.summing.wake()
	s.begin(p, r)
	return r.ScrubInfo, nil
}

// StopScrub ends the scrub that is running and returns what it found until
// then. ErrNotFound if none is running.
func (p *Pool) StopScrub(ctx context.Context) (ScrubInfo, error) {
	s := &p.scrubbing
	s.startMu.Lock()
	defer s.startMu.Unlock()
	s.halt()
	if err := p.begin(ctx); err != nil {
		return ScrubInfo{}, err
	}
	defer p.opMu.Unlock()
	if last, ok := p.lastScrub(); !ok || last.State != ScrubRunning {
		return ScrubInfo{}, errorf(ErrNotFound, "scrub", "none is running")
	}
	stopped := s.edit(func(r *scrubRecord) {
		now := p.now().UTC()
		r.State, r.Finished = ScrubStopped, &now
	})
	return stopped.ScrubInfo, p.cat.commit(putScrub(stopped))
}

// LastScrub describes the scrub that is running, or the last one. ErrNotFound
// if there was none.
func (p *Pool) LastScrub() (ScrubInfo, error) {
	last, ok := p.lastScrub()
	if !ok {
		return ScrubInfo{}, errorf(ErrNotFound, "scrub", "there was none yet")
	}
	return last.ScrubInfo, nil
}

// lastScrub returns the last scrub, as it is at this moment.
func (p *Pool) lastScrub() (scrubRecord, bool) {
	if r := p.scrubbing.edit(func(*scrubRecord) {}); r.State != "" {
		return r, true
	}
	if r := p.cat.lastScrub(); r != nil {
		return *r, true
	}
	return scrubRecord{}, false
}

// scrubLayers lists the sealed layers that a scrub still has to read, ascending:
// a layer that is merged into another meanwhile is read with that one, whose id
// is greater.
func (p *Pool) scrubLayers(r *scrubRecord) []uint32 {
	c := p.cat
	c.mu.RLock()
	defer c.mu.RUnlock()
	wanted := make(map[uint32]bool)
	if r.LUN == "" {
		for id := range c.layers {
			wanted[id] = true
		}
	} else {
		for _, s := range c.snapshots {
			if l := c.luns[s.LUN]; l == nil || l.Name != r.LUN || r.Snapshot != "" && s.Name != r.Snapshot {
				continue
			}
			for at := c.layers[s.Layer]; at != nil && !wanted[at.ID]; at = c.layers[at.Parent] {
				wanted[at.ID] = true
			}
		}
	}
	var ids []uint32
	for id := range wanted {
		if layer := c.layers[id]; layer.Sealed && id >= r.Layer && id < r.Limit {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// scrub reads layer after layer until ctx ends.
func (p *Pool) scrub(ctx context.Context, done chan struct{}) {
	defer close(done)
	s := &p.scrubbing
	run := newScrubRun(p)
	defer run.close()
	saved := time.Now()
	run.read = func(r scrubRecord) {
		if now := time.Now(); now.Sub(saved) > saveEvery {
			p.saveScrub(r)
			saved = now
		}
	}
	for {
		r := s.edit(func(*scrubRecord) {})
		ids := p.scrubLayers(&r)
		if len(ids) == 0 {
			break
		}
		id := ids[0]
		if id != r.Layer {
			s.edit(func(r *scrubRecord) { r.Layer, r.Leaf = id, 0 })
		}
		if err := run.layer(ctx, id); err != nil { // ctx ended
			p.saveScrub(s.edit(func(*scrubRecord) {}))
			return
		}
		s.edit(func(r *scrubRecord) { r.Layer, r.Leaf = id+1, 0 })
	}
	final := s.edit(func(r *scrubRecord) {
		now := p.now().UTC()
		r.State, r.Finished = ScrubDone, &now
		r.Snapshots = p.verdicts(r)
	})
	p.saveScrub(final)
	p.log.Info("scrub is done", "bytes", final.DoneBytes, "findings", len(final.Findings)+final.MoreFindings, "unsummed_bytes", final.UnsummedBytes)
}

// saveScrub puts the progress of a scrub on record. Where that fails it begins
// again from the last record after a restart.
func (p *Pool) saveScrub(r scrubRecord) {
	if err := p.cat.commit(putScrub(r)); err != nil {
		p.log.Warn("progress of a scrub not recorded", "error", err)
	}
}

// verdicts sums up for each snapshot that the scrub was for.
func (p *Pool) verdicts(r *scrubRecord) []ScrubResult {
	c := p.cat
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := []ScrubResult{}
	for _, s := range c.snapshots {
		l := c.luns[s.LUN]
		if l == nil || s.Layer >= r.Limit || r.LUN != "" && l.Name != r.LUN || r.Snapshot != "" && s.Name != r.Snapshot {
			continue
		}
		v := ScrubResult{LUN: l.Name, Snapshot: s.Name, Verdict: Intact}
		for at := c.layers[s.Layer]; at != nil; at = c.layers[at.Parent] {
			if !at.Sealed || slices.Contains(r.Unsummed, at.ID) {
				v.Verdict = Unverified
			}
		}
		for _, f := range r.Findings {
			if slices.Contains(f.Snapshots, l.Name+"@"+s.Name) {
				v.Findings++
				v.Verdict = Damaged
			}
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b ScrubResult) int {
		return cmp.Or(cmp.Compare(a.LUN, b.LUN), cmp.Compare(a.Snapshot, b.Snapshot))
	})
	return out
}

// add puts a finding on the list, joined with the last one where both are one
// run.
func (r *scrubRecord) add(f ScrubFinding) {
	if n := len(r.Findings); n > 0 {
		last := &r.Findings[n-1]
		if f.LengthBytes > 0 && last.LengthBytes > 0 && last.File == f.File && last.What == f.What &&
			last.OffsetBytes+last.LengthBytes == f.OffsetBytes && last.FileOffsetBytes+last.LengthBytes == f.FileOffsetBytes &&
			slices.Equal(last.Snapshots, f.Snapshots) && slices.Equal(last.LUNs, f.LUNs) {
			last.LengthBytes += f.LengthBytes
			return
		}
		if slices.ContainsFunc(r.Findings, func(o ScrubFinding) bool {
			return o.File == f.File && o.What == f.What && o.FileOffsetBytes == f.FileOffsetBytes && o.OffsetBytes == f.OffsetBytes
		}) {
			return // it was found before a restart, or before a merge
		}
	}
	if len(r.Findings) >= maxFindings {
		r.MoreFindings++
		return
	}
	r.Findings = append(r.Findings, f)
}

// badBlock is a block of a layer that is not what it should be.
type badBlock struct {
	at    place
	block uint64
	what  string
	// snapshots and luns show it.
	snapshots, luns []string
}

// standing names the snapshots and LUNs that stand on a layer.
func (p *Pool) standing(layer uint32) (snapshots, luns []string) {
	for _, s := range p.snapshotRecords(0) {
		if l := p.cat.lun(s.LUN); l != nil && len(snapshots) < maxFindingsNames && p.standsOn(s.Layer, layer) {
			snapshots = append(snapshots, l.Name+"@"+s.Name)
		}
	}
	p.cat.mu.RLock()
	records := slices.Collect(maps.Values(p.cat.luns))
	p.cat.mu.RUnlock()
	for _, l := range records {
		if len(luns) < maxFindingsNames && p.standsOn(l.Head, layer) {
			luns = append(luns, l.Name)
		}
	}
	slices.Sort(luns)
	return snapshots, luns
}

// shownBy fills in who shows the blocks of a layer.
func (p *Pool) shownBy(layer uint32, bad []badBlock) {
	for _, s := range p.snapshotRecords(0) {
		l := p.cat.lun(s.LUN)
		if l == nil || !p.standsOn(s.Layer, layer) {
			continue
		}
		m, err := p.viewMap(s.Layer)
		if err != nil {
			continue // a finding of its own
		}
		for i := range bad {
			if b := &bad[i]; m.has(b.block, b.at) && len(b.snapshots) < maxFindingsNames {
				b.snapshots = append(b.snapshots, l.Name+"@"+s.Name)
			}
		}
	}
	for _, l := range p.allLUNs() {
		if p.cat.lun(l.id) == nil {
			continue // deleted
		}
		for i := range bad {
			if b := &bad[i]; l.m.Load().has(b.block, b.at) && len(b.luns) < maxFindingsNames {
				b.luns = append(b.luns, l.name())
			}
		}
	}
}

// standsOn tells whether a layer is another or stands on it.
func (p *Pool) standsOn(layer, on uint32) bool {
	p.cat.mu.RLock()
	defer p.cat.mu.RUnlock()
	for at := p.cat.layers[layer]; at != nil; at = p.cat.layers[at.Parent] {
		if at.ID == on {
			return true
		}
	}
	return false
}

// stillMapped returns those blocks that a sealed layer maps at this moment. A
// layer ceases to do so, durably, before a block is overwritten or punched.
func (p *Pool) stillMapped(layer uint32, bad []badBlock) []badBlock {
	own := p.maps.newMap()
	err := p.overlayPresence(own, layer)
	if r := p.cat.layer(layer); r == nil || !r.Sealed {
		return nil
	}
	if err != nil {
		return bad // the map is a finding of its own
	}
	return slices.DeleteFunc(bad, func(b badBlock) bool {
		at, err := own.at(b.block)
		return err == nil && at != b.at
	})
}

// findBlocks reports blocks of a leaf that are not what they should be, unless
// they went out of use while they were read.
func (p *Pool) findBlocks(layer uint32, bad []badBlock) {
	if len(bad) == 0 {
		return
	}
	if bad = p.stillMapped(layer, bad); len(bad) == 0 {
		return
	}
	if r := p.scrubbing.edit(func(*scrubRecord) {}); len(r.Findings) >= maxFindings {
		p.scrubbing.edit(func(r *scrubRecord) { r.MoreFindings += len(bad) })
		return // who shows them is not asked any more: that may take long
	}
	p.shownBy(layer, bad)
	for _, b := range bad {
		f := ScrubFinding{OffsetBytes: int64(b.block) * BlockSize, LengthBytes: BlockSize, What: b.what, Snapshots: b.snapshots, LUNs: b.luns}
		f.File, f.FileOffsetBytes = p.segmentOffset(b.at, b.block)
		p.find(f)
	}
}

// findFile reports a file of a layer that is damaged.
func (p *Pool) findFile(layer uint32, file string, err error) {
	if p.cat.layer(layer) == nil {
		return
	}
	f := ScrubFinding{File: file, What: err.Error()}
	if e, ok := errors.AsType[*Error](err); ok && e.Object == file {
		f.What = e.Detail
		if e.Cause != nil {
			f.What = fmt.Sprint(e.Cause)
		}
	}
	f.Snapshots, f.LUNs = p.standing(layer)
	p.find(f)
}

func (p *Pool) find(f ScrubFinding) {
	p.log.Error("scrub found damage", "snapshots", f.Snapshots, "luns", f.LUNs, "offset", f.OffsetBytes, "length", f.LengthBytes,
		"file", f.File, "file_offset", f.FileOffsetBytes, "what", f.What)
	p.scrubbing.edit(func(r *scrubRecord) { r.add(f) })
}
