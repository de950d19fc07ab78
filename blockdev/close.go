package blockdev

import (
	"context"
	"errors"
	"time"
)

// Close makes everything durable and closes the pool. Open volumes return
// ErrClosed from now on.
func (p *Pool) Close() error {
	if p.closed.Swap(true) {
		return nil
	}
	p.scrubbing.end()
	p.summing.stop()
	p.compaction.stop()
	p.maintenance.stop()
	p.opMu.Lock()
	defer p.opMu.Unlock()
	var errs []error
	clean := p.cat.pool
	clean.Clean = true
	for _, l := range p.allLUNs() {
		errs = append(errs, l.close())
		clean.Clean = clean.Clean && l.tidy() && !l.broken
	}
	if clean.Clean && errors.Join(errs...) == nil {
		errs = append(errs, p.cat.commit(putPool(clean)))
	}
	// What closing took of the reserve and gave back is not to be anybody's.
	errs = append(errs, p.grace.wait(context.Background()), p.reserve.refill(), p.closeFiles())
	return errors.Join(errs...)
}

// close ends all I/O of the LUN and writes a last checkpoint.
func (l *lun) close() error {
	if l.broken {
		return nil // nothing of it was open
	}
	retired := l.gone.Load() // its head is closed already
	h := l.stop()
	l.roomMu.Lock()
	defer l.roomMu.Unlock()
	l.maintainMu.Lock()
	defer l.maintainMu.Unlock()
	open := l.oldHeads()
	var errs []error
	if e := l.failed.Load(); e != nil {
		errs = append(errs, e)
	} else {
		for _, o := range open {
			errs = append(errs, l.flushHead(o))
		}
		switch {
		case retired:
		case !h.journal.empty():
			trims := h.pendingTrims()
			frozen, err := l.checkpoint(h, nil)
			if frozen != nil {
				err = l.punchTrims(h, frozen, trims, func(time.Time) error { return nil })
			}
			if errors.Is(err, ErrNoSpace) || errors.Is(err, errMapLost) {
				err = l.flushHead(h) // the next opening makes the checkpoint
			}
			errs = append(errs, err)
		default:
			errs = append(errs, h.syncData(l.pool.segments))
		}
	}
	if !retired {
		open = append(open, h)
	}
	for _, o := range open {
		errs = append(errs, o.journal.close())
	}
	return errors.Join(errs...)
}

// tidy tells whether a LUN that was closed has no space to give back that only
// a scan would find again.
func (l *lun) tidy() bool {
	h := l.currentHead()
	return len(h.pendingTrims()) == 0 && !h.scan.Load()
}

// stop ends all writes and flushes for good and returns the open layer.
func (l *lun) stop() *head {
	l.gate.Lock()
	l.gone.Store(true)
	h := l.head
	l.gate.Unlock()
	l.flushing.Lock()
	defer l.flushing.Unlock()
	return h
}

func (p *Pool) closeFiles() error {
	var errs []error
	errs = append(errs, p.segments.close(), p.reserve.close(), p.maps.close())
	p.sums.close()
	if p.cat != nil {
		errs = append(errs, p.cat.table.Close())
	}
	errs = append(errs, p.lock.Close())
	return errors.Join(errs...)
}
