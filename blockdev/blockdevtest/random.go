package blockdevtest

import "math/rand/v2"

// Random makes cases by seed.
type Random struct {
	Config Config
	// Rounds of about Ops operations each.
	Rounds, Ops int
	// Concurrent includes operations at the same time, with which a case does
	// not run the same way twice.
	Concurrent bool
}

// Case returns the case of a seed. Most rounds end with a crash, some with
// another one in the recovery.
func (x Random) Case(seed uint64) Case {
	g := generator{rng: rand.New(rand.NewPCG(seed, 0x6f7073)), config: x.Config.withDefaults(), concurrent: x.Concurrent}
	c := Case{Config: x.Config}
	for range x.Rounds {
		n := 1 + g.rng.IntN(2*x.Ops)
		r := Round{Ops: make([]Op, n)}
		for i := range r.Ops {
			r.Ops[i] = g.op()
		}
		for again := g.rng.IntN(4) > 0; again && len(r.Crashes) < 3; again = g.rng.IntN(3) == 0 {
			calls := int64(4 * n)
			if len(r.Crashes) > 0 {
				calls = 20 // of a recovery
			}
			r.Crashes = append(r.Crashes, g.crash(calls))
		}
		c.Rounds = append(c.Rounds, r)
	}
	return c
}

// generator makes operations.
type generator struct {
	rng        *rand.Rand
	config     Config
	concurrent bool
}

// crash returns a crash within about as many calls.
func (g *generator) crash(calls int64) Crash {
	kinds := []Kind{Kill, Kill, PowerCut, PowerCut, PowerCut, PowerCutLoseAll, PowerCutKeepAll}
	return Crash{Call: 1 + g.rng.Int64N(calls), Kind: kinds[g.rng.IntN(len(kinds))], Seed: g.rng.Uint64N(1 << 20)}
}

// op returns an operation; data operations are the most frequent.
func (g *generator) op() Op {
	o := Op{LUN: g.rng.IntN(g.config.MaxLUNs), Snap: g.rng.IntN(g.config.MaxSnapshots)}
	switch k := g.rng.IntN(100); {
	case k < 60:
		return g.data(o)
	case k < 70 && g.concurrent:
		return g.parallel()
	case k < 70:
		return g.data(o)
	case k < 77:
		o.Kind, o.Group = OpSnapshot, g.rng.IntN(3) == 0
	case k < 81:
		o.Kind = OpDeleteSnapshot
	case k < 84:
		o.Kind, o.Force = OpRevert, g.rng.IntN(2) == 0
	case k < 87:
		o.Kind = OpClone
	case k < 89:
		o.Kind, o.Force = OpDeleteLUN, g.rng.IntN(2) == 0
	case k < 92:
		o.Kind = OpSettle
	case k < 93:
		o.Kind = OpCompact
	case k < 95:
		o.Kind = OpReopen
	case k < 96:
		o.Kind = OpCreateLUN
	case k < 97:
		o.Kind, o.Len = OpResize, (1+g.rng.Int64N(g.config.Blocks/2))*pageSize
	case k < 98:
		o.Kind = []OpKind{OpRenameLUN, OpRenameSnapshot}[g.rng.IntN(2)]
	default:
		o.Kind = OpRead
	}
	return o
}

// data completes an operation on data.
func (g *generator) data(o Op) Op {
	kinds := []OpKind{OpWrite, OpWrite, OpWrite, OpWrite, OpFUA, OpDiscard, OpWriteZeroes, OpFlush}
	o.Kind = kinds[g.rng.IntN(len(kinds))]
	if o.Kind == OpFlush {
		return o
	}
	o.Off, o.Len = g.span()
	return o
}

// span returns a range: whole blocks, whole sectors, or bytes.
func (g *generator) span() (off, n int64) {
	size := g.config.bytes()
	unit, most := int64(pageSize), int64(1)
	switch g.rng.IntN(6) {
	case 0:
		most = 6
	case 1:
		unit, most = sectorSize, 7
	case 2:
		unit, most = sectorSize, 30
	case 3:
		unit, most = 1, 6000
	}
	off = g.rng.Int64N(size/unit) * unit
	return off, (1 + g.rng.Int64N(most)) * unit
}

// parallel returns operations for the same time: in one block or a few, with
// perhaps a flush and a snapshot.
func (g *generator) parallel() Op {
	o := Op{Kind: OpConcurrent}
	lun := g.rng.IntN(g.config.MaxLUNs)
	at := g.rng.Int64N(g.config.Blocks) * pageSize
	for range 2 + g.rng.IntN(4) {
		n := (1 + g.rng.Int64N(4)) * sectorSize
		kind := []OpKind{OpWrite, OpWrite, OpFUA, OpDiscard, OpWriteZeroes}[g.rng.IntN(5)]
		o.Parts = append(o.Parts, Op{Kind: kind, LUN: lun, Off: at, Len: n})
		at += n + g.rng.Int64N(3)*sectorSize
	}
	if g.rng.IntN(2) == 0 {
		o.Parts = append(o.Parts, Op{Kind: OpFlush, LUN: lun})
	}
	if g.rng.IntN(4) == 0 {
		o.Parts = append(o.Parts, Op{Kind: []OpKind{OpSettle, OpCompact}[g.rng.IntN(2)]})
	}
	switch g.rng.IntN(6) {
	case 0, 1:
		o.Parts = append(o.Parts, Op{Kind: OpSnapshot, LUN: lun, Group: g.rng.IntN(2) == 0})
	case 2:
		kinds := []OpKind{OpDeleteSnapshot, OpClone}
		o.Parts = append(o.Parts, Op{Kind: kinds[g.rng.IntN(2)], LUN: lun, Snap: g.rng.IntN(g.config.MaxSnapshots)})
	}
	return o
}
