package harness

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// runLimit is how long any one program of a test may take.
const runLimit = 5 * time.Minute

// Result is what a program left.
type Result struct {
	Stdout, Stderr string
	Code           int // exit code, -1 if it was killed
}

// Exec runs a program to its end and returns what it left. An exit code other
// than 0 is no error: not running to the end within five minutes is.
func Exec(ctx context.Context, name string, args ...string) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A grandchild that keeps the pipes open must not hold the test up.
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	line := name + " " + strings.Join(args, " ")
	if ctx.Err() != nil {
		return Result{}, fmt.Errorf("%s: %w\n%s", line, ctx.Err(), stderr.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return Result{}, fmt.Errorf("%s: %w", line, err)
	}
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}, nil
}

// Try is Exec for the goroutine of a test.
func Try(t testing.TB, name string, args ...string) Result {
	t.Helper()
	// Not the test's context: that has ended when its cleanups run.
	r, err := Exec(context.Background(), name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Run runs a program that must succeed and returns its standard output.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	r := Try(t, name, args...)
	if r.Code != 0 {
		t.Fatalf("%s %s: exit code %d\n%s%s", name, strings.Join(args, " "), r.Code, end(r.Stdout), end(r.Stderr))
	}
	return r.Stdout
}

// end returns the last part of what a program printed, for a message.
func end(text string) string { return text[max(0, len(text)-8<<10):] }

// Decode parses the JSON that a command printed.
func Decode[T any](t testing.TB, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("not the JSON expected: %v\n%s", err, text)
	}
	return v
}

// HashFile returns the SHA-256 of a file, in hex.
func HashFile(t testing.TB, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Eventually waits until done is true, and fails the test if it is not within
// the limit.
func Eventually(t testing.TB, limit time.Duration, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
