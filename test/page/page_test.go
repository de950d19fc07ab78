package page

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWrite(t *testing.T) {
	const begin, end = "<!-- begin: written by make x -->\n", "<!-- end: written by make x -->\n"
	path := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(path, []byte("# Top\n"+begin+"old\n"+end+"foot\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, "make x", "new\n"); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if want := "# Top\n" + begin + "new\n" + end + "foot\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if err := Write(path, "make y", "new\n"); err == nil {
		t.Error("a page without the marks was overwritten")
	}
}
