package blockdev

import (
	"errors"
	"os"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// recoverLUN opens a LUN: its head's map over that of the layers below. It
// returns what is to be committed for it.
func (p *Pool) recoverLUN(r *lunRecord) ([]change, error) {
	layer := p.cat.layers[r.Head]
	if layer == nil {
		return nil, errorf(ErrCorrupt, catalogueFile, "layer %08x is missing", r.Head)
	}
	failed := p.cat.failure(r.ID)
	own, err := p.loadOwn(layer, failed != "")
	if err != nil {
		return nil, unreadable(layer.ID, err)
	}
	if own.scan == nil {
		return nil, errorf(ErrCorrupt, presenceName(layer.ID), "offset 16: the map of an open layer is marked sealed")
	}
	below, m := p.maps.newMap(), own.m
	if layer.Parent != 0 {
		view, err := p.viewMap(layer.Parent)
		if err != nil {
			return nil, err
		}
		below = view.clone()
		m = below.clone()
		if err := m.overlay(own.m); err != nil {
			return nil, err
		}
	}
	var changes []change
	l := &lun{pool: p, id: r.ID}
	l.size.Store(r.SizeBytes)
	l.m.Store(m)
	if failed != "" {
		l.failed.Store(&Error{Object: lunObject(r.Name), Class: ErrFailed, Detail: failed})
		l.head = newHead(layer.ID, &journal{err: ErrFailed}, layer.Origins)
	} else if changes, err = p.recoverHead(l, layer, own); err != nil {
		if l.head != nil {
			err = errors.Join(err, l.head.journal.close())
		}
		if isDamage(err) || !p.recordFailureAbove(layer.ID, err) {
			return nil, err
		}
		return p.recoverLUN(r) // as one that failed
	}
	l.head.below = below
	p.mu.Lock()
	p.luns[r.ID] = l
	p.mu.Unlock()
	return changes, nil
}

// recoverHead gives a head a journal to go on with: the one on disk if it is
// empty, else a new one after a checkpoint.
func (p *Pool) recoverHead(l *lun, r *layerRecord, own ownMap) ([]change, error) {
	last := own.scan.files[len(own.scan.files)-1].header
	// A process that died may have left anything in the page cache. Flushes
	// from now on sync only what they know to be dirty.
	if p.unclean {
		if err := p.syncOrigins(r.Origins); err != nil {
			return nil, err
		}
	}
	if own.scan.empty() {
		if p.unclean {
			if err := p.syncNames(layerDir(r.ID)); err != nil {
				return nil, err
			}
		}
		if err := p.removeJournals(r.ID, own.header.journalFrom); err != nil {
			return nil, err
		}
		j, err := reopenJournal(p.fs, r.ID, p.bootID, own.scan)
		if err != nil {
			return nil, err
		}
		l.head = newHead(r.ID, j, r.Origins)
		if own.header.leftover || p.unclean {
			return p.reclaimsOf(r), nil
		}
		return nil, nil
	}
	generation := last.generation + 1
	var j *journal
	if err := p.makeJournal(p.restingJournal(), func(length int64) (err error) {
		j, err = createJournal(p.fs, r.ID, p.bootID, generation, own.scan.nextSeq, length)
		return err
	}); err != nil {
		return nil, err
	}
	l.head = newHead(r.ID, j, r.Origins)
	if err := p.fs.SyncDir(layerDir(r.ID)); err != nil {
		return nil, err
	}
	h := presenceHeader{layer: r.ID, blocks: r.Blocks, journalFrom: generation, nextSeq: own.scan.nextSeq}
	if err := p.writePresence(h, own.m, newExtentMap(), func(at place) bool { return at != nowhere }); err != nil {
		return nil, err
	}
	if err := p.removeJournals(r.ID, generation); err != nil {
		return nil, err
	}
	return p.reclaimsOf(r), nil
}

// reopenJournal goes on with the first of a chain of journal files that are
// all empty, and removes the others.
func reopenJournal(fsys blockfile.FS, layer uint32, bootID string, scan *journalScan) (*journal, error) {
	h := scan.files[0].header
	for _, f := range scan.files[1:] {
		if err := fsys.Remove(journalName(layer, f.header.generation)); err != nil {
			return nil, err
		}
	}
	f, err := fsys.Open(journalName(layer, h.generation), os.O_RDWR)
	if err != nil {
		return nil, err
	}
	if h.bootID != bootID {
		// The part of the header in use fits one sector, so that it is
		// replaced as a whole or not at all.
		h.bootID = bootID
		_, err := f.WriteAt(h.encode()[:journalHeaderUsed], 0)
		if err == nil {
			err = f.Sync()
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	j := &journal{fs: fsys, layer: layer, bootID: bootID, nextSeq: scan.nextSeq, committed: scan.nextSeq - 1}
	j.files = []*journalFile{{file: f, generation: h.generation, salt: h.salt(), length: h.length, tail: journalHeaderSize}}
	j.added(j.files[0])
	return j, nil
}
