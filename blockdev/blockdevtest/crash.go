package blockdevtest

import (
	"fmt"
	"maps"
	"math/rand/v2"
)

// Kind is a way to crash.
type Kind uint8

// The ways to crash.
const (
	// Kill is the death of the process: all that was written stays.
	Kill Kind = iota
	// PowerCut keeps and loses what was not synced by chance. How likely each
	// is, is drawn anew for each file and for the names, so that "the journal
	// but not the data" and its likes are met often.
	PowerCut
	// PowerCutLoseAll loses all that was not synced.
	PowerCutLoseAll
	// PowerCutKeepAll loses nothing but the boot id.
	PowerCutKeepAll
)

func (k Kind) String() string {
	switch k {
	case Kill:
		return "Kill"
	case PowerCut:
		return "PowerCut"
	case PowerCutLoseAll:
		return "PowerCutLoseAll"
	case PowerCutKeepAll:
		return "PowerCutKeepAll"
	}
	return fmt.Sprintf("Kind(%d)", k)
}

// Crash ends the session: all that is open dies and locks are released. A
// power cut also resolves, by seed, what became of the unsynced writes and
// names, and changes the boot id. Afterwards the disk works again, without
// StopAt and faults.
func (d *Disk) Crash(kind Kind, seed uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	rng := rand.New(rand.NewPCG(seed, 0x6372617368))
	if d.stopped != nil {
		d.settle(*d.stopped, rng)
	}
	d.gen++
	d.stopAt, d.stopped, d.faults = 0, nil, nil
	d.locks, d.tables = map[uint64]bool{}, map[uint64]bool{}
	d.st.open = map[uint64]int{}
	if kind != Kill {
		d.boot++
		newLoss(kind, rng).cut(d.st)
	}
	d.st.collect()
	d.st.recount()
	if d.st.capacity > 0 {
		// A filesystem gives out freed space only when the freeing is durable.
		// Here a hole punch may be lost whose space is in use again.
		d.st.capacity = max(d.st.capacity, d.st.allocated)
	}
}

// settle decides what became of the call that StopAt held back.
func (d *Disk) settle(c call, rng *rand.Rand) {
	var part *rand.Rand
	switch fate := rng.IntN(3); {
	case fate == 0:
		return
	case fate == 1 && c.class == WriteAt:
		part = rng
	}
	// A failure of the call is as good as its not having happened.
	_, _ = d.st.perform(c, part)
}

// loss resolves what was not synced at a power cut.
type loss struct {
	kind Kind
	rng  *rand.Rand
}

func newLoss(kind Kind, rng *rand.Rand) *loss { return &loss{kind: kind, rng: rng} }

// odds draws how many of four changes are kept.
func (l *loss) odds() int {
	switch l.kind {
	case PowerCutLoseAll:
		return 0
	case PowerCutKeepAll:
		return 4
	}
	return l.rng.IntN(5)
}

// cut makes the state what the disk has after the power cut.
func (l *loss) cut(st *state) {
	l.cutNames(st)
	for ino := uint64(rootInode); ino < st.next; ino++ { // in order, for the seed
		if st.inodes[ino] == nil {
			continue
		}
		n := st.own(ino)
		switch n.kind {
		case kindFile:
			l.cutData(st, n)
		case kindDir:
			n.names = maps.Clone(n.diskNames)
		}
	}
	st.relink()
}

func (l *loss) cutNames(st *state) {
	odds := l.odds()
	var lost []nameOp
	for _, op := range st.pending {
		keep := l.rng.IntN(4) < odds
		for _, earlier := range lost {
			keep = keep && !op.follows(earlier)
		}
		if keep {
			st.applyNames(op)
		} else {
			lost = append(lost, op)
		}
	}
	st.pending = nil
}

func (l *loss) cutData(st *state, n *inode) {
	odds, tear := l.odds(), l.kind == PowerCut && l.rng.IntN(2) == 0
	for _, op := range n.pending {
		if tear && l.rng.IntN(4) == 0 {
			grain := int64(sectorSize)
			if l.rng.IntN(2) == 0 {
				grain = pageSize
			}
			n.disk.applyPart(st.owner, op, grain, func() bool { return l.rng.IntN(2) == 0 })
			continue
		}
		if l.rng.IntN(4) < odds {
			n.disk.apply(st.owner, op)
		}
	}
	n.pending, n.pendingBytes = nil, 0
	n.cache = n.disk.share(st.owner)
}

// relink finds out which inodes have a name.
func (st *state) relink() {
	for ino := range st.inodes {
		st.own(ino).linked = ino == rootInode
	}
	var walk func(dir uint64)
	walk = func(dir uint64) {
		for _, ino := range st.inodes[dir].names {
			if n := st.inodes[ino]; !n.linked {
				n.linked = true
				walk(ino)
			}
		}
	}
	walk(rootInode)
}
