package appliance_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/internal/appliance"
	"github.com/rowan-storage/rowan/internal/config"
	"github.com/rowan-storage/rowan/internal/httpapi/client"
	"github.com/rowan-storage/rowan/internal/httpapi/wire"
	"github.com/rowan-storage/rowan/nbd"
)

// lines is a log that tests wait for.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func newLines() *lines { return &lines{more: make(chan struct{}, 1)} }

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.more <- struct{}{}:
	default:
	}
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// daemon is an appliance of this process.
type daemon struct {
	config config.Config
	log    *lines
	stop   context.CancelFunc
	done   chan error
	client *client.Client
}

func configIn(t *testing.T, dir string, nbdAddresses ...string) config.Config {
	t.Helper()
	c := config.Default()
	pool, api := filepath.Join(dir, "pool"), filepath.Join(dir, "api.sock")
	if err := c.Override(config.Overrides{Pool: &pool, API: &api, NBD: nbdAddresses}); err != nil {
		t.Fatal(err)
	}
	if err := c.Finish(); err != nil {
		t.Fatal(err)
	}
	return c
}

// shortDir makes a directory whose path leaves room for sockets' names.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rowan-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// start runs an appliance until the test ends or it is stopped.
func start(t *testing.T, c config.Config) *daemon {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	d := &daemon{config: c, log: newLines(), stop: cancel, done: make(chan error, 1), client: client.New(c.API)}
	go func() { d.done <- appliance.Run(ctx, c, "test", slog.New(slog.NewTextHandler(d.log, nil))) }()
	t.Cleanup(func() {
		d.client.Close()
		cancel()
		if err := <-d.done; err != nil {
			t.Errorf("the daemon: %v", err)
		}
	})
	for !strings.Contains(d.log.String(), "msg=ready") {
		select {
		case <-d.log.more:
		case err := <-d.done:
			d.done <- nil
			t.Fatalf("the daemon ended: %v\n%s", err, d.log)
		}
	}
	return d
}

// end stops the appliance and returns its error.
func (d *daemon) end() error {
	d.stop()
	err := <-d.done
	d.done <- nil
	return err
}

func TestRunServesAndStops(t *testing.T) {
	ctx := context.Background()
	dir := shortDir(t)
	d := start(t, configIn(t, dir, "unix:"+dir+"/nbd.sock", "127.0.0.1:0"))
	if _, err := d.client.CreateLUN(ctx, "web", 1<<20); err != nil {
		t.Fatal(err)
	}
	status, err := d.client.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if status.Version != "test" || status.PID != os.Getpid() || status.API != d.config.API || len(status.NBD) != 2 {
		t.Errorf("status is %+v", status)
	}
	for _, a := range status.NBD {
		c, err := nbd.Dial(ctx, a.Network, a.Address, nbd.ClientOptions{Export: "web"})
		if err != nil {
			t.Fatalf("%v: %v", a, err)
		}
		if _, err := c.WriteAt([]byte("written"), 4096); err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, socket := range []string{d.config.API, dir + "/nbd.sock"} {
		if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o660 {
			t.Errorf("%s: %v, %v", socket, info.Mode(), err)
		}
	}
	d.client.Close()
	if err := d.end(); err != nil {
		t.Errorf("stopping: %v", err)
	}
	left, err := filepath.Glob(dir + "/*")
	if err != nil || !slices.Equal(left, []string{dir + "/pool"}) {
		t.Errorf("left behind: %v (%v)", left, err)
	}

	start(t, d.config)
	c, err := nbd.Dial(ctx, "unix", dir+"/nbd.sock", nbd.ClientOptions{Export: "web"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := make([]byte, 7)
	if _, err := c.ReadAt(p, 4096); err != nil || string(p) != "written" {
		t.Errorf("after a restart: %q (%v)", p, err)
	}
}

func TestSecondDaemonIsKeptOut(t *testing.T) {
	ctx, dir := context.Background(), shortDir(t)
	d := start(t, configIn(t, dir))
	log := slog.New(slog.DiscardHandler)

	samePool := configIn(t, shortDir(t))
	samePool.Pool = d.config.Pool
	if err := appliance.Run(ctx, samePool, "", log); !errors.Is(err, appliance.ErrPoolInUse) {
		t.Errorf("with the same pool: %v", err)
	}
	left, err := filepath.Glob(filepath.Dir(samePool.API) + "/*")
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}

	sameAPI := configIn(t, shortDir(t))
	sameAPI.API = d.config.API
	if err := appliance.Run(ctx, sameAPI, "", log); err == nil || !strings.Contains(err.Error(), d.config.API+" is in use") {
		t.Errorf("with the same socket: %v", err)
	}
	sameNBD := configIn(t, shortDir(t), d.config.NBD[0].String())
	if err := appliance.Run(ctx, sameNBD, "", log); err == nil || !strings.Contains(err.Error(), d.config.NBD[0].Addr+" is in use") {
		t.Errorf("with the same NBD socket: %v", err)
	}
	if _, err := d.client.Status(ctx); err != nil {
		t.Errorf("the first daemon was disturbed: %v", err)
	}
	if _, err := nbd.Dial(ctx, "unix", d.config.NBD[0].Addr, nbd.ClientOptions{Export: "none"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the first daemon's NBD was disturbed: %v", err)
	}
}

func TestPathsThatCannotServe(t *testing.T) {
	dir := shortDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	foreign, err := net.Listen("unix", filepath.Join(dir, "foreign"))
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		name, api, nbd, want string
	}{
		{"no directory", dir + "/none/none/api.sock", "", "the directory " + dir + "/none/none for the socket api.sock does not exist"},
		{"directory is a file", file + "/api.sock", "", "does not exist"},
		{"file in the way", file, "", file + " exists and is not a socket"},
		{"directory in the way", dir, "", dir + " exists and is not a socket"},
		{"socket of another program", dir + "/foreign", "", dir + "/foreign is in use by another program"},
		{"port in use", dir + "/api.sock", taken.Addr().String(), "address already in use"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf := configIn(t, dir)
			conf.API = c.api
			if c.nbd != "" {
				conf.NBD = []config.Address{{Network: "tcp", Addr: c.nbd}}
			}
			err := appliance.Run(context.Background(), conf, "", slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
			if _, err := os.Lstat(conf.Pool); !os.IsNotExist(err) {
				t.Errorf("a pool was made: %v", err)
			}
		})
	}
	if data, err := os.ReadFile(file); err != nil || len(data) != 0 {
		t.Errorf("the file in the way was changed: %q, %v", data, err)
	}
}

// TestStaleSocketIsReplaced has a socket and a lock file lie there as a killed
// daemon leaves them.
func TestStaleSocketIsReplaced(t *testing.T) {
	dir := shortDir(t)
	c := configIn(t, dir)
	for _, path := range []string{c.API, c.NBD[0].Addr} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
		if err := os.WriteFile(path+".lock", nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := start(t, c)
	if _, err := d.client.Status(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestStopIsBounded(t *testing.T) {
	dir := shortDir(t)
	c := configIn(t, dir)
	c.StopTimeout = 50 * time.Millisecond
	d := start(t, c)
	// A client that has begun a request and never ends it.
	half, err := net.Dial("unix", c.API)
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	if _, err := half.Write([]byte("POST /v1/luns HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.client.Status(context.Background()); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := d.end(); err != nil {
		t.Errorf("stopping: %v", err)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestStopEndsAllAtOnce has one client stop the API from stopping, and one that
// is connected and idle: NBD clients are let go meanwhile.
func TestStopEndsAllAtOnce(t *testing.T) {
	ctx := context.Background()
	d := start(t, configIn(t, shortDir(t)))
	if _, err := d.client.CreateLUN(ctx, "web", 1<<20); err != nil {
		t.Fatal(err)
	}
	c, err := nbd.Dial(ctx, "unix", d.config.NBD[0].Addr, nbd.ClientOptions{Export: "web"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	half, err := net.Dial("unix", d.config.API)
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	if _, err := half.Write([]byte("POST /v1/luns HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.client.Status(ctx); err != nil {
		t.Fatal(err)
	}
	d.stop()
	begin := time.Now()
	for err = nil; err == nil; {
		_, err = c.ReadAt(make([]byte, 512), 0)
	}
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("the NBD client was let go after %v", took)
	}
	half.Close()
	if err := d.end(); err != nil {
		t.Errorf("stopping: %v", err)
	}
}

// TestDirectoryOfTheSocketIsMade, as /run/rowan is missing on a fresh machine.
func TestDirectoryOfTheSocketIsMade(t *testing.T) {
	old := syscall.Umask(0o077) // as the daemon has it
	defer syscall.Umask(old)
	dir := shortDir(t)
	c := configIn(t, dir)
	c.API = filepath.Join(dir, "run", "api.sock")
	d := start(t, c)
	if _, err := d.client.Status(context.Background()); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "run")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the directory: %v, %v", info, err)
	}
}

func TestPlaceOfThePoolIsTaken(t *testing.T) {
	dir := shortDir(t)
	c := configIn(t, dir)
	c.Pool = dir
	run := func() string {
		err := appliance.Run(context.Background(), c, "", slog.New(slog.DiscardHandler))
		if err == nil {
			return ""
		}
		return err.Error()
	}
	if got := run(); !strings.Contains(got, "the sockets of the daemon lie in "+dir) {
		t.Errorf("with the sockets in it: %s", got)
	}
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := run(); !strings.Contains(got, "it holds a, b, c, 2 more") {
		t.Errorf("with files in it: %s", got)
	}
}

func TestExports(t *testing.T) {
	ctx := context.Background()
	d := start(t, configIn(t, shortDir(t)))
	if _, err := d.client.CreateLUN(ctx, "web", 1<<20); err != nil {
		t.Fatal(err)
	}
	dial := func(export string, since ...string) (*nbd.Client, error) {
		return nbd.Dial(ctx, "unix", d.config.NBD[0].Addr, nbd.ClientOptions{Export: export, ChangesSince: since})
	}
	snapshot := func(name string) {
		t.Helper()
		if _, err := d.client.CreateSnapshots(ctx, wire.CreateSnapshots{Items: []wire.SnapshotItem{{LUN: "web", Name: name}}}); err != nil {
			t.Fatal(err)
		}
	}
	w, err := dial("web")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	snapshot("a")
	if _, err := w.WriteAt(make([]byte, 4096), 8192); err != nil {
		t.Fatal(err)
	}
	snapshot("b")
	if lun, err := d.client.LUN(ctx, "web"); err != nil || lun.Clients != 1 {
		t.Errorf("LUN is %+v (%v), want one client", lun, err)
	}

	b, err := dial("web@b", "a")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if !b.ReadOnly() {
		t.Error("a snapshot can be written")
	}
	var changed, at int64
	if err := b.Changes(ctx, "a", 0, b.Size(), func(length int64, c bool) bool {
		if c {
			changed += length
			if at != 8192 {
				t.Errorf("changed at %d", at)
			}
		}
		at += length
		return true
	}); err != nil || changed != 4096 {
		t.Errorf("%d bytes changed (%v)", changed, err)
	}
	for _, c := range []struct{ export, since string }{{"web@a", "b"}, {"web@b", "b"}} {
		if x, err := dial(c.export, c.since); err == nil {
			x.Close()
			t.Errorf("%s has changes since %s, which is not older", c.export, c.since)
		}
	}
	head, err := dial("web", "a", "b")
	if err != nil {
		t.Errorf("changes of the LUN since its snapshots: %v", err)
	} else {
		head.Close()
	}
	for _, bad := range []string{"", "none", "web@none", "none@a", "@", "web@", "web@a@b", "../web"} {
		if x, err := dial(bad); !errors.Is(err, os.ErrNotExist) {
			if err == nil {
				x.Close()
			}
			t.Errorf("export %q: %v", bad, err)
		}
	}
}
