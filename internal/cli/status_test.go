package cli

import (
	"strings"
	"testing"

	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

func TestStatusAlarms(t *testing.T) {
	found := &wire.Scrub{State: wire.ScrubDone, Findings: make([]wire.ScrubFinding, 2), MoreFindings: 1}
	for _, c := range []struct {
		name   string
		status wire.Status
		want   string
	}{
		{"well", wire.Status{Pool: wire.Pool{Space: wire.SpaceOK}, Scrub: &wire.Scrub{State: wire.ScrubDone}}, ""},
		{"low", wire.Status{Pool: wire.Pool{Space: wire.SpaceLow, FreeBytes: 1 << 30, WarnBytes: 5 << 30}}, "LOW SPACE: 1 GiB free, 5 GiB should be."},
		{"full", wire.Status{Pool: wire.Pool{Space: wire.SpaceFull}}, "FULL: 0 B free: writes that need new space are refused"},
		{"a LUN", wire.Status{Failures: []wire.Failure{{Name: "web", Why: "why"}}}, "FAILED: LUN web: why"},
		{"many", wire.Status{Failures: []wire.Failure{{Name: "web@mon", Why: "why"}}, MoreFailures: 3}, "FAILED: snapshot web@mon: why\nFAILED: and 3 more"},
		{"scrub", wire.Status{Scrub: found}, "DAMAGED: the scrub has 3 findings: rowan scrub --status"},
	} {
		var lines []string
		for _, row := range statusAlarms(c.status) {
			lines = append(lines, strings.Join(row, " "))
		}
		if got := strings.Join(lines, "\n"); !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestReserveText(t *testing.T) {
	for _, c := range []struct {
		held int64
		want string
	}{{2 << 30, "2 GiB held back for metadata"}, {1 << 30, "1 GiB of 2 GiB held back for metadata"}} {
		if got := reserveText(wire.Pool{ReserveBytes: 2 << 30, ReservedBytes: c.held}); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
