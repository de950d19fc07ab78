package blockdev

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/rowan-storage/rowan/blockdev/blockdevtest"
)

// Info lists who cannot be used and why, at most so many.
func TestInfoListsFailures(t *testing.T) {
	d, h, p := hookedPool(t)
	v := makeLUN(t, p, "a", 8)
	makeLUN(t, p, "b", 8)
	takeSnapshot(t, p, "b", "s0")
	for i := range maxFailures + 5 {
		fillBlocks(t, v, '1', 0, 1)
		takeSnapshot(t, p, "a", fmt.Sprintf("s%d", i))
	}
	must(t, p.Settle(t.Context()))
	if info, err := p.Info(); err != nil || len(info.Failures) != 0 || info.MoreFailures != 0 {
		t.Errorf("%+v, %v", info, err)
	}
	_, second, err := p.cat.find("a", "s1")
	must(t, err)
	must(t, p.Close())
	d.Inject(blockdevtest.Fault{Classes: blockdevtest.ReadAt, Nth: 1, Forever: true, Err: syscall.EIO,
		Name: func(n string) bool { return n == presenceName(second.Layer) }})
	p, err = openHooked(t, d, h, false)
	must(t, err)
	info, err := p.Info()
	must(t, err)
	// LUN a and all of its snapshots but the first.
	if len(info.Failures) != maxFailures || info.MoreFailures != 5 {
		t.Errorf("%d failures, and %d more", len(info.Failures), info.MoreFailures)
	}
	if f := info.Failures[0]; f.Name != "a" || !strings.Contains(f.Why, syscall.EIO.Error()) {
		t.Errorf("%+v", f)
	}
	if f := info.Failures[1]; f.Name != "a@s1" || !strings.Contains(f.Why, syscall.EIO.Error()) {
		t.Errorf("%+v", f)
	}
	must(t, p.Close())
}
