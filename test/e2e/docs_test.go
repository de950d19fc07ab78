package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rowan-storage/rowan/test/harness"
)

// TestDocumentedCommands runs, page by page, the commands that stand in the
// docs' blocks marked as console: what follows "$ ", continued by "> ".
func TestDocumentedCommands(t *testing.T) {
	harness.NeedMounts(t)
	harness.Need(t, "bash", "nbdinfo", "nbdcopy", "qemu-img", "qemu-io", "certtool")
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		commands := consoleCommands(string(text))
		if len(commands) == 0 {
			continue
		}
		tried++
		t.Run(filepath.Base(page), func(t *testing.T) { runDocumented(t, commands) })
	}
	if tried < 3 {
		t.Errorf("only %d pages have commands to try", tried)
	}
}

// consoleCommands returns the commands of a page.
func consoleCommands(page string) []string {
	var commands []string
	inside := false
	for line := range strings.Lines(page) {
		switch {
		case strings.HasPrefix(line, "```"):
			inside = strings.TrimSpace(line) == "```console"
		case !inside:
		case strings.HasPrefix(line, "$ "):
			commands = append(commands, line[2:])
		case strings.HasPrefix(line, "> ") && len(commands) > 0:
			commands[len(commands)-1] += line[2:]
		}
	}
	return commands
}

// runDocumented runs a page's commands in one shell against an appliance of
// its own. The places that the docs name are this test's.
func runDocumented(t *testing.T, commands []string) {
	d := harness.Start(t)
	dir := filepath.Dir(d.API)
	for _, sub := range []string{"mnt", "work"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	places := strings.NewReplacer(
		"/run/rowan", dir, "/etc/rowan", filepath.Join(dir, "etc"), "/mnt", filepath.Join(dir, "mnt"),
		"127.0.0.1:10809", d.TCP)
	script := "set -e\ncd " + filepath.Join(dir, "work") + "\n"
	for _, c := range commands {
		script += places.Replace(c)
	}
	t.Setenv("ROWAN_API", d.API)
	t.Setenv("PATH", filepath.Dir(harness.Bin("rowan"))+":"+os.Getenv("PATH"))
	if r := harness.Try(t, "bash", "-x", "-c", script); r.Code != 0 {
		t.Errorf("exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}

func TestConsoleCommands(t *testing.T) {
	got := consoleCommands("text\n$ not this\n```console\n$ first \\\n>   more\noutput\n$ second\n```\n```sh\n$ nor this\n```\n")
	want := []string{"first \\\n  more\n", "second\n"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got %q, want %q", got, want)
	}
}
