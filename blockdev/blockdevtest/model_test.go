package blockdevtest

import (
	"bytes"
	"strings"
	"testing"
)

// modelPool is a model with one LUN "a" of one block, and the bytes that the
// test has it read as.
type modelPool struct {
	*testing.T
	m *Model
}

func newModelPool(t *testing.T) modelPool {
	p := modelPool{t, NewModel()}
	p.m.BeginAction(Action{Kind: OpCreateLUN, NewName: "a", SizeBytes: pageSize}).Ack()
	return p
}

// image is a block with stamps of writes in its first sectors.
func (p modelPool) image(ids ...uint64) []byte {
	b := make([]byte, pageSize)
	for i, id := range ids {
		if id > 0 {
			copy(b[i*sectorSize:], Stamp(id, int64(i)*sectorSize, sectorSize))
		}
	}
	return b
}

func (p modelPool) write(id uint64, sector, n int64) *Write {
	return p.m.BeginWrite("a", Stamp(id, sector*sectorSize, n*sectorSize), sector*sectorSize)
}

// may checks which images the LUN may read as, each in a copy of the model.
func (p modelPool) may(snapshot string, want bool, ids ...uint64) {
	p.Helper()
	c := p.m.Clone()
	r := bytes.NewReader(p.image(ids...))
	err := c.CheckLUN("a", r)
	if snapshot != "" {
		err = c.CheckSnapshot("a", snapshot, r)
	}
	if (err == nil) != want {
		p.Errorf("reads %v: %v, want allowed %v", ids, err, want)
	}
}

func TestModelOfAWrite(t *testing.T) {
	p := newModelPool(t)
	p.write(1, 0, 2).Ack()
	p.may("", true, 1, 1)
	p.may("", false, 0, 1)
	p.may("", false, 1, 2)
	p.write(2, 1, 2) // under way
	p.m.Crash(Kill)
	p.may("", true, 1, 2, 2)
	p.may("", true, 1, 1, 2)
	p.may("", true, 1, 1, 0)
	p.may("", false, 1, 0, 0)
	p.m.Crash(PowerCut)
	p.may("", true, 0, 0, 2)
	p.may("", true, 1, 0, 0)
	p.may("", false, 2, 0, 0)
}

func TestModelOfMisplacedData(t *testing.T) {
	p := newModelPool(t)
	p.write(1, 0, 2).Ack()
	b := p.image(1, 1)
	copy(b[512:], b[:512])
	err := p.m.CheckLUN("a", bytes.NewReader(b))
	if err == nil || !strings.Contains(err.Error(), "sector at 512 (block 0) holds write 1 for offset 0") {
		t.Errorf("misplaced data: %v", err)
	}
}

func TestModelOfAFlush(t *testing.T) {
	p := newModelPool(t)
	p.write(1, 0, 1).Ack()
	p.write(2, 0, 1).Ack()
	late := p.write(3, 1, 1)
	f := p.m.BeginFlush("a")
	p.write(4, 0, 1).Ack() // while the flush runs
	late.Ack()
	f.Ack()
	p.m.Crash(PowerCut)
	for _, first := range []uint64{2, 4} {
		p.may("", true, first, 3)
		p.may("", true, first, 0) // acknowledged after the flush began
	}
	p.may("", false, 1, 3)
	p.may("", false, 0, 3)
}

func TestModelOfAnUnfinishedFlush(t *testing.T) {
	p := newModelPool(t)
	p.write(1, 0, 1).Ack()
	p.m.BeginFlush("a")
	p.m.Crash(PowerCut)
	p.may("", true, 0)
	p.may("", true, 1)
}

func TestModelOfWhatWasRead(t *testing.T) {
	p := newModelPool(t)
	p.write(1, 0, 2).Ack()
	read := func(ids ...uint64) {
		t.Helper()
		if err := p.m.CheckLUN("a", bytes.NewReader(p.image(ids...))); err != nil {
			t.Fatal(err)
		}
	}
	p.write(2, 0, 1)
	p.m.Crash(Kill)
	read(2, 1)
	p.may("", false, 1, 1) // it does not change any more
	p.m.Crash(PowerCut)
	p.may("", true, 1, 0) // but the power cut may bring it back
	read(0, 1)
	p.m.Crash(PowerCut)
	p.may("", true, 0, 1)
	p.may("", false, 2, 1) // a second one may not
	p.may("", false, 0, 0)
}

func TestModelOfASnapshot(t *testing.T) {
	p := newModelPool(t)
	p.write(1, 0, 1).Ack()
	p.write(2, 0, 1).Ack()
	s := p.m.BeginAction(Action{Kind: OpSnapshot, LUNs: []string{"a"}, NewName: "s"})
	w := p.write(3, 1, 1) // beside it
	taken := func(is bool) []LUNState {
		l := LUNState{Name: "a", SizeBytes: pageSize}
		if is {
			l.Snapshots = []SnapshotState{{"s", pageSize}}
		}
		return []LUNState{l}
	}
	for _, is := range []bool{false, true} {
		c := modelPool{t, p.m.Clone()}
		c.m.Crash(PowerCut)
		if err := c.m.Resolve(taken(is)); err != nil {
			t.Fatal(err)
		}
		c.may("", true, 2, 3)
		c.may("", true, 2, 0)
		c.may("", !is, 1, 3) // durable if taken
		if is {
			c.may("s", true, 2, 0)
			c.may("s", true, 2, 3)
			c.may("s", false, 1, 0)
		}
	}
	w.Ack()
	s.Ack()
	p.write(4, 0, 1).Ack()
	p.may("s", true, 2, 3)
	p.may("s", true, 2, 0)
	p.may("s", false, 4, 3)
	p.may("", true, 4, 3)
	p.m.Crash(PowerCut)
	if err := p.m.Resolve(taken(false)); err == nil {
		t.Error("a snapshot may be lost")
	}
	p.may("", true, 2, 3)
	p.may("", true, 4, 0)
	p.may("", false, 1, 3)
}

func TestModelOfARevert(t *testing.T) {
	p := newModelPool(t)
	p.write(1, 0, 1).Ack()
	p.m.BeginAction(Action{Kind: OpSnapshot, LUNs: []string{"a"}, NewName: "s"}).Ack()
	p.write(2, 0, 1).Ack()
	p.m.BeginAction(Action{Kind: OpRevert, LUNs: []string{"a"}, Snapshot: "s", NewName: "saved"}).Ack()
	p.m.Crash(PowerCut)
	p.may("", true, 1)
	p.may("", false, 2)
	p.may("saved", true, 2)
	p.may("saved", false, 1)
}

func TestModelOfACleanEnd(t *testing.T) {
	p := newModelPool(t)
	p.write(1, 0, 1).Ack()
	p.m.Closed()
	p.m.Crash(PowerCut)
	p.may("", true, 1)
	p.may("", false, 0)
}

func TestStamp(t *testing.T) {
	whole := Stamp(7, 0, 4096)
	for _, off := range []int64{0, 1, 15, 16, 513, 4000} {
		if n := int64(96); !bytes.Equal(Stamp(7, off, n), whole[off:off+n]) {
			t.Errorf("at %d the stamp is not a part of the whole", off)
		}
	}
	if bytes.Equal(Stamp(7, 0, 16), Stamp(7, 16, 16)) || bytes.Equal(Stamp(7, 0, 16), Stamp(8, 0, 16)) {
		t.Error("stamps of different writes or places are equal")
	}
	mixed := append(Stamp(7, 0, 256), bytes.Repeat([]byte{0xff}, 16)...)
	mixed = append(append(mixed, Stamp(8, 272, 208)...), make([]byte, 32)...)
	if got := describe(mixed, 0); got != "write 7, a mixture, write 8, zeros" {
		t.Errorf("described as %q", got)
	}
}
