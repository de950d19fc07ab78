package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// list asks the go command about every package of the module and what they
// depend on.
func list(t *testing.T) []Package {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-e",
		"-json=ImportPath,Imports,TestImports,XTestImports,Deps", Module+"/...")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []Package
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p Package
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		pkgs = append(pkgs, p)
	}
}

func TestTreeKeepsTheRules(t *testing.T) {
	pkgs := list(t)
	inModule := 0
	for _, p := range pkgs {
		if _, ok := relative(p.ImportPath); ok {
			inModule++
		}
	}
	if inModule < 2 {
		t.Fatalf("go list found %d packages of %s", inModule, Module)
	}
	for _, v := range Check(pkgs, Rules()) {
		t.Error(v)
	}
}

// TestRulesCanFail tries every rule on a package that breaks it, and on one
// beside it that does not.
func TestRulesCanFail(t *testing.T) {
	const m = Module + "/"
	cases := []struct {
		rule      string
		bad, good Package
		offending string
	}{
		{
			rule:      "blockdev, nbd, iscsi, snapfs and snapshot import no sibling",
			bad:       Package{ImportPath: m + "snapfs/ext4", Deps: []string{"io", m + "blockdev"}},
			good:      Package{ImportPath: m + "snapfs/ext4", Imports: []string{"io", m + "snapfs/tree"}},
			offending: "./blockdev",
		},
		{
			rule:      "blockdev, nbd, iscsi, snapfs and snapshot import no sibling",
			bad:       Package{ImportPath: m + "nbd", XTestImports: []string{m + "internal/config"}},
			good:      Package{ImportPath: m + "nbd", XTestImports: []string{m + "nbd"}},
			offending: "./internal/config",
		},
		{
			rule:      "agent and agentclient share only agentclient/agentproto",
			bad:       Package{ImportPath: m + "agent", Imports: []string{m + "agentclient"}},
			good:      Package{ImportPath: m + "agent", Imports: []string{m + "agentclient/agentproto"}},
			offending: "./agentclient",
		},
		{
			rule:      "the core never imports metrics",
			bad:       Package{ImportPath: m + "agentclient", Imports: []string{m + "metrics"}},
			good:      Package{ImportPath: m + "internal/appliance", Imports: []string{m + "metrics"}},
			offending: "./metrics",
		},
		{
			rule:      "only internal/appliance joins core packages",
			bad:       Package{ImportPath: m + "internal/httpapi", Imports: []string{m + "blockdev", m + "nbd"}},
			good:      Package{ImportPath: m + "internal/httpapi", Imports: []string{m + "blockdev", m + "blockdev/blockfile"}},
			offending: "./nbd",
		},
		{
			rule:      "a command imports only internal packages",
			bad:       Package{ImportPath: m + "cmd/rowand", Imports: []string{m + "blockdev"}},
			good:      Package{ImportPath: m + "cmd/rowand", Imports: []string{m + "internal/cli"}},
			offending: "./blockdev",
		},
		{
			rule:      "a command carries no test code",
			bad:       Package{ImportPath: m + "cmd/rowan", Deps: []string{"testing"}},
			good:      Package{ImportPath: m + "cmd/rowan", TestImports: []string{"os"}},
			offending: "testing",
		},
		{
			rule:      "a test program is imported by tests only",
			bad:       Package{ImportPath: m + "internal/cli", Imports: []string{m + "test/harness"}},
			good:      Package{ImportPath: m + "internal/cli", TestImports: []string{m + "test/harness"}},
			offending: "./test/harness",
		},
		{
			rule:      "no package uses cgo",
			bad:       Package{ImportPath: m + "snapfs/fusemount", Imports: []string{"C"}},
			good:      Package{ImportPath: m + "snapfs/fusemount", Imports: []string{"unsafe"}},
			offending: "C",
		},
	}
	for _, h := range homes() {
		cases = append(cases, struct {
			rule      string
			bad, good Package
			offending string
		}{
			rule:      h.rule().Name,
			bad:       Package{ImportPath: m + "internal/made-up", TestImports: []string{h.dependency + "/sub"}},
			good:      Package{ImportPath: m + h.dirs[0], Imports: []string{h.dependency + "/sub"}},
			offending: h.dependency + "/sub",
		})
	}

	tried := map[string]bool{}
	for _, c := range cases {
		t.Run(c.rule, func(t *testing.T) {
			tried[c.rule] = true
			if got := breaks(Check([]Package{c.bad}, Rules()), c.rule); !got[c.offending] {
				t.Errorf("%+v passed: want %s found, got %v", c.bad, c.offending, got)
			}
			if got := breaks(Check([]Package{c.good}, Rules()), c.rule); len(got) > 0 {
				t.Errorf("%+v found at fault: %v", c.good, got)
			}
		})
	}
	for _, r := range Rules() {
		if !tried[r.Name] {
			t.Errorf("no made-up violation tries the rule: %s", r.Name)
		}
	}
}

// breaks returns the imports found against the rule of that name.
func breaks(found []Violation, rule string) map[string]bool {
	of := map[string]bool{}
	for _, v := range found {
		if v.Rule == rule {
			of[v.Import] = true
		}
	}
	return of
}

func TestPackagesOfOthersAreNotLookedAt(t *testing.T) {
	p := Package{ImportPath: "example.org/other/nbd", Imports: []string{"C", Module + "/blockdev"}}
	if found := Check([]Package{p}, Rules()); len(found) > 0 {
		t.Errorf("found %v", found)
	}
}
