package history

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Result says how much a check covered.
type Result struct {
	Registers int
	Requests  int
	Freezes   int
	Reads     int // of registers, by requests and in snapshots
	Ambiguous int // reads of zeros that may belong to several discards
}

// cluster is a write of a register and the reads of its value.
type cluster struct {
	stamp    uint64
	zeros    bool
	write    span
	firstRet int64 // the earliest return of any of them
	lastCall int64 // the latest call of any of them
}

// before tells whether c must stand before d.
func (c *cluster) before(d *cluster) bool { return c.firstRet < d.lastCall }

func (c *cluster) join(s span) {
	c.firstRet = min(c.firstRet, s.ret)
	c.lastCall = max(c.lastCall, s.call)
}

func (c *cluster) String() string {
	switch {
	case c.stamp == 0:
		return "the zeros at the beginning"
	case c.zeros:
		return fmt.Sprintf("zeroing %d [%d, %d]", c.stamp, c.write.call, c.write.ret)
	default:
		return fmt.Sprintf("write %d [%d, %d]", c.stamp, c.write.call, c.write.ret)
	}
}

// observed is one read of a register.
type observed struct {
	span
	stamp  uint64
	freeze int // which, -1 for a request
}

// register is one word of a device.
type register struct {
	device, sector, edge int
	clusters             []cluster
	byStamp              map[uint64]int
	reads                []observed
	seen                 map[int]int // what a freeze found: its cluster
}

func (r *register) String() string {
	return fmt.Sprintf("device %d sector %d word %d", r.device, r.sector, r.edge*(SectorSize/wordSize-1))
}

// Check looks for an order that explains the history and says where there is
// none. It is called when all clients are done.
func (l *Log) Check() (Result, error) {
	regs, freezes, res := l.registers()
	for _, r := range regs {
		ambiguous, err := r.check()
		if err != nil {
			return res, fmt.Errorf("history: %v: %w\n%s", r, err, r.trail())
		}
		res.Ambiguous += ambiguous
	}
	for i, f := range freezes {
		if err := f.check(i, regs); err != nil {
			return res, fmt.Errorf("history: snapshot %s of devices %v [%d, %d]: %w", f.name, f.devices, f.call, f.ret, err)
		}
	}
	return res, nil
}

// registers takes the requests and freezes apart.
func (l *Log) registers() (regs []*register, freezes []freeze, res Result) {
	for d := range l.devices {
		for s := range l.sectors {
			for e := range edges {
				regs = append(regs, &register{
					device: d, sector: s, edge: e,
					clusters: []cluster{{zeros: true}},
					byStamp:  map[uint64]int{}, seen: map[int]int{},
				})
			}
		}
	}
	at := func(d, s, e int) *register { return regs[(d*l.sectors+s)*edges+e] }
	add := func(d, first int, found []value, o observed) {
		for i, v := range found {
			for e, stamp := range v {
				o.stamp = stamp
				r := at(d, first+i, e)
				r.reads = append(r.reads, o)
				res.Reads++
			}
		}
	}
	for _, c := range l.clients {
		for _, q := range c.requests {
			res.Requests++
			if q.stamp == 0 {
				add(q.device, q.sector, q.found, observed{span: q.span, freeze: -1})
				continue
			}
			for s := q.sector; s < q.sector+q.count; s++ {
				for e := range edges {
					at(q.device, s, e).change(q)
				}
			}
		}
		for _, f := range c.freezes {
			for i, d := range f.devices {
				add(d, 0, f.found[i], observed{span: f.span, freeze: len(freezes)})
			}
			freezes = append(freezes, f)
		}
	}
	res.Registers, res.Freezes = len(regs), len(freezes)
	return regs, freezes, res
}

func (r *register) change(q request) {
	if !q.zeros {
		r.byStamp[q.stamp] = len(r.clusters)
	}
	r.clusters = append(r.clusters, cluster{
		stamp: q.stamp, zeros: q.zeros, write: q.span, firstRet: q.ret, lastCall: q.call,
	})
}

// check tells how the register is not linearizable, and how many reads it
// passed over.
func (r *register) check() (ambiguous int, err error) {
	var ofZeros []observed
	for _, o := range r.reads {
		if o.stamp == 0 {
			ofZeros = append(ofZeros, o)
			continue
		}
		i, ok := r.byStamp[o.stamp]
		if !ok {
			return 0, fmt.Errorf("a read [%d, %d] found write %d, which did not go there", o.call, o.ret, o.stamp)
		}
		if err := r.join(i, o); err != nil {
			return 0, err
		}
	}
	if ambiguous, err = r.attribute(ofZeros); err != nil {
		return 0, err
	}
	for i := range r.clusters {
		a := &r.clusters[i]
		for j := range r.clusters[:i] {
			if b := &r.clusters[j]; a.before(b) && b.before(a) {
				return 0, fmt.Errorf("%v was seen both before and after %v: first return and last call are %d and %d, and %d and %d",
					a, b, a.firstRet, a.lastCall, b.firstRet, b.lastCall)
			}
		}
	}
	return ambiguous, nil
}

func (r *register) join(i int, o observed) error {
	c := &r.clusters[i]
	if o.ret < c.write.call {
		return fmt.Errorf("a read [%d, %d] found %v before it was submitted", o.call, o.ret, c)
	}
	c.join(o.span)
	if o.freeze >= 0 {
		r.seen[o.freeze] = i
	}
	return nil
}

// attribute finds the discard that each read of zeros belongs to.
func (r *register) attribute(reads []observed) (ambiguous int, err error) {
	// over is when something is known to have followed on a zeroing: reads that
	// are called later do not belong to it.
	over := map[int]int64{}
	for i := range r.clusters {
		z := &r.clusters[i]
		if !z.zeros {
			continue
		}
		over[i] = math.MaxInt64
		for j := range r.clusters {
			if b := &r.clusters[j]; j != i && z.before(b) {
				over[i] = min(over[i], b.firstRet)
			}
		}
	}
	var to []int
	for _, o := range reads {
		var fit []int
		for i, end := range over {
			if r.clusters[i].write.call < o.ret && o.call < end {
				fit = append(fit, i)
			}
		}
		switch len(fit) {
		case 0:
			return 0, fmt.Errorf("a read [%d, %d] found zeros, which no discard can have left", o.call, o.ret)
		case 1:
			to = append(to, fit[0])
		default:
			ambiguous++
			to = append(to, -1)
		}
	}
	for i, o := range reads {
		if to[i] >= 0 {
			if err := r.join(to[i], o); err != nil {
				return 0, err
			}
		}
	}
	return ambiguous, nil
}

// bounds are the points that a freeze can have happened at: between two
// readings of the clock and outside of gaps.
type bounds struct {
	span
	gaps        []span
	low, high   string // what set call and ret
	lowR, highR *register
}

// check looks for the point in time that a freeze was.
func (f *freeze) check(index int, regs []*register) error {
	b := bounds{span: f.span, low: "the call", high: "the return"}
	for _, r := range regs {
		if i, ok := r.seen[index]; ok {
			r.bound(i, &b)
		}
	}
	// The point t stands between the readings t and t+1.
	t := b.call
	slices.SortFunc(b.gaps, func(x, y span) int { return int(x.call - y.call) })
	for _, g := range b.gaps {
		if g.call <= t && t < g.ret {
			t = g.ret
		}
	}
	if t < b.ret {
		return nil
	}
	return fmt.Errorf("it is no one point in time: it must be after %d, by %s (%v), before %d, by %s (%v), and outside of %d spans",
		b.call, b.low, b.lowR, b.ret, b.high, b.highR, len(b.gaps))
}

// bound takes from b the points at which the register cannot have held the
// value of cluster i.
func (r *register) bound(i int, b *bounds) {
	v := &r.clusters[i]
	if v.write.call > b.call {
		b.call, b.low, b.lowR = v.write.call, fmt.Sprintf("the submission of %v, which is in", v), r
	}
	for j := range r.clusters {
		if j == i {
			continue
		}
		o := &r.clusters[j]
		switch {
		case v.before(o):
			if o.firstRet < b.ret {
				b.ret, b.high, b.highR = o.firstRet, fmt.Sprintf("%v, which followed %v, which is in", o, v), r
			}
		case o.before(v):
			if o.lastCall > b.call {
				b.call, b.low, b.lowR = o.lastCall, fmt.Sprintf("%v, which came before %v, which is in", o, v), r
			}
		case o.firstRet < o.lastCall:
			b.gaps = append(b.gaps, span{o.firstRet, o.lastCall})
		}
	}
}

// trail lists what happened to the register, in the order of the calls.
func (r *register) trail() string {
	type line struct {
		call int64
		text string
	}
	var lines []line
	for _, c := range r.clusters {
		lines = append(lines, line{c.write.call, c.String()})
	}
	for _, o := range r.reads {
		kind := "read"
		if o.freeze >= 0 {
			kind = "snapshot"
		}
		lines = append(lines, line{o.call, fmt.Sprintf("%s of %d [%d, %d]", kind, o.stamp, o.call, o.ret)})
	}
	slices.SortStableFunc(lines, func(a, b line) int { return int(a.call - b.call) })
	var text strings.Builder
	for _, l := range lines {
		fmt.Fprintln(&text, l.text)
	}
	return text.String()
}
