package ext4_test

import (
	"os"
	"regexp"
	"testing"
)

// TestDocNames: the files that the package comment sends its reader to are
// there.
func TestDocNames(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`\b[a-z0-9]+\.go\b`).FindAllString(string(doc), -1)
	if len(names) < 10 {
		t.Errorf("%q are named", names)
	}
	for _, name := range names {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
}
