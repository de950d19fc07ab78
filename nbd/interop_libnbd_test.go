package nbd

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestNbdinfoSeesExport(t *testing.T) {
	d := newMemDevice(8 << 20)
	d.snapshot("monday")
	s := serve(t, Config{Logger: testLogger(t)}, map[string]*Export{
		"web":        {Device: d, Description: "the web server", ChangeContexts: []string{"monday"}},
		"web@monday": {Device: d, ReadOnly: true},
	})
	out := mustRun(t, "nbdinfo", "--json", s.uri("web"))
	var info struct {
		Protocol string
		TLS      bool
		Exports  []map[string]any
	}
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		t.Fatal(err, out)
	}
	if len(info.Exports) != 1 || info.Protocol != "newstyle-fixed" {
		t.Fatal(out)
	}
	e := info.Exports[0]
	for key, want := range map[string]any{
		"export-name": "web", "description": "the web server", "export-size": 8388608.0,
		"is_read_only": false, "can_flush": true, "can_fua": true, "can_trim": true, "can_zero": true,
		"can_fast_zero": true, "can_df": true, "can_multi_conn": true, "can_cache": true,
		"block_size_minimum": 1.0, "block_size_preferred": 4096.0, "block_size_maximum": 33554432.0,
	} {
		if e[key] != want {
			t.Errorf("%s is %v, want %v", key, e[key], want)
		}
	}
	var contexts []string
	for _, c := range e["contexts"].([]any) {
		contexts = append(contexts, c.(string))
	}
	if want := []string{"base:allocation", "rowan:changed-since:monday", "qemu:dirty-bitmap:monday"}; !slices.Equal(contexts, want) {
		t.Errorf("contexts %q, want %q", contexts, want)
	}
	out = mustRun(t, "nbdinfo", "--json", s.uri("web@monday"))
	if !strings.Contains(out, `"is_read_only": true`) || !strings.Contains(out, `"can_trim": false`) {
		t.Error(out)
	}
	list := mustRun(t, "nbdinfo", "--list", s.uri(""))
	if !strings.Contains(list, `export="web"`) || !strings.Contains(list, `export="web@monday"`) {
		t.Error(list)
	}
}

func TestNbdinfoMap(t *testing.T) {
	d := newMemDevice(1 << 20)
	d.fill(64<<10, 128<<10)
	d.snapshot("monday")
	d.WriteAt([]byte("new"), 512<<10)
	s := serve(t, Config{}, map[string]*Export{"": {Device: d, ChangeContexts: []string{"monday"}}})
	for query, want := range map[string]string{
		"base:allocation":            "0 65536 3, 65536 131072 0, 196608 327680 3, 524288 4096 0, 528384 520192 3",
		"rowan:changed-since:monday": "0 524288 0, 524288 4096 1, 528384 520192 0",
		"qemu:dirty-bitmap:monday":   "0 524288 0, 524288 4096 1, 528384 520192 0",
	} {
		out := mustRun(t, "nbdinfo", "--map="+query, s.uri(""))
		var got []string
		for line := range strings.Lines(out) {
			got = append(got, strings.Join(strings.Fields(line)[:3], " "))
		}
		if g := strings.Join(got, ", "); g != want {
			t.Errorf("%s: %s, want %s", query, g, want)
		}
	}
}

func TestNbdcopyBothWays(t *testing.T) {
	d := newMemDevice(24<<20 + 512)
	d.fill(3<<20, 9<<20)
	d.fill(20<<20, 4<<20+512)
	s := serveDevice(t, d)
	file := filepath.Join(t.TempDir(), "out")
	mustRun(t, "nbdcopy", s.uri(""), file)
	wantFile(t, file, d.data)

	back := newMemDevice(len(d.data))
	back.fill(0, len(d.data)/2)
	into := serveDevice(t, back)
	mustRun(t, "nbdcopy", "--flush", file, into.uri(""))
	wantEqual(t, back.data, d.data)
	if back.flushes.Load() == 0 {
		t.Error("nbdcopy --flush did not flush")
	}

	third := newMemDevice(len(d.data))
	over := serveDevice(t, third)
	mustRun(t, "nbdcopy", "--connections=4", "--requests=32", s.uri(""), over.uri(""))
	wantEqual(t, third.data, d.data)
}
