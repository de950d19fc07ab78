package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binVariable names the folder of the programs to test. Main sets it.
const binVariable = "ROWAN_BIN"

// Main is what a package's TestMain calls: it builds rowand and rowan, runs the
// tests and returns the exit code. Programs built elsewhere are tested by
// naming their folder in ROWAN_BIN.
func Main(m *testing.M) int {
	if os.Getenv(binVariable) != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "rowan-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := build(dir, raceDetector); err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		return 1
	}
	if err := os.Setenv(binVariable, dir); err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		return 1
	}
	return m.Run()
}

// build puts the module's commands into dir, static unless with the race
// detector.
func build(dir string, race bool) error {
	args := []string{"build", "-o", dir + string(filepath.Separator)}
	env := append(os.Environ(), "CGO_ENABLED=0")
	if race {
		args = append(args, "-race")
		env = append(os.Environ(), "CGO_ENABLED=1")
	}
	cmd := exec.Command("go", append(args, "github.com/rowan-storage/rowan/cmd/...")...)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the commands: %w\n%s", err, out)
	}
	return nil
}

// Bin returns the path of one of the module's commands.
func Bin(name string) string { return filepath.Join(os.Getenv(binVariable), name) }

// Slow is the factor by which work should be made smaller where the race
// detector slows everything down.
func Slow() int {
	if raceDetector {
		return 5
	}
	return 1
}
