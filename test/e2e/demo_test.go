package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/test/harness"
)

// demo is a running scripts/demo, as `make demo` starts it.
type demo struct {
	*exec.Cmd
	dir   string // where it makes its own directory
	lines *bufio.Scanner
	text  strings.Builder // what it has printed
}

func startDemo(t *testing.T) *demo {
	t.Helper()
	harness.NeedMounts(t)
	harness.Need(t, "bash", "nbdinfo")
	d := &demo{Cmd: exec.Command("../../scripts/demo"), dir: harness.ShortDir(t)}
	d.Env = append(os.Environ(), "TMPDIR="+d.dir)
	// A terminal's Ctrl-C goes to a whole process group.
	d.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	out, err := d.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.Stderr = d.Stdout
	d.lines = bufio.NewScanner(out)
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	return d
}

var stepLine = regexp.MustCompile(`^ ?(\d+)\. `)

// next reads up to the next step and returns its number, 0 at the end.
func (d *demo) next() int {
	for d.lines.Scan() {
		d.text.WriteString(d.lines.Text() + "\n")
		if m := stepLine.FindStringSubmatch(d.lines.Text()); m != nil {
			n, err := strconv.Atoi(m[1])
			if err == nil {
				return n
			}
		}
	}
	return 0
}

// finish reads to the end and returns the exit code.
func (d *demo) finish(t *testing.T) int {
	t.Helper()
	for d.next() > 0 {
	}
	_ = d.Wait() // the code tells
	return d.ProcessState.ExitCode()
}

// leftovers lists what the demo did not clean up: files, mounts, loop devices
// and processes.
func (d *demo) leftovers(t *testing.T) []string {
	t.Helper()
	var left []string
	files, err := os.ReadDir(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		left = append(left, "file "+f.Name())
	}
	for what, pattern := range map[string]string{
		"mount":   "/proc/self/mounts",
		"loop":    "/sys/block/loop*/loop/backing_file",
		"process": "/proc/[0-9]*/cmdline",
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err == nil && strings.Contains(string(text), d.dir) {
				left = append(left, fmt.Sprintf("%s %s: %q", what, path, text))
			}
		}
	}
	return left
}

// TestDemo runs the demo to its end.
func TestDemo(t *testing.T) {
	d := startDemo(t)
	begin := time.Now()
	if code := d.finish(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	took := time.Since(begin)
	t.Logf("it took %v", took)
	if took > time.Minute*time.Duration(harness.Slow()) {
		t.Errorf("it took %v, more than the minute it promises", took)
	}
	if ticks := strings.Count(d.text.String(), "✓"); ticks < 10 || strings.Contains(d.text.String(), "✗") {
		t.Errorf("%d checks passed", ticks)
	}
	if left := d.leftovers(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if t.Failed() {
		t.Logf("the demo printed:\n%s", d.text.String())
	}
}

// TestDemoInterrupted presses Ctrl-C at every step.
func TestDemoInterrupted(t *testing.T) {
	const steps = 12
	for step := 1; step <= steps; step += harness.Slow() {
		t.Run(strconv.Itoa(step), func(t *testing.T) {
			d := startDemo(t)
			for n := d.next(); n != step; n = d.next() {
				if n == 0 {
					t.Fatalf("the demo has no step %d:\n%s", step, d.text.String())
				}
			}
			// Somewhere inside the step.
			time.Sleep(time.Duration(step*37%100) * time.Millisecond)
			if err := syscall.Kill(-d.Process.Pid, syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			// At the last step it may have ended by itself. The code is 130 but
			// where the signal comes while bash parses a command substitution.
			if code := d.finish(t); code == 0 && step < steps {
				t.Error("it succeeded though it was interrupted")
			}
			if left := d.leftovers(t); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			if t.Failed() {
				t.Logf("the demo printed:\n%s", d.text.String())
			}
		})
	}
}
