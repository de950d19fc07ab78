package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// ciVariable is set where no test may skip. soakVariable is set by make soak:
// what it asks for, hours of random cases, CI runs a bounded share of in other
// tests.
const (
	ciVariable   = "ROWAN_CI"
	soakVariable = "ROWAN_SOAK"
)

// skips returns the position of every call of Skip, Skipf or SkipNow in a
// function that does not look at ROWAN_CI, where such a test has to fail, or CI
// passes without having run it. Those named for soaks may look at ROWAN_SOAK
// instead.
func skips(fset *token.FileSet, file *ast.File) []token.Position {
	var found []token.Position
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		var calls []token.Position
		soak := strings.HasPrefix(fn.Name.Name, "TestSoak") || strings.HasPrefix(fn.Name.Name, "soak")
		looks := false
		ast.Inspect(fn, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BasicLit:
				looks = looks || strings.Contains(n.Value, ciVariable) || soak && strings.Contains(n.Value, soakVariable)
			case *ast.SelectorExpr:
				switch n.Sel.Name {
				case "Skip", "Skipf", "SkipNow":
					calls = append(calls, fset.Position(n.Pos()))
				}
			}
			return true
		})
		if !looks {
			found = append(found, calls...)
		}
	}
	return found
}

func TestNoTestSkipsInCI(t *testing.T) {
	fset := token.NewFileSet()
	files := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") {
			return err
		}
		file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files++
		if usesTesting(file) {
			for _, pos := range skips(fset, file) {
				t.Errorf("%s: a skip that does not ask whether %s is set", pos, ciVariable)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files == 0 {
		t.Fatal("no Go file found")
	}
}

func usesTesting(file *ast.File) bool {
	for _, spec := range file.Imports {
		if spec.Path.Value == `"testing"` {
			return true
		}
	}
	return false
}

func TestSkipsAreFound(t *testing.T) {
	const source = `package p
import ("os"; "testing")
func TestA(t *testing.T) { t.Skip("too slow") }
func need(t *testing.T) {
	if os.Getenv("ROWAN_CI") != "" { t.Fatal("missing") }
	t.Skipf("missing")
}
func TestSoakB(t *testing.T) {
	if os.Getenv("ROWAN_SOAK") == "" { t.Skip("not asked for") }
}
func TestC(t *testing.T) {
	if os.Getenv("ROWAN_SOAK") == "" { t.Skip("not asked for") }
}`
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "p_test.go", source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	found := skips(fset, file)
	if len(found) != 2 || found[0].Line != 3 || found[1].Line != 12 {
		t.Errorf("found %v, want those in lines 3 and 12", found)
	}
}
