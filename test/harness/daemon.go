package harness

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startLimit is how long a daemon may take to listen, recovery included, and
// how long to stop.
const startLimit = 2 * time.Minute

// A Daemon is a running rowand.
type Daemon struct {
	Pool string // its pool directory
	API  string // its API socket
	NBD  string // its NBD socket
	TCP  string // its NBD host and port on loopback

	t    testing.TB
	args []string
	log  string // what it wrote to standard error, in a file
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended

	attached map[string]bool // LUNs that Detach has still to be called for
}

// Start runs a daemon on a new pool and waits until it listens. More arguments
// may be given. It is stopped, and its files removed, when the test ends.
func Start(t testing.TB, args ...string) *Daemon {
	t.Helper()
	dir := ShortDir(t)
	d := &Daemon{
		Pool: filepath.Join(dir, "pool"),
		API:  filepath.Join(dir, "api.sock"),
		NBD:  filepath.Join(dir, "nbd.sock"),
		TCP:  freePort(t),
		t:    t,
		args: args,
		log:  filepath.Join(dir, "log"),

		attached: map[string]bool{},
	}
	t.Cleanup(d.end)
	d.Start()
	return d
}

// ShortDir makes a directory with a path short enough for unix sockets, which
// may have 107 bytes. It is removed when the test ends.
func ShortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rowan-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("removing the test's directory: %v", err)
		}
	})
	return dir
}

// freePort returns an address on loopback that nobody listens on.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Command returns the daemon's command line.
func (d *Daemon) Command() []string {
	return append([]string{
		Bin("rowand"), "--pool", d.Pool, "--api", d.API,
		"--nbd", "unix:" + d.NBD, "--nbd", d.TCP,
	}, d.args...)
}

// Start starts the daemon, again after Stop or Kill, and waits until it
// listens.
func (d *Daemon) Start() {
	d.t.Helper()
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	line := d.Command()
	d.cmd = exec.Command(line[0], line[1:]...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	// The daemon dies with the test binary, even if that is killed.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	cmd, done := d.cmd, make(chan struct{})
	d.done = done
	go func() {
		defer close(done)
		_ = cmd.Wait() // the state is read where the end was asked for
	}()
	Eventually(d.t, startLimit, "the daemon listens", func() bool {
		select {
		case <-done:
			d.t.Fatalf("the daemon ended: %v", cmd.ProcessState)
		default:
		}
		return listens("unix", d.API) && listens("unix", d.NBD) && listens("tcp", d.TCP)
	})
}

func listens(network, address string) bool {
	c, err := net.Dial(network, address)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// PID is the daemon's process.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Kill ends the daemon as kill -9 does.
func (d *Daemon) Kill() {
	d.t.Helper()
	if err := d.cmd.Process.Kill(); err != nil {
		d.t.Fatal(err)
	}
	<-d.done
}

// Stop asks the daemon to end, with SIGTERM, and expects it to succeed.
func (d *Daemon) Stop() {
	d.t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	select {
	case <-d.done:
	case <-time.After(startLimit):
		// Its log shows then what it was at.
		if err := d.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
			d.t.Error(err)
		}
		<-d.done
		d.t.Fatalf("the daemon did not stop within %v", startLimit)
	}
	if code := d.cmd.ProcessState.ExitCode(); code != 0 {
		d.t.Fatalf("the daemon stopped with %v", d.cmd.ProcessState)
	}
}

// end stops a daemon that still runs and looks through what it wrote.
func (d *Daemon) end() {
	if d.cmd != nil && d.cmd.Process != nil {
		select {
		case <-d.done:
		default:
			d.Stop()
		}
	}
	log := d.Log()
	if strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic:") {
		d.t.Error("the daemon reported a race or a panic")
	}
	if d.t.Failed() {
		d.t.Logf("the daemon wrote:\n%s", tail(log, 400))
	}
}

// Log returns what the daemon wrote so far.
func (d *Daemon) Log() string {
	text, err := os.ReadFile(d.log)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(text)
}

// tail returns the last lines of a text.
func tail(text string, lines int) string {
	all := bytes.SplitAfter([]byte(text), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], nil))
}

// URI is the address of an export on the daemon's unix socket.
func (d *Daemon) URI(export string) string {
	return fmt.Sprintf("nbd+unix:///%s?socket=%s", url.PathEscape(export), d.NBD)
}

// TCPURI is the address of an export on the daemon's TCP port.
func (d *Daemon) TCPURI(export string) string {
	return fmt.Sprintf("nbd://%s/%s", d.TCP, url.PathEscape(export))
}

// Rowan runs a command that must succeed and returns its standard output.
func (d *Daemon) Rowan(args ...string) string {
	d.t.Helper()
	return Run(d.t, Bin("rowan"), append([]string{"--api", d.API}, args...)...)
}

// TryRowan runs a command that may fail.
func (d *Daemon) TryRowan(args ...string) Result {
	d.t.Helper()
	return Try(d.t, Bin("rowan"), append([]string{"--api", d.API}, args...)...)
}

// PoolBytes is the space that the pool takes on disk, as du counts it.
func (d *Daemon) PoolBytes() int64 {
	d.t.Helper()
	var total int64
	err := filepath.WalkDir(d.Pool, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil // a file of the running daemon, gone in between
			}
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err == nil {
			total += st.Blocks * 512
		}
		return nil
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return total
}
