package config_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/internal/config"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func ptr[T any](v T) *T { return &v }

func TestErrorsNameFileLineAndKey(t *testing.T) {
	cases := []struct{ name, text, want string }{
		{"unknown key", "pool = '/p'\npol = '/q'\n", "FILE:2: pol: there is no such key"},
		{"unknown key in table", "[nbd_tls]\ncert = '/c'\n\ncrt = '/c'\n", "FILE:4: nbd_tls.crt: there is no such key"},
		{"unknown table", "\n[iscsy]\nport = 1\n", "FILE:2: iscsy: there is no such key"},
		{"wrong type", "pool = '/p'\nnbd = 'unix:/x'\n", "FILE:2: nbd: "},
		{"wrong type of bool", "\n\nnbd_allow_plaintext = 'yes'\n", "FILE:3: nbd_allow_plaintext: "},
		{"relative path", "\npool = 'here'\n", `FILE:2: pool: "here" is not an absolute path`},
		{"relative socket", "nbd = [\n 'unix:x',\n]\n", `FILE:1: nbd: "x" is not an absolute path`},
		{"empty path", "api = ''\n", "FILE:1: api: the path is empty"},
		{"long socket", "api = '/" + strings.Repeat("x", 120) + "'\n", "a socket's path can have 107"},
		{"bad address", "nbd = ['nowhere']\n", `FILE:1: nbd: "nowhere" is neither unix:PATH nor HOST:PORT`},
		{"bad port", "nbd = ['localhost:70000']\n", "FILE:1: nbd: "},
		{"bad level", "log_level = 'loud'\n", `FILE:1: log_level: "loud" is none of debug, info, warn, error`},
		{"bad format", "log_format = 'xml'\n", `FILE:1: log_format: "xml" is neither text nor json`},
		{"bad timeout", "stop_timeout = 'soon'\n", `FILE:1: stop_timeout: "soon" is not a duration`},
		{"bad rate", "scrub_rate = '1 apple'\n", `FILE:1: scrub_rate: "1 apple" is neither a rate such as 64M`},
		{"low rate", "scrub_rate = '1K'\n", `FILE:1: scrub_rate: "1K" is less than`},
		{"bad memory", "map_memory = 'much'\n", `FILE:1: map_memory: "much" is none of auto, unlimited or a size`},
		{"little memory", "map_memory = '1M'\n", `FILE:1: map_memory: "1M" is less than 16777216 bytes`},
		{"negative timeout", "stop_timeout = '-1s'\n", "FILE:1: stop_timeout: -1s is not more than 0"},
		{"inline table", "nbd_tls = { key = '' }\n", "FILE:1: nbd_tls.key: the path is empty"},
		{"syntax", "pool = '/p'\nnbd = [\n", "FILE:"},
		{"twice", "pool = '/p'\npool = '/q'\n", "FILE:"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			file := write(t, filepath.Join(t.TempDir(), "rowan.toml"), c.text)
			_, err := config.Load(file)
			if err == nil {
				t.Fatalf("no error for\n%s", c.text)
			}
			want := strings.ReplaceAll(c.want, "FILE", file)
			if !strings.Contains(err.Error(), want) {
				t.Errorf("error is\n%v\nwant in it\n%s", err, want)
			}
		})
	}
}

func TestAllErrorsAreReported(t *testing.T) {
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "rowan.toml"), "pool = 'a'\nlog_level = 'b'\n")
	write(t, filepath.Join(dir, "conf.d", "10.toml"), "bogus = 1\nworse = 2\n")
	_, err := config.Load(file)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"rowan.toml:1: pool:", "rowan.toml:2: log_level:", "10.toml:1: bogus:", "10.toml:2: worse:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in\n%v", want, err)
		}
	}
}

func TestPrecedence(t *testing.T) {
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "rowan.toml"),
		"pool = '/one'\napi = '/run/a.sock'\nlog_level = 'debug'\nnbd = ['127.0.0.1:1']\nstop_timeout = '1m'\n")
	write(t, filepath.Join(dir, "conf.d", "20-b.toml"), "pool = '/three'\n")
	write(t, filepath.Join(dir, "conf.d", "10-a.toml"), "pool = '/two'\nlog_level = 'warn'\n")
	write(t, filepath.Join(dir, "conf.d", "ignored.txt"), "bogus = 1\n")
	c, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	err = c.Override(config.Overrides{LogLevel: ptr("error"), NBD: []string{"unix:/run/n", "[::1]:2"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Finish(); err != nil {
		t.Fatal(err)
	}
	if c.Pool != "/three" || c.API != "/run/a.sock" || c.LogLevel != slog.LevelError || c.StopTimeout != time.Minute {
		t.Errorf("got %+v", c)
	}
	want := []config.Address{{Network: "unix", Addr: "/run/n"}, {Network: "tcp", Addr: "[::1]:2"}}
	if !reflect.DeepEqual(c.NBD, want) {
		t.Errorf("nbd is %v, want %v", c.NBD, want)
	}
}

func TestDefaults(t *testing.T) {
	c := config.Default()
	if err := c.Finish(); err != nil {
		t.Fatal(err)
	}
	want := []config.Address{{Network: "unix", Addr: "/run/rowan/nbd.sock"}}
	if !reflect.DeepEqual(c.NBD, want) {
		t.Errorf("nbd is %v, want %v", c.NBD, want)
	}
	if err := c.Override(config.Overrides{API: ptr("/tmp/x/api.sock")}); err != nil {
		t.Fatal(err)
	}
	if err := c.Finish(); err != nil {
		t.Fatal(err)
	}
	if c.NBD[0].Addr != "/tmp/x/nbd.sock" {
		t.Errorf("nbd is %v, want it beside the API's socket", c.NBD)
	}
}

func TestNoNBDIsAChoice(t *testing.T) {
	c, err := config.Load(write(t, filepath.Join(t.TempDir(), "c.toml"), "nbd = []\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Finish(); err != nil || len(c.NBD) != 0 {
		t.Errorf("nbd is %v (%v), want none", c.NBD, err)
	}
}

func TestMissingFileIsAnError(t *testing.T) {
	_, err := config.Load(filepath.Join(t.TempDir(), "none.toml"))
	if err == nil || !strings.Contains(err.Error(), "none.toml") {
		t.Errorf("error is %v", err)
	}
}

func TestHugeFileIsRefused(t *testing.T) {
	file := write(t, filepath.Join(t.TempDir(), "c.toml"), strings.Repeat("# x\n", 1<<19))
	if _, err := config.Load(file); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("error is %v", err)
	}
}

func TestPlaintextBeyondLoopback(t *testing.T) {
	cases := []struct {
		address string
		public  bool
	}{
		{"unix:/x", false}, {"127.0.0.1:1", false}, {"127.9.9.9:1", false}, {"[::1]:1", false},
		{"localhost:1", false}, {"[::ffff:127.0.0.1]:1", false},
		{":1", true}, {"0.0.0.0:1", true}, {"[::]:1", true}, {"192.0.2.1:1", true}, {"localhost.example:1", true},
	}
	for _, c := range cases {
		for _, allow := range []bool{false, true} {
			conf := config.Default()
			if err := conf.Override(config.Overrides{NBD: []string{c.address}, NBDAllowPlaintext: &allow}); err != nil {
				t.Fatal(err)
			}
			err := conf.Finish()
			if refused := err != nil; refused != (c.public && !allow) {
				t.Errorf("%s, allow %v: %v", c.address, allow, err)
			}
			if err != nil && !strings.HasPrefix(err.Error(), "--nbd: ") {
				t.Errorf("error %q does not begin with the flag", err)
			}
		}
	}
}

func TestFlagErrors(t *testing.T) {
	c := config.Default()
	err := c.Override(config.Overrides{LogLevel: ptr("loud"), StopTimeout: ptr("x"), Pool: ptr("")})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`--log-level: "loud"`, `--stop-timeout: "x"`, "--pool: the path is empty"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in\n%v", want, err)
		}
	}
}

func TestFlagPathsAreRelativeToTheWorkingDirectory(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	c := config.Default()
	if err := c.Override(config.Overrides{Pool: ptr("p"), API: ptr("a.sock"), NBD: []string{"unix:n.sock"}}); err != nil {
		t.Fatal(err)
	}
	if c.Pool != filepath.Join(dir, "p") || c.API != filepath.Join(dir, "a.sock") || c.NBD[0].Addr != filepath.Join(dir, "n.sock") {
		t.Errorf("got %+v", c)
	}
}

func TestSameSocketTwice(t *testing.T) {
	c := config.Default()
	if err := c.Override(config.Overrides{API: ptr("/x/s"), NBD: []string{"unix:/x/s"}}); err != nil {
		t.Fatal(err)
	}
	if err := c.Finish(); err == nil || !strings.Contains(err.Error(), "/x/s is given twice") {
		t.Errorf("error is %v", err)
	}
}
