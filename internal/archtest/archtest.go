package archtest

import (
	"fmt"
	"slices"
	"strings"
)

// Module is the path that the tree's packages start with.
const Module = "github.com/rowan-storage/rowan"

// Package is what `go list -json` says about one package.
type Package struct {
	ImportPath   string
	Imports      []string // direct, of the package proper
	TestImports  []string // of its _test.go files inside the package
	XTestImports []string // of its _test.go files in package x_test
	Deps         []string // at any remove, of the package proper
}

// A Rule says what a package may not import.
type Rule struct {
	Name string
	// Reach is which imports the rule looks at.
	Reach Reach
	// Broken returns those imports that break the rule. Both the package and
	// the imports that lie in the module are given relative to it:
	// "snapfs/ext4", "./snapfs/tree"; other imports are whole paths.
	Broken func(pkg string, imports []string) []string
}

// Reach is how far a rule looks.
type Reach uint8

// How far a rule looks.
const (
	Direct Reach = iota // what the package's own files import
	Tests               // as Direct, and what its tests import
	All                 // as Tests, and at any remove
)

// A Violation is one import that breaks a rule.
type Violation struct {
	Rule, Package, Import string
}

func (v Violation) String() string {
	return fmt.Sprintf("%s imports %s, against the rule: %s", v.Package, v.Import, v.Rule)
}

// Check returns every import of pkgs that breaks one of the rules. Packages
// outside the module are not looked at.
func Check(pkgs []Package, rules []Rule) []Violation {
	var found []Violation
	for _, p := range pkgs {
		pkg, inside := relative(p.ImportPath)
		if !inside {
			continue
		}
		for _, r := range rules {
			for _, path := range r.Broken(pkg, imports(p, r.Reach)) {
				found = append(found, Violation{Rule: r.Name, Package: pkg, Import: path})
			}
		}
	}
	return found
}

// imports lists, once each and sorted, the paths that a rule of the given
// reach looks at, those of the module as "./path".
func imports(p Package, reach Reach) []string {
	paths := slices.Clone(p.Imports)
	if reach >= Tests {
		paths = append(paths, p.TestImports...)
		paths = append(paths, p.XTestImports...)
	}
	if reach >= All {
		paths = append(paths, p.Deps...)
	}
	for i, path := range paths {
		if rel, inside := relative(path); inside {
			paths[i] = "./" + rel
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// relative cuts the module's path off and tells whether it was there.
func relative(path string) (string, bool) {
	if path == Module {
		return ".", true
	}
	return strings.CutPrefix(path, Module+"/")
}

// under tells whether path is one of dirs or lies below one.
func under(path string, dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool {
		return path == dir || strings.HasPrefix(path, dir+"/")
	})
}
