package background

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// readyVariable names the environment variable that holds the number of the
// pipe's file descriptor.
const readyVariable = "ROWAN_READY_FD"

// maxMessageBytes bounds what the new process says.
const maxMessageBytes = 1 << 16

// The times of looking after a process.
const (
	watchEvery = 100 * time.Millisecond
	reapEvery  = 5 * time.Millisecond
	reapLimit  = time.Second
)

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
	m, err := wait(ctx, cmd.Process.Pid, r)
	switch {
	case err != nil:
		// It fails only if the process has ended already.
		_ = cmd.Process.Kill()
		reap(cmd.Process)
		return err
	case m.Error != "":
		reap(cmd.Process)
		return &Error{Text: m.Error, Code: m.Code}
	}
	if err := json.Unmarshal(m.Value, value); err != nil {
		return fmt.Errorf("background: %w", err)
	}
	// From here on it belongs to init once this process ends.
	return cmd.Process.Release()
}

// wait waits for what the process says.
func wait(ctx context.Context, pid int, r *os.File) (message, error) {
	// A pipe takes deadlines; if this one did not, reading would end all the
	// same when the process does.
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Now()) })
	defer stop()
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { watch(pid, r, done) })
	text, err := bufio.NewReader(io.LimitReader(r, maxMessageBytes)).ReadBytes('\n')
	close(done)
	watching.Wait()
	if ctx.Err() != nil {
		return message{}, ctx.Err()
	}
	var m message
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		return m, errors.New("background: the process ended before it was ready")
	}
	return m, nil
}

// watch ends the reading when the process has ended though its end of the pipe
// is still open: a thread that the kernel cannot end keeps it.
func watch(pid int, r *os.File, done <-chan struct{}) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		if isZombie(pid) {
			// What it said before that is read first.
			_ = r.SetReadDeadline(time.Now().Add(watchEvery))
			return
		}
	}
}

// isZombie tells whether the main thread of a process has ended, see
// proc_pid_stat(5).
func isZombie(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	_, rest, ok := bytes.Cut(text, []byte(") "))
	return ok && len(rest) > 0 && (rest[0] == 'Z' || rest[0] == 'X')
}

// reap takes the exit code of a process that is ending, so that nothing is left
// of it. One that does not end is left to init.
func reap(p *os.Process) {
	for deadline := time.Now().Add(reapLimit); time.Now().Before(deadline); time.Sleep(reapEvery) {
		if pid, err := unix.Wait4(p.Pid, nil, unix.WNOHANG, nil); pid != 0 && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = p.Release()
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
