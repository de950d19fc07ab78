package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rowan-storage/rowan/test/harness"
)

// The exit codes of the command line.
const (
	codeFailed   = 1
	codeUsage    = 2
	codeNotFound = 10
	codeInUse    = 11
)

// TestBadCommands checks that each says what was wrong and with what, and ends
// with the documented exit code.
func TestBadCommands(t *testing.T) {
	d := harness.Start(t)
	d.Rowan("lun", "create", "web", "--size", "64M")
	d.Rowan("snapshot", "create", "web@a")
	d.Rowan("snapshot", "create", "web@locked")
	d.Rowan("snapshot", "lock", "web@locked")
	for _, c := range []struct {
		line string
		code int
		says []string // all of it, somewhere on standard error
	}{
		{"frobnicate", codeUsage, []string{"frobnicate"}},
		{"lun", codeUsage, nil},
		{"lun create", codeUsage, []string{"NAME"}},
		{"lun create new", codeUsage, []string{"size"}},
		{"lun create new --size 10Q", codeUsage, []string{"10Q"}},
		{"lun create new --size -1M", codeUsage, nil},
		{"lun create new --size 1000T", codeUsage, nil},
		{"lun create ../etc --size 1M", codeUsage, []string{"../etc"}},
		{"lun create web --size 64M", codeFailed, []string{"web", "exists"}},
		{"lun create new --size 64M --colour red", codeUsage, []string{"colour"}},
		{"lun show nowhere", codeNotFound, []string{"nowhere"}},
		{"lun show web -o xml", codeUsage, []string{"xml"}},
		{"lun resize web --size 1M", codeUsage, []string{"web"}},
		{"lun delete web --yes", codeInUse, []string{"web", "snapshot"}},
		{"lun delete web", codeUsage, []string{"--yes"}},
		{"lun delete nowhere --yes", codeNotFound, []string{"nowhere"}},
		{"snapshot create nowhere", codeNotFound, []string{"nowhere"}},
		{"snapshot create web@a", codeFailed, []string{"web@a", "exists"}},
		{"snapshot create web@a/b", codeUsage, []string{"a/b"}},
		{"snapshot show web", codeUsage, []string{"web"}},
		{"snapshot show web@nothing", codeNotFound, []string{"web@nothing"}},
		{"snapshot delete web@a", codeUsage, []string{"--yes"}},
		{"snapshot delete web@locked --yes", codeInUse, []string{"web@locked", "lock"}},
		{"snapshot revert web@a", codeUsage, []string{"--yes"}},
		{"snapshot clone web@a web", codeFailed, []string{"web", "exists"}},
		{"snapshot diff web@nothing", codeNotFound, []string{"web@nothing"}},
		{"snapshot diff web@a web@nothing", codeNotFound, []string{"web@nothing"}},
		{"files ls web@a:/nothing/here", codeNotFound, []string{"nothing"}},
		{"files cat web@a", codeUsage, nil},
		{"detach web", codeNotFound, []string{"web"}},
		{"--api /nowhere/api.sock lun list", codeFailed, []string{"/nowhere/api.sock"}},
	} {
		t.Run(c.line, func(t *testing.T) {
			r := d.TryRowan(strings.Fields(c.line)...)
			if r.Code != c.code {
				t.Errorf("exit code %d, want %d", r.Code, c.code)
			}
			if r.Stdout != "" {
				t.Errorf("on standard output: %q", r.Stdout)
			}
			for _, want := range c.says {
				if !strings.Contains(r.Stderr, want) {
					t.Errorf("%q does not speak of %q", r.Stderr, want)
				}
			}
			if lines := strings.Count(r.Stderr, "\n"); lines < 1 || lines > 40 {
				t.Errorf("%d lines on standard error:\n%s", lines, r.Stderr)
			}
		})
	}
	if got := snapshots(t, d, "web"); len(got) != 2 {
		t.Errorf("the snapshots after the bad commands: %+v", got)
	}
}

// TestBadDaemons starts daemons that must not start.
func TestBadDaemons(t *testing.T) {
	d := harness.Start(t)
	dir := harness.ShortDir(t)
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ok := []string{"--pool", filepath.Join(dir, "pool"), "--api", filepath.Join(dir, "api.sock"), "--nbd", "unix:" + filepath.Join(dir, "nbd.sock")}
	notAPool := filepath.Join(dir, "photos")
	if err := os.MkdirAll(filepath.Join(notAPool, "2024"), 0o755); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()

	for _, c := range []struct {
		name string
		args []string
		code int
		says []string
	}{
		{"unknown flag", append(ok, "--frob"), codeUsage, []string{"frob"}},
		{"an argument", append(ok, "start"), codeUsage, []string{"start"}},
		{"unknown key", append(ok, "--config", write("a.toml", "log_level = \"info\"\n\npol = \"/x\"\n")), codeUsage, []string{"a.toml:3", "pol"}},
		{"wrong type", append(ok, "--config", write("b.toml", "\nnbd = 7\n")), codeUsage, []string{"b.toml:2", "nbd"}},
		{"no TOML", append(ok, "--config", write("c.toml", "pool = \n")), codeUsage, []string{"c.toml:1"}},
		{"no such file", append(ok, "--config", filepath.Join(dir, "d.toml")), codeUsage, []string{"d.toml"}},
		{"no address", append(ok, "--nbd", "nonsense"), codeUsage, []string{"nonsense"}},
		{"plaintext for everybody", append(ok, "--nbd", "0.0.0.0:0"), codeUsage, []string{"0.0.0.0:0", "plaintext"}},
		{"address in use", append(ok, "--nbd", taken.Addr().String()), codeFailed, []string{taken.Addr().String(), "in use"}},
		{"pool in use", append([]string{"--pool", d.Pool}, ok[2:]...), codeInUse, []string{d.Pool, "in use"}},
		{"API socket in use", append([]string{"--pool", filepath.Join(dir, "pool2"), "--api", d.API}, ok[4:]...), codeFailed, []string{d.API, "in use"}},
		{"not a pool", append([]string{"--pool", notAPool}, ok[2:]...), codeFailed, []string{notAPool}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := harness.Try(t, harness.Bin("rowand"), c.args...)
			if r.Code != c.code {
				t.Errorf("exit code %d, want %d", r.Code, c.code)
			}
			for _, want := range c.says {
				if !strings.Contains(r.Stderr, want) {
					t.Errorf("%q does not speak of %q", r.Stderr, want)
				}
			}
		})
	}
	// The first daemon was not disturbed.
	d.Rowan("lun", "create", "web", "--size", "1M")
}

// TestStopUnderLoad asks the daemon to stop while clients are connected.
func TestStopUnderLoad(t *testing.T) {
	d := harness.Start(t)
	d.Rowan("lun", "create", "web", "--size", "16M")
	c, err := open(t.Context(), d, "web", "web")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if _, err := c[0].WriteAt([]byte("kept"), 4096); err != nil {
		t.Fatal(err)
	}
	d.Stop()
	for _, socket := range []string{d.API, d.NBD} {
		if _, err := os.Stat(socket); !os.IsNotExist(err) {
			t.Errorf("%s was left behind: %v", socket, err)
		}
	}
	d.Start()
	again, err := open(t.Context(), d, "web")
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	p := make([]byte, 4)
	if _, err := again[0].ReadAt(p, 4096); err != nil || string(p) != "kept" {
		t.Errorf("read %q, %v", p, err)
	}
}
