package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/snapfs/tree"
)

func TestParseUntil(t *testing.T) {
	zone := time.FixedZone("here", 2*3600)
	now := time.Date(2025, 3, 1, 12, 0, 0, 0, zone)
	for text, want := range map[string]string{
		"12h":                       "2025-03-02T00:00:00+02:00",
		"90m":                       "2025-03-01T13:30:00+02:00",
		"30d":                       "2025-03-31T12:00:00+02:00",
		"2w":                        "2025-03-15T12:00:00+02:00",
		"2025-03-01":                "2025-03-02T00:00:00+02:00",
		"2030-12-31":                "2031-01-01T00:00:00+02:00",
		"2030-12-31T18:00":          "2030-12-31T18:00:00+02:00",
		"2030-12-31 18:00":          "2030-12-31T18:00:00+02:00",
		"2030-12-31 18:00:30":       "2030-12-31T18:00:30+02:00",
		"2030-12-31T18:00:00Z":      "2030-12-31T20:00:00+02:00",
		"2030-12-31T18:00:00-05:00": "2031-01-01T01:00:00+02:00",
	} {
		got, err := parseUntil(text, now)
		if err != nil || got.In(zone).Format(time.RFC3339) != want {
			t.Errorf("%s: %v (%v), want %s", text, got, err, want)
		}
	}
	for _, bad := range []string{"", "tomorrow", "-1h", "0d", "-3d", "2025-02-28", "2025-13-01", "99999d", "1y", "d", "12", "2025-03-01T11:00"} {
		if got, err := parseUntil(bad, now); err == nil || exitCode(err) != ExitUsage {
			t.Errorf("%q: %v (%v)", bad, got, err)
		}
	}
}

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"plain": "plain", "größe 日本": "größe 日本", "\x1b[31mred": "?[31mred", "a\tb\nc": "a?b?c",
		"\xff\xfe": "??", "right\u202eleft": "right?left", "a\rb": "a?b",
	} {
		if got := printable(text); got != want {
			t.Errorf("printable(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestTableAlignsByCharacters(t *testing.T) {
	var out strings.Builder
	a := &app{output: "table", env: Env{Stdout: &out, Getenv: func(string) string { return "" }}}
	err := a.show(view{head: []string{"A", "B"}, rows: [][]string{{"größe", "1"}, {"x", ""}}})
	if want := "A      B\ngröße  1\nx\n"; err != nil || out.String() != want {
		t.Errorf("got %q (%v), want %q", out.String(), err, want)
	}
}

func TestModeString(t *testing.T) {
	for _, c := range []struct {
		kind tree.Type
		mode uint32
		want string
	}{
		{tree.Regular, 0o644, "-rw-r--r--"}, {tree.Directory, 0o1777, "drwxrwxrwt"}, {tree.Regular, 0o4755, "-rwsr-xr-x"},
		{tree.Regular, 0o4644, "-rwSr--r--"}, {tree.Regular, 0o2755, "-rwxr-sr-x"}, {tree.Regular, 0o1644, "-rw-r--r-T"},
		{tree.Symlink, 0o777, "lrwxrwxrwx"}, {tree.CharDevice, 0, "c---------"}, {tree.FIFO, 0o600, "prw-------"},
	} {
		if got := modeString(tree.Attr{Type: c.kind, Mode: c.mode}); got != c.want {
			t.Errorf("%v %o: %s, want %s", c.kind, c.mode, got, c.want)
		}
	}
}

func TestParseSnapshotPath(t *testing.T) {
	for text, want := range map[string]string{
		"web@a": "web@a /", "web@a:": "web@a /", "web@a:/": "web@a /", "web@a:/fs/x": "web@a /fs/x",
		"web@a:fs": "web@a /fs", "web@a:/a:b@c": "web@a /a:b@c", "web@a://x": "web@a /x",
	} {
		r, path, err := parseSnapshotPath(text)
		if got := r.String() + " " + path; err != nil || got != want {
			t.Errorf("%s: %q (%v), want %q", text, got, err, want)
		}
	}
	for _, bad := range []string{"", ":", "web", "web:/x", "@a:/x", "web@:/x", "web@a@b:/x", "w/b@a:/x", "web@a:/x\x00y"} {
		if r, path, err := parseSnapshotPath(bad); err == nil || exitCode(err) != ExitUsage {
			t.Errorf("%q: %v %q (%v)", bad, r, path, err)
		}
	}
}
