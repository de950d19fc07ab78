package cli_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rowan-storage/rowan/internal/cli"
	"github.com/rowan-storage/rowan/internal/cli/daemon"
	"github.com/rowan-storage/rowan/nbd"
)

// startLimit bounds the waits of the scripts.
const startLimit = time.Minute

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"rowan": func() {
			os.Exit(cli.Main(os.Args[1:], "v0.0.0-test"))
		},
		"rowand": func() {
			os.Exit(daemon.Main(os.Args[1:], os.Stdout, os.Stderr, "v0.0.0-test"))
		},
	})
}

// TestScript runs the scripts in testdata/script. Beside the commands of
// testscript they have
//
//	code N PROGRAM ARG…     runs a program that must end with the exit code N
//	daemon start [FLAG…]    starts rowand on $WORK/pool and $ROWAN_API
//	daemon stop             ends it by SIGTERM; it must succeed
//	daemon hangup           ends it by SIGHUP; it must succeed
//	daemon kill             ends it by SIGKILL
//	write EXPORT OFFSET LENGTH BYTE    writes to an export
//	discard EXPORT OFFSET LENGTH
//	interrupt-prompt PROGRAM ARG…    interrupts a program that asks a person
//	interrupt-read PROGRAM ARG…      interrupts one that waits for the daemon
//	connect EXPORT          keeps a connection until the end of the script
//
// and the condition [devices]: FUSE and loop devices can be used.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("ROWAN_API", filepath.Join(e.WorkDir, "api.sock"))
			e.Setenv("ROWAN_ATTACH_DIR", filepath.Join(e.WorkDir, "attach"))
			e.Setenv("TZ", "UTC")
			s := &state{work: e.WorkDir, env: e.Vars}
			e.Values[stateKey{}] = s
			e.Defer(s.end)
			return nil
		},
		Condition: func(name string) (bool, error) {
			if name != "devices" {
				return false, fmt.Errorf("there is no condition %s", name)
			}
			return haveDevices()
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": code, "daemon": daemonCommand, "write": write, "discard": discard, "connect": connect,
			"interrupt-prompt": interruptPrompt, "interrupt-read": interruptRead,
		},
	})
}

// haveDevices fails rather than being false where no test may be skipped.
func haveDevices() (bool, error) {
	missing := ""
	if os.Geteuid() != 0 {
		missing = "root, to mount filesystems"
	}
	for _, dev := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(dev); err != nil {
			missing = dev
		}
	}
	for _, program := range []string{"mkfs.ext4", "mount", "umount", "losetup", "setpriv"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = program
		}
	}
	if missing != "" && os.Getenv("ROWAN_CI") != "" {
		return false, fmt.Errorf("missing: %s", missing)
	}
	return missing == "", nil
}

type stateKey struct{}

// state is what a script has running.
type state struct {
	work   string
	env    []string
	daemon *exec.Cmd
	conns  []*nbd.Client
}

func stateOf(ts *testscript.TestScript) *state { return ts.Value(stateKey{}).(*state) }

func (s *state) log() string { return filepath.Join(s.work, "daemon.log") }

// end ends what a script that failed has left running and mounted.
func (s *state) end() {
	// What does not exist is an error of these, and the rule.
	run := func(line string) {
		cmd := exec.Command("sh", "-c", line)
		cmd.Env, cmd.Dir = s.env, s.work
		_ = cmd.Run()
	}
	run("umount -l mnt")
	run("for d in $(rowan attach --list -q); do rowan detach $d; done")
	run("rowan detach none") // cleans up after holders that were killed
	for _, c := range s.conns {
		_ = c.Close()
	}
	if s.daemon != nil {
		_ = s.daemon.Process.Kill()
		_ = s.daemon.Wait()
	}
}

func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N PROGRAM [ARG…]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func daemonCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: daemon start|stop|kill")
	}
	s := stateOf(ts)
	switch args[0] {
	case "start":
		ts.Check(s.start(ts, args[1:]))
	case "stop", "hangup":
		signal := syscall.SIGTERM
		if args[0] == "hangup" {
			signal = syscall.SIGHUP
		}
		ts.Check(s.daemon.Process.Signal(signal))
		err := s.daemon.Wait()
		s.daemon = nil
		ts.Check(err)
	case "kill":
		ts.Check(s.daemon.Process.Kill())
		_ = s.daemon.Wait() // it was killed
		s.daemon = nil
	default:
		ts.Fatalf("daemon %s?", args[0])
	}
}

func (s *state) start(ts *testscript.TestScript, flags []string) error {
	log, err := os.Create(s.log())
	if err != nil {
		return err
	}
	defer log.Close()
	args := append([]string{"--config", "/dev/null", "--pool", filepath.Join(s.work, "pool"), "--api", ts.Getenv("ROWAN_API")}, flags...)
	cmd := exec.Command("rowand", args...)
	cmd.Dir, cmd.Stderr = s.work, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// A test that nohup started ignores SIGHUP, and the daemon would too.
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	err = cmd.Start()
	signal.Stop(hangup)
	if err != nil {
		return err
	}
	s.daemon = cmd
	for deadline := time.Now().Add(startLimit); ; time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(s.log())
		if err != nil {
			return err
		}
		if strings.Contains(string(text), "msg=ready") {
			return nil
		}
		if time.Now().After(deadline) || strings.Contains(string(text), "rowand: ") {
			return fmt.Errorf("the daemon is not ready:\n%s", text)
		}
	}
}

func dial(ts *testscript.TestScript, export string) *nbd.Client {
	c, err := nbd.Dial(context.Background(), "unix", filepath.Join(stateOf(ts).work, "nbd.sock"), nbd.ClientOptions{Export: export})
	ts.Check(err)
	return c
}

func number(ts *testscript.TestScript, text string) int64 {
	n, err := strconv.ParseInt(text, 0, 64)
	ts.Check(err)
	return n
}

func write(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: write EXPORT OFFSET LENGTH BYTE")
	}
	c := dial(ts, args[0])
	data := make([]byte, number(ts, args[2]))
	for i := range data {
		data[i] = args[3][0]
	}
	_, err := c.WriteAt(data, number(ts, args[1]))
	ts.Check(err)
	ts.Check(c.Flush(context.Background()))
	ts.Check(c.Close())
	waitNoClients(ts)
}

func discard(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: discard EXPORT OFFSET LENGTH")
	}
	c := dial(ts, args[0])
	ts.Check(c.Discard(context.Background(), number(ts, args[1]), number(ts, args[2])))
	ts.Check(c.Close())
	waitNoClients(ts)
}

// waitNoClients waits until the daemon has noticed that clients are gone.
func waitNoClients(ts *testscript.TestScript) {
	for deadline := time.Now().Add(startLimit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		cmd := exec.Command("rowan", "--api", ts.Getenv("ROWAN_API"), "lun", "list", "-o", "json")
		out, err := cmd.Output()
		ts.Check(err)
		if strings.Count(string(out), `"clients": 0`) == strings.Count(string(out), `"clients"`) {
			return
		}
	}
	ts.Fatalf("the daemon still has clients")
}

func connect(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: connect EXPORT")
	}
	s := stateOf(ts)
	s.conns = append(s.conns, dial(ts, args[0]))
}
