package cli_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// quietTime is for how long a pipe has to be silent to count as stuck.
const quietTime = 300 * time.Millisecond

// interruptPrompt runs a program on a terminal and interrupts it when it has
// asked for something to be typed. It must end with the exit code 1.
func interruptPrompt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: interrupt-prompt PROGRAM [ARG…]")
	}
	keyboard, terminal, err := openTerminal()
	ts.Check(err)
	defer keyboard.Close()
	cmd := program(ts, args)
	cmd.Stdin = terminal
	stderr, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Check(terminal.Close())
	r := bufio.NewReader(stderr)
	for said := ""; err == nil && !strings.HasSuffix(said, "\nType "); {
		said, err = r.ReadString(' ')
	}
	ts.Check(err)
	interrupt(ts, cmd, r)
}

// openTerminal makes a pair of pseudoterminals (pty(7)).
func openTerminal() (keyboard, terminal *os.File, err error) {
	keyboard, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	fd := int(keyboard.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		return nil, nil, errors.Join(err, keyboard.Close())
	}
	return keyboard, terminal, nil
}

// interruptRead runs a program that writes out what it reads from the daemon,
// stops the daemon from answering, and interrupts the program when no more
// comes. It must end with the exit code 1.
func interruptRead(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: interrupt-read PROGRAM [ARG…]")
	}
	cmd := program(ts, args)
	out, in, err := os.Pipe()
	ts.Check(err)
	defer out.Close()
	cmd.Stdout = in
	stderr, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Check(in.Close())
	_, err = io.CopyN(io.Discard, out, 1<<20)
	ts.Check(err)
	daemon := stateOf(ts).daemon.Process
	ts.Check(daemon.Signal(syscall.SIGSTOP))
	defer func() { ts.Check(daemon.Signal(syscall.SIGCONT)) }()
	for buf := make([]byte, 1<<20); err == nil; {
		ts.Check(out.SetReadDeadline(time.Now().Add(quietTime)))
		_, err = out.Read(buf)
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		ts.Fatalf("the program does not wait for the daemon: %v", err)
	}
	interrupt(ts, cmd, stderr)
}

func program(ts *testscript.TestScript, args []string) *exec.Cmd {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env = stateOf(ts).work, append(os.Environ(), stateOf(ts).env...)
	cmd.Env = append(cmd.Env, "ROWAN_API="+ts.Getenv("ROWAN_API"))
	return cmd
}

// interrupt interrupts a program once and waits for its end.
func interrupt(ts *testscript.TestScript, cmd *exec.Cmd, stderr io.Reader) {
	ts.Check(cmd.Process.Signal(os.Interrupt))
	late := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	var text bytes.Buffer
	_, err := text.ReadFrom(stderr)
	ts.Check(err)
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(text.String(), "rowan: interrupted") {
		ts.Fatalf("interrupted it ended with %v and %q", err, text.String())
	}
}
