package background

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// readyVariable names the environment variable that holds the number of the
// pipe's file descriptor.
const readyVariable = "ROWAN_READY_FD"

// maxMessageBytes bounds what the new process says.
const maxMessageBytes = 1 << 16

// message is what goes over the pipe.
type message struct {
	Error string          `json:"error,omitempty"`
	Code  int             `json:"code,omitempty"`
	Value json.RawMessage `json:"value,omitempty"`
}

// Error is what a process said that could not become ready.
type Error struct {
	Text string
	Code int // an exit code
}

func (e *Error) Error() string { return e.Text }

// Command is a process to start.
type Command struct {
	Path string
	Args []string // without the program's name
	Env  []string
	// Log takes its standard output and error; nil for nowhere.
	Log *os.File
}

// Start starts the process and waits until it is ready. What it said is decoded
// into value. When ctx ends first, the process is killed.
func Start(ctx context.Context, c Command, value any) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("background: %w", err)
	}
	defer r.Close()
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Env = append(append([]string{}, c.Env...), readyVariable+"=3")
	cmd.ExtraFiles = []*os.File{w}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if c.Log != nil {
		cmd.Stdout, cmd.Stderr = c.Log, c.Log
	}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("background: %w", err)
	}
	stop := context.AfterFunc(ctx, func() {
		// Both fail only if the process has ended already.
		_ = cmd.Process.Kill()
		_ = r.Close()
	})
	text, readErr := bufio.NewReader(io.LimitReader(r, maxMessageBytes)).ReadBytes('\n')
	if !stop() {
		_ = cmd.Wait()
		return ctx.Err()
	}
	var m message
	if readErr == nil {
		readErr = json.Unmarshal(text, &m)
	}
	switch {
	case readErr != nil:
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return fmt.Errorf("background: the process ended before it was ready: %v", cmd.ProcessState)
	case m.Error != "":
		_ = cmd.Wait()
		return &Error{Text: m.Error, Code: m.Code}
	}
	if err := json.Unmarshal(m.Value, value); err != nil {
		return fmt.Errorf("background: %w", err)
	}
	// From here on it belongs to init once this process ends.
	return cmd.Process.Release()
}

// Notifier is the new process's end of the pipe.
type Notifier struct{ f *os.File }

// FromEnviron returns the Notifier of a process that Start started, or nil for
// any other. It must be called once, early.
func FromEnviron(getenv func(string) string) (*Notifier, error) {
	text := getenv(readyVariable)
	if text == "" {
		return nil, nil
	}
	fd, err := strconv.Atoi(text)
	if err != nil || fd < 3 {
		return nil, errors.New("background: " + readyVariable + " is not the number of a file descriptor")
	}
	unix.CloseOnExec(fd)
	return &Notifier{os.NewFile(uintptr(fd), "ready")}, nil
}

// Ready says that the process is ready and passes value on.
func (n *Notifier) Ready(value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("background: %w", err)
	}
	return n.send(message{Value: data})
}

// Fail says why the process cannot become ready.
func (n *Notifier) Fail(text string, code int) error {
	if len(text) > maxMessageBytes/8 {
		text = text[:maxMessageBytes/8]
	}
	return n.send(message{Error: text, Code: code})
}

func (n *Notifier) send(m message) error {
	err := json.NewEncoder(n.f).Encode(m)
	return errors.Join(err, n.f.Close())
}
