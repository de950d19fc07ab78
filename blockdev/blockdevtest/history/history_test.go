package history

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// play runs the clients on toys with a bug.
func play(t *testing.T, b bug, seed uint64) (Result, error) {
	const sectors = 8 * blockSectors
	toys := newToys(b, 3, sectors)
	c := Config{Seed: seed, Sectors: sectors, Clients: 6, Requests: 250, Freezers: 2, Freeze: toys.Freeze}
	for _, d := range toys.devices {
		c.Devices = append(c.Devices, d)
	}
	l, err := Run(t.Context(), c)
	if err != nil {
		return Result{}, err
	}
	return l.Check()
}

func TestRightDevicesPass(t *testing.T) {
	for seed := range uint64(5) {
		r, err := play(t, none, seed)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if r.Freezes < 2 || r.Reads < 10000 || r.Ambiguous > r.Reads/10 {
			t.Errorf("only %+v", r)
		}
	}
}

// TestBugsAreFound shows that the check can fail.
func TestBugsAreFound(t *testing.T) {
	for _, b := range []bug{
		staleReads, noGate, oneByOne, early, late, fillsApart, laterFlushed, misplaces, losesDiscard, thaws,
	} {
		t.Run(string(b), func(t *testing.T) {
			for seed := range uint64(50) {
				if _, err := play(t, b, seed); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Error("not found")
		})
	}
}

// event is a line of a history made by hand: a write of a stamp, a zeroing, a
// read or a freeze of devices 0 and 1, of one sector each.
type event struct {
	call, ret int64
	device    int
	kind      string // write, zero, read, freeze
	stamp     uint64 // written or read; in device 0 by a freeze
	other     uint64 // in device 1 by a freeze
}

func byHand(events []event) *Log {
	l := NewLog(2, 1)
	c := l.Client()
	for _, e := range events {
		s := span{e.call, e.ret}
		q := request{span: s, device: e.device, count: 1}
		switch e.kind {
		case "write", "zero":
			q.stamp, q.zeros = e.stamp, e.kind == "zero"
		case "read":
			q.found = []value{{e.stamp, e.stamp}}
		case "freeze":
			c.freezes = append(c.freezes, freeze{span: s, devices: []int{0, 1},
				found: [][]value{{{e.stamp, e.stamp}}, {{e.other, e.other}}}})
			continue
		}
		c.requests = append(c.requests, q)
	}
	return l
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name   string
		events []event
		want   string // part of the error, "" for none
	}{
		{"a read under way finds the old or the new", []event{
			{1, 2, 0, "write", 1, 0}, {3, 10, 0, "write", 2, 0}, {4, 5, 0, "read", 1, 0}, {6, 7, 0, "read", 2, 0}}, ""},
		{"what was new is old again", []event{
			{1, 2, 0, "write", 1, 0}, {3, 10, 0, "write", 2, 0}, {4, 5, 0, "read", 2, 0}, {6, 7, 0, "read", 1, 0}}, "both before and after"},
		{"an old value", []event{
			{1, 2, 0, "write", 1, 0}, {3, 4, 0, "write", 2, 0}, {5, 6, 0, "read", 1, 0}}, "both before and after"},
		{"a value from the future", []event{
			{1, 2, 0, "read", 1, 0}, {3, 4, 0, "write", 1, 0}}, "before it was submitted"},
		{"two at once are in either order", []event{
			{1, 5, 0, "write", 1, 0}, {2, 6, 0, "write", 2, 0}, {7, 8, 0, "read", 1, 0}}, ""},
		{"but not in both", []event{
			{1, 5, 0, "write", 1, 0}, {2, 6, 0, "write", 2, 0}, {7, 8, 0, "read", 1, 0}, {9, 10, 0, "read", 2, 0}}, "both before and after"},
		{"zeros that were overwritten", []event{
			{1, 2, 0, "write", 1, 0}, {3, 4, 0, "read", 0, 0}}, "no discard"},
		{"zeros by a discard", []event{
			{1, 2, 0, "write", 1, 0}, {3, 9, 0, "zero", 2, 0}, {4, 5, 0, "read", 0, 0}, {6, 7, 0, "read", 0, 0}}, ""},
		{"a discard undone", []event{
			{1, 2, 0, "write", 1, 0}, {3, 9, 0, "zero", 2, 0}, {4, 5, 0, "read", 0, 0}, {6, 7, 0, "read", 1, 0}}, "both before and after"},
		{"a freeze finds a write under way or not", []event{
			{1, 10, 0, "write", 1, 0}, {2, 3, 0, "freeze", 0, 0}, {4, 5, 0, "freeze", 1, 0}}, ""},
		{"a freeze without an acknowledged write", []event{
			{1, 2, 0, "write", 1, 0}, {3, 4, 0, "write", 2, 0}, {5, 6, 0, "freeze", 1, 0}}, "both before and after"},
		{"a freeze with a write submitted after it", []event{
			{1, 2, 0, "freeze", 1, 0}, {3, 4, 0, "write", 1, 0}}, "before it was submitted"},
		{"a freeze with the second of two writes only", []event{
			{1, 10, 0, "freeze", 0, 2}, {2, 3, 0, "write", 1, 0}, {4, 5, 1, "write", 2, 0}}, "no one point in time"},
		{"a freeze with the first of two writes only", []event{
			{1, 10, 0, "freeze", 1, 0}, {2, 3, 0, "write", 1, 0}, {4, 5, 1, "write", 2, 0}}, ""},
		{"a freeze with the second of two writes at once", []event{
			{1, 10, 0, "freeze", 0, 2}, {2, 5, 0, "write", 1, 0}, {4, 6, 1, "write", 2, 0}}, ""},
		{"of which a read had found the first", []event{
			{1, 10, 0, "freeze", 0, 2}, {2, 9, 0, "write", 1, 0}, {3, 4, 0, "read", 1, 0}, {5, 6, 1, "write", 2, 0}}, "no one point in time"},
		{"a freeze that must be within what can come before or after", []event{
			// Write 2 of device 0 was there at 4 to 7, write 1 before or after
			// it; device 1 says that the freeze was at 5 to 6.
			{1, 20, 0, "write", 1, 0}, {2, 3, 0, "write", 2, 0}, {7, 8, 0, "read", 2, 0},
			{4, 5, 1, "write", 3, 0}, {6, 9, 1, "write", 4, 0}, {6, 7, 1, "read", 4, 0},
			{1, 30, 0, "freeze", 1, 3}}, "no one point in time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := byHand(c.events).Check()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestReadOfWhatNobodyWrote(t *testing.T) {
	l := NewLog(1, 2)
	c := l.Client()
	var kept []byte
	put := func(p []byte, _ int64) error { kept = p; return nil }
	if err := c.Write(0, 0, 1, put); err != nil {
		t.Fatal(err)
	}
	read := func(p []byte, _ int64) error { copy(p, kept); return nil }
	if err := c.Read(0, 0, 1, read); err != nil {
		t.Error(err)
	}
	if err := c.Read(0, 1, 1, read); err == nil {
		t.Error("another sector's data passed")
	}
	kept[100]++
	if err := c.Read(0, 0, 1, read); err == nil {
		t.Error("a changed byte passed")
	}
	failed := errors.New("failed")
	if err := c.Read(0, 0, 1, func([]byte, int64) error { return failed }); !errors.Is(err, failed) {
		t.Error(fmt.Errorf("the device's error is not returned: %w", err))
	}
}
