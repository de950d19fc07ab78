package imagetest

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Tool says that the test needs a program. Where it is missing the test is
// skipped, or fails if ROWAN_CI is set.
func Tool(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing(t, "the program "+name)
		}
	}
}

// Root says that the test needs to run as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "root")
	}
}

// Device says that the test needs a device node, such as /dev/fuse.
func Device(t testing.TB, path string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		missing(t, path)
	}
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("ROWAN_CI") != "" {
		t.Fatalf("%s is missing", what)
	}
	t.Skipf("%s is missing", what)
}

// Run runs a program and returns its standard output. The test fails if the
// program does.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	return RunInput(t, "", name, args...)
}

// RunInput is Run with a text on standard input.
func RunInput(t testing.TB, input, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(append([]string{name}, args...), " "), err, out.String(), errOut.String())
	}
	return out.String()
}
