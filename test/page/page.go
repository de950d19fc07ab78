// Package page puts measured figures into a page of the documentation.
package page

import (
	"fmt"
	"os"
	"strings"
)

// Write puts text in place of what stands between the two lines of a page that
// name the command which writes it.
func Write(path, command, text string) error {
	begin, end := fmt.Sprintf("<!-- begin: written by %s -->\n", command), fmt.Sprintf("<!-- end: written by %s -->\n", command)
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(page), begin)
	_, foot, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no place for the figures: lines %q and %q", path, begin, end)
	}
	return os.WriteFile(path, []byte(head+begin+text+end+foot), 0o644)
}
