package blockdevtest

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
)

// Model knows what a pool may hold. What is done to the pool is told to it in
// two steps, before and after, so that a crash between them finds it ready.
// Offsets and lengths are in bytes.
type Model struct {
	mu     sync.Mutex
	values *values
	tick   uint64 // counts what is told, to order it
	nextID int
	// worlds are the states of the names that are possible: one, or the one
	// before and the one after an action that is under way.
	worlds []*world
	// forgetful: the engine may have been unable to note that a LUN failed.
	forgetful bool
}

// world is one possible state of a pool.
type world struct{ luns []*modelLUN } // in the order of their making

type modelLUN struct {
	id        int // stays through renames
	name      string
	cut       bool // not read since a power cut, which has decided for good
	failed    bool // the engine said so, and must say so for ever
	sectors   []sector
	snapshots []*modelSnapshot // in the order of their making
}

type modelSnapshot struct {
	name    string
	sectors []sector
	open    bool // being taken: writes may still come into it
}

// NewModel returns the model of an empty pool.
func NewModel() *Model {
	return &Model{values: newValues(), worlds: []*world{{}}}
}

// Clone returns a copy, to follow several outcomes of one crash. Nothing may
// be under way.
func (m *Model) Clone() *Model {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &Model{values: m.values, tick: m.tick, nextID: m.nextID, forgetful: m.forgetful}
	for _, w := range m.worlds {
		c.worlds = append(c.worlds, w.clone())
	}
	return c
}

func (w *world) clone() *world {
	c := &world{}
	for _, l := range w.luns {
		n := &modelLUN{id: l.id, name: l.name, cut: l.cut, failed: l.failed, sectors: slices.Clone(l.sectors)}
		for _, s := range l.snapshots {
			n.snapshots = append(n.snapshots, &modelSnapshot{s.name, slices.Clone(s.sectors), s.open})
		}
		c.luns = append(c.luns, n)
	}
	return c
}

func (w *world) lun(name string) *modelLUN {
	i := slices.IndexFunc(w.luns, func(l *modelLUN) bool { return l.name == name })
	if i < 0 {
		return nil
	}
	return w.luns[i]
}

func (w *world) byID(id int) *modelLUN {
	i := slices.IndexFunc(w.luns, func(l *modelLUN) bool { return l.id == id })
	if i < 0 {
		return nil
	}
	return w.luns[i]
}

func (l *modelLUN) snapshot(name string) *modelSnapshot {
	i := slices.IndexFunc(l.snapshots, func(s *modelSnapshot) bool { return s.name == name })
	if i < 0 {
		return nil
	}
	return l.snapshots[i]
}

func sizeBytes(sectors []sector) int64 { return int64(len(sectors)) * sectorSize }

func (m *Model) now() uint64 {
	m.tick++
	return m.tick
}

// Write is a write, discard or zeroing that is under way.
type Write struct {
	m     *Model
	lun   int
	first int64     // sector
	after [][]value // for each sector, the values that it may have afterwards
}

// BeginWrite tells that p will be written to a LUN. A crash before Ack leaves
// each sector as it was or written.
func (m *Model) BeginWrite(lun string, p []byte, off int64) *Write {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.worlds[0].lun(lun)
	w := &Write{m: m, lun: l.id, first: off / sectorSize}
	for len(p) > 0 {
		in := off % sectorSize
		n := min(int64(len(p)), sectorSize-in)
		var after []value
		for _, v := range l.sectors[off/sectorSize].now() {
			after = append(after, m.values.overlay(v, p[:n], in))
		}
		w.after = append(w.after, after)
		p, off = p[n:], off+n
	}
	w.each(func(_ *modelLUN, at *sector, after []value) { *at = at.with(after) })
	for _, x := range m.worlds {
		w.intoSnapshots(x.byID(w.lun))
	}
	return w
}

// each calls fn for every sector of the write in every world.
func (w *Write) each(fn func(l *modelLUN, at *sector, after []value)) {
	for _, x := range w.m.worlds {
		l := x.byID(w.lun)
		if l == nil {
			continue
		}
		for i, after := range w.after {
			fn(l, &l.sectors[w.first+int64(i)], after)
		}
	}
}

// intoSnapshots lets the write into the snapshots that are being taken.
func (w *Write) intoSnapshots(l *modelLUN) {
	if l == nil {
		return
	}
	for _, s := range l.snapshots {
		if !s.open {
			continue
		}
		for i, after := range w.after {
			at := &s.sectors[w.first+int64(i)]
			*at = at.with(after)
		}
	}
}

// Ack tells that the write was acknowledged.
func (w *Write) Ack() {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	tick := w.m.now()
	w.each(func(_ *modelLUN, at *sector, after []value) { *at = at.only(after, tick) })
}

// Flush is a flush that is under way.
type Flush struct {
	m     *Model
	lun   int
	began uint64
}

// BeginFlush tells that a LUN will be flushed. A crash before Ack changes
// nothing.
func (m *Model) BeginFlush(lun string) *Flush {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &Flush{m: m, lun: m.worlds[0].lun(lun).id, began: m.now()}
}

// Ack tells that the flush was acknowledged: what was superseded before it
// began cannot come back.
func (f *Flush) Ack() {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	for _, w := range f.m.worlds {
		if l := w.byID(f.lun); l != nil {
			l.durable(f.began)
		}
	}
}

func (l *modelLUN) durable(tick uint64) {
	for i, s := range l.sectors {
		l.sectors[i] = s.since(tick)
	}
}

// Closed tells that the pool was closed cleanly: everything is durable.
func (m *Model) Closed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.worlds {
		for _, l := range w.luns {
			l.durable(m.tick)
		}
	}
}

// Crash tells that the pool crashed. What was under way stays undecided until
// it is read; Resolve decides on actions.
func (m *Model) Crash(kind Kind) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.worlds {
		for _, l := range w.luns {
			for _, s := range l.snapshots {
				s.open = false
			}
			if kind == Kill {
				continue
			}
			l.cut = true
			for i, s := range l.sectors {
				l.sectors[i] = s.afterCut()
			}
		}
	}
}

// Resolve compares the names and sizes in a pool with what there must be, and
// so finds out whether an action that was under way has happened. A LUN that
// the engine says has failed may have lost what was not flushed.
func (m *Model) Resolve(found []LUNState) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var matching []*world
	var expected []string
	for _, w := range m.worlds {
		s := formatState(w.state())
		expected = append(expected, s)
		if s == formatState(found) {
			matching = append(matching, w)
		}
	}
	switch len(matching) {
	case 0:
		return fmt.Errorf("the pool has %s, it must have %s", formatState(found), strings.Join(expected, " or "))
	case 1:
		m.worlds = matching
		return matching[0].admitLoss(found, m.forgetful)
	}
	return errors.New("an action that changes no name or size cannot be resolved")
}

// admitLoss lets the LUNs that failed have lost what was not flushed, as in a
// power cut. A LUN that failed stays so.
func (w *world) admitLoss(found []LUNState, forgetful bool) error {
	for _, f := range found {
		l := w.lun(f.Name)
		if l.failed && !f.Failed && !forgetful {
			return fmt.Errorf("LUN %s had failed, and has not any more", f.Name)
		}
		l.failed = f.Failed
		if !f.Failed {
			continue
		}
		for i, s := range l.sectors {
			l.sectors[i] = s.afterCut()
		}
	}
	return nil
}

// failures returns the names of the LUNs that failed.
func (m *Model) failures() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, l := range m.worlds[0].luns {
		if l.failed {
			names = append(names, l.name)
		}
	}
	return names
}

// State returns what there must be, when no action is under way.
func (m *Model) State() []LUNState {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.worlds[0].state()
}

func (w *world) state() []LUNState {
	var out []LUNState
	for _, l := range w.luns {
		s := LUNState{Name: l.name, SizeBytes: sizeBytes(l.sectors)}
		for _, x := range l.snapshots {
			s.Snapshots = append(s.Snapshots, SnapshotState{x.name, sizeBytes(x.sectors)})
		}
		out = append(out, s)
	}
	return out
}

// formatState writes a state in an order that does not matter.
func formatState(luns []LUNState) string {
	var out []string
	for _, l := range luns {
		s := fmt.Sprintf("%s(%d)", l.Name, l.SizeBytes)
		var snaps []string
		for _, x := range l.Snapshots {
			snaps = append(snaps, fmt.Sprintf("@%s(%d)", x.Name, x.SizeBytes))
		}
		slices.Sort(snaps)
		out = append(out, s+strings.Join(snaps, ""))
	}
	slices.Sort(out)
	return "{" + strings.Join(out, " ") + "}"
}

// CheckLUN compares a LUN with what it may hold. What was read is what it
// holds from then on.
func (m *Model) CheckLUN(name string, r io.ReaderAt) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.worlds[0].lun(name)
	if err := m.check("LUN "+name, l.sectors, r); err != nil {
		return err
	}
	if l.cut { // what the disk has now it keeps
		l.cut = false
		l.durable(m.tick)
	}
	return nil
}

// CheckSnapshot compares a snapshot with what it must hold.
func (m *Model) CheckSnapshot(lun, name string, r io.ReaderAt) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.worlds[0].lun(lun).snapshot(name)
	return m.check("snapshot "+lun+"@"+name, s.sectors, r)
}

func (m *Model) check(what string, sectors []sector, r io.ReaderAt) error {
	b := make([]byte, sizeBytes(sectors))
	if n, err := r.ReadAt(b, 0); err != nil && !(err == io.EOF && n == len(b)) {
		return fmt.Errorf("%s: read: %w", what, err)
	}
	tick := m.now()
	var bad []string
	for i, s := range sectors {
		off := int64(i) * sectorSize
		found := b[off : off+sectorSize]
		v, known := m.values.lookup((*[sectorSize]byte)(found))
		if !known || !slices.Contains(s.now(), v) {
			bad = append(bad, m.mismatch(off, found, s))
			continue
		}
		if len(s) > 1 {
			sectors[i] = s.only([]value{v}, tick)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	if len(bad) > 4 {
		bad = append(bad[:4], fmt.Sprintf("and %d more sectors", len(bad)-4))
	}
	return fmt.Errorf("%s:\n\t%s", what, strings.Join(bad, "\n\t"))
}

func (m *Model) mismatch(off int64, found []byte, s sector) string {
	var may []string
	for _, v := range s.now() {
		b := m.values.content(v)
		may = append(may, describe(b[:], off))
	}
	return fmt.Sprintf("sector at %d (block %d) holds %s; it may hold %s", off, off/pageSize, describe(found, off), strings.Join(may, " | "))
}
