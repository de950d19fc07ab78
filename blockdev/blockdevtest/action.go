package blockdevtest

import (
	"fmt"
	"slices"
)

// Action is an operation on the structure of a pool, by names.
type Action struct {
	// Kind is one of OpCreateLUN, OpResize, OpRenameLUN, OpDeleteLUN,
	// OpSnapshot, OpRevert, OpClone, OpDeleteSnapshot, OpRenameSnapshot,
	// OpSettle and OpCompact.
	Kind OpKind
	// LUNs are the LUNs concerned: several for OpSnapshot, else one, none for
	// OpSettle and OpCompact.
	LUNs     []string
	Snapshot string // OpRevert, OpClone, OpDeleteSnapshot, OpRenameSnapshot
	// NewName is the name of what is made or renamed: the LUN, the snapshots
	// of OpSnapshot, the snapshot that OpRevert saves the present state in.
	NewName   string
	SizeBytes int64 // OpCreateLUN, OpResize
	// Force: OpDeleteLUN and OpRevert go ahead though the LUN is open.
	Force bool
}

func (a Action) String() string {
	return fmt.Sprintf("%v %v @%s new name %q size %d force %v", a.Kind, a.LUNs, a.Snapshot, a.NewName, a.SizeBytes, a.Force)
}

// Manage is an action that is under way.
type Manage struct {
	m     *Model
	after *world
	began uint64
}

// BeginAction tells that an action will be done. After a crash before Ack, or
// a failure, Resolve finds out whether it was.
func (m *Model) BeginAction(a Action) *Manage {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := &Manage{m: m, began: m.now()}
	if a.Kind == OpSettle || a.Kind == OpCompact {
		return g
	}
	g.after = m.worlds[0].clone()
	m.apply(g.after, a)
	m.worlds = append(m.worlds[:1], g.after)
	return g
}

// Ack tells that the action was acknowledged.
func (g *Manage) Ack() {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	if g.after == nil {
		return
	}
	for _, l := range g.after.luns {
		for _, s := range l.snapshots {
			s.open = false
		}
	}
	g.m.worlds = []*world{g.after}
}

// apply does an action to a world.
func (m *Model) apply(w *world, a Action) {
	if a.Kind == OpCreateLUN {
		w.luns = append(w.luns, m.newLUN(a.NewName, zeroSectors(a.SizeBytes)))
		return
	}
	for _, name := range a.LUNs {
		m.applyTo(w, w.lun(name), a)
	}
}

func (m *Model) applyTo(w *world, l *modelLUN, a Action) {
	switch a.Kind {
	case OpResize:
		l.sectors = append(l.sectors, zeroSectors(a.SizeBytes-sizeBytes(l.sectors))...)
	case OpRenameLUN:
		l.name = a.NewName
	case OpDeleteLUN:
		w.luns = slices.DeleteFunc(w.luns, func(x *modelLUN) bool { return x == l })
	case OpSnapshot:
		m.freeze(l, a.NewName, true)
	case OpRevert:
		s := l.snapshot(a.Snapshot)
		m.freeze(l, a.NewName, false)
		l.sectors = slices.Clone(s.sectors)
	case OpClone:
		w.luns = append(w.luns, m.newLUN(a.NewName, slices.Clone(l.snapshot(a.Snapshot).sectors)))
	case OpDeleteSnapshot:
		l.snapshots = slices.DeleteFunc(l.snapshots, func(s *modelSnapshot) bool { return s.name == a.Snapshot })
	case OpRenameSnapshot:
		l.snapshot(a.Snapshot).name = a.NewName
	}
}

// freeze gives a LUN a snapshot of what it has now, which is then durable.
func (m *Model) freeze(l *modelLUN, name string, open bool) {
	l.durable(m.tick)
	s := &modelSnapshot{name: name, open: open}
	for _, x := range l.sectors {
		s.sectors = append(s.sectors, x.settled())
	}
	l.snapshots = append(l.snapshots, s)
}

func (m *Model) newLUN(name string, sectors []sector) *modelLUN {
	m.nextID++
	return &modelLUN{id: m.nextID, name: name, sectors: sectors}
}

func zeroSectors(bytes int64) []sector {
	s := make([]sector, bytes/sectorSize)
	zero := newSector(0)
	for i := range s {
		s[i] = zero
	}
	return s
}
