package archtest

import (
	"slices"
	"strings"
)

// Rules returns the import rules of the tree.
func Rules() []Rule {
	rules := []Rule{
		{
			Name:  "blockdev, nbd, iscsi, snapfs and snapshot import no sibling",
			Reach: All,
			Broken: func(pkg string, imports []string) []string {
				if !isCore(pkg) {
					return nil
				}
				// What is below test, only tests may import: another rule.
				return outside(imports, room(pkg), "test/harness")
			},
		},
		{
			Name:  "agent and agentclient share only agentclient/agentproto",
			Reach: All,
			Broken: func(pkg string, imports []string) []string {
				if r := room(pkg); r == "agent" || r == "agentclient" {
					return outside(imports, r, "agentclient/agentproto")
				}
				return nil
			},
		},
		{
			Name:  "the core never imports metrics",
			Reach: All,
			Broken: func(pkg string, imports []string) []string {
				if under(pkg, "metrics", "internal", "cmd", "test") {
					return nil
				}
				return inside(imports, "metrics")
			},
		},
		{
			Name:  "only internal/appliance joins core packages",
			Reach: Direct,
			Broken: func(pkg string, imports []string) []string {
				if isCore(pkg) || under(pkg, "internal/appliance", "test") {
					return nil
				}
				return joined(imports)
			},
		},
		{
			Name:  "a command imports only internal packages",
			Reach: Tests,
			Broken: func(pkg string, imports []string) []string {
				if !under(pkg, "cmd") {
					return nil
				}
				return outside(imports, pkg, "internal")
			},
		},
		{
			Name:  "a command carries no test code",
			Reach: All,
			Broken: func(pkg string, imports []string) []string {
				if !under(pkg, "cmd") {
					return nil
				}
				return append(inside(imports, "test", "blockdev/blockdevtest", "internal/archtest"),
					matching(imports, "testing", "net/http/httptest")...)
			},
		},
		{
			Name:  "a test program is imported by tests only",
			Reach: Direct,
			Broken: func(pkg string, imports []string) []string {
				if under(pkg, "test") {
					return nil
				}
				return inside(imports, "test")
			},
		},
		{
			Name:  "no package uses cgo",
			Reach: Tests,
			Broken: func(_ string, imports []string) []string {
				return matching(imports, "C")
			},
		},
	}
	for _, h := range homes() {
		rules = append(rules, h.rule())
	}
	return rules
}

// A home is where in the module a dependency lives: nothing else imports it.
type home struct {
	dependency string
	dirs       []string
}

func homes() []home {
	return []home{
		{"github.com/hanwen/go-fuse", []string{"snapfs/fusemount"}},
		{"github.com/prometheus", []string{"metrics"}},
		{"github.com/pojntfx/go-nbd", []string{"nbd"}},
		{"go.etcd.io/bbolt", []string{"blockdev"}},
		{"github.com/vmware/govmomi", []string{"agentclient"}},
		{"github.com/danielgtaylor/huma", []string{"internal/httpapi"}},
		{"github.com/pelletier/go-toml", []string{"internal/config"}},
		{"github.com/spf13/cobra", []string{"internal/cli", "cmd"}},
		{"github.com/coreos/go-systemd", []string{"systemd"}},
	}
}

func (h home) rule() Rule {
	return Rule{
		Name:  "only " + strings.Join(h.dirs, " and ") + " imports " + h.dependency,
		Reach: Tests,
		Broken: func(pkg string, imports []string) []string {
			if under(pkg, h.dirs...) {
				return nil
			}
			return matching(imports, h.dependency)
		},
	}
}

// isCore tells whether pkg belongs to one of the packages that can be used and
// fuzzed alone.
func isCore(pkg string) bool {
	return under(pkg, "blockdev", "nbd", "iscsi", "snapfs", "snapshot")
}

// room is the first element of a package's path.
func room(pkg string) string {
	r, _, _ := strings.Cut(pkg, "/")
	return r
}

// inside returns the imports that lie in the module, in one of dirs.
func inside(imports []string, dirs ...string) []string {
	return filter(imports, func(path string) bool {
		rel, local := strings.CutPrefix(path, "./")
		return local && under(rel, dirs...)
	})
}

// outside returns the imports that lie in the module, but in none of dirs.
func outside(imports []string, dirs ...string) []string {
	return filter(imports, func(path string) bool {
		rel, local := strings.CutPrefix(path, "./")
		return local && !under(rel, dirs...)
	})
}

// matching returns the imports from other modules that are one of paths or lie
// below one.
func matching(imports []string, paths ...string) []string {
	return filter(imports, func(path string) bool { return under(path, paths...) })
}

// joined returns the imports of core packages if they are from more than one.
func joined(imports []string) []string {
	of := filter(imports, func(path string) bool {
		rel, local := strings.CutPrefix(path, "./")
		return local && isCore(rel)
	})
	for _, path := range of {
		if room(path[len("./"):]) != room(of[0][len("./"):]) {
			return of
		}
	}
	return nil
}

func filter(paths []string, keep func(string) bool) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(path string) bool { return !keep(path) })
}
