package remote_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/internal/appliance"
	"github.com/rowan-storage/rowan/internal/appliance/remote"
	"github.com/rowan-storage/rowan/internal/config"
	"github.com/rowan-storage/rowan/internal/httpapi/client"
	"github.com/rowan-storage/rowan/internal/httpapi/wire"
	"github.com/rowan-storage/rowan/snapfs"
)

// start runs an appliance with the LUN web of 1 MiB. stop stops it before the
// test ends.
func start(t *testing.T, nbd ...config.Address) (api *client.Client, stop func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "rowan-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := config.Default()
	c.Pool, c.API = filepath.Join(dir, "pool"), filepath.Join(dir, "api.sock")
	if err := c.Finish(); err != nil {
		t.Fatal(err)
	}
	if nbd != nil {
		c.NBD = nbd
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- appliance.Run(ctx, c, "test", slog.New(slog.DiscardHandler)) }()
	api = client.New(c.API)
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		api.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if _, err = api.CreateLUN(ctx, "web", 1<<20); err == nil {
			return api, stop
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func snapshot(t *testing.T, api *client.Client, name string) wire.Snapshot {
	t.Helper()
	list, err := api.CreateSnapshots(t.Context(), wire.CreateSnapshots{
		Items: []wire.SnapshotItem{{LUN: "web", Name: name}}, Comment: "a comment",
	})
	if err != nil {
		t.Fatal(err)
	}
	return list[0]
}

func TestSource(t *testing.T) {
	ctx := t.Context()
	api, _ := start(t)
	a := remote.New(api, 2)
	source := a.Source()
	if luns, err := source.LUNs(ctx); err != nil || !slices.Equal(luns, []string{"web"}) {
		t.Errorf("LUNs are %v (%v)", luns, err)
	}
	w, err := a.Dial(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.WriteAt([]byte("in the snapshot"), 8192); err != nil {
		t.Fatal(err)
	}
	first := snapshot(t, api, "a")
	if _, err := w.WriteAt([]byte("after it, indeed"), 8192); err != nil {
		t.Fatal(err)
	}
	snapshot(t, api, "b")

	list, err := source.Snapshots(ctx, "web")
	if err != nil || len(list) != 2 {
		t.Fatalf("snapshots are %+v (%v)", list, err)
	}
	s := list[0]
	if s.Name != "a" || s.ID != first.ID || !s.Created.Equal(first.Created) || s.SizeBytes != 1<<20 ||
		s.Consistency != "crash" || s.MappedBytes != 4096 || s.Info["comment"] != "a comment" || list[1].Name != "b" {
		t.Errorf("snapshots are %+v", list)
	}
	im, err := source.Open(ctx, "web", "a")
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	p := make([]byte, 15)
	if _, err := im.ReadAt(p, 8192); err != nil || string(p) != "in the snapshot" || im.Size() != 1<<20 {
		t.Errorf("read %q of %d bytes (%v)", p, im.Size(), err)
	}
	if _, ok := im.(snapfs.Extenter); !ok {
		t.Error("the image does not tell where it holds data")
	}

	for name, err := range map[string]error{
		"snapshots of no LUN": func() error { _, err := source.Snapshots(ctx, "none"); return err }(),
		"no snapshot":         func() error { _, err := source.Open(ctx, "web", "none"); return err }(),
		"no LUN":              func() error { _, err := source.Open(ctx, "none", "a"); return err }(),
	} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSourceWithoutAppliance(t *testing.T) {
	api, stop := start(t)
	source := remote.New(api, 1).Source()
	stop()
	if _, err := source.LUNs(t.Context()); err == nil || errors.Is(err, fs.ErrNotExist) && !errors.As(err, new(*client.UnreachableError)) {
		t.Errorf("got %v", err)
	}
}

func TestLoopbackWillDo(t *testing.T) {
	api, _ := start(t, config.Address{Network: "tcp", Addr: "127.0.0.1:0"})
	c, err := remote.New(api, 1).Dial(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestNoAddress(t *testing.T) {
	// All of this machine's addresses are not only this machine's to reach.
	none, _ := start(t, config.Address{Network: "tcp", Addr: "[::]:0"})
	var e *remote.NoAddressError
	if _, err := remote.New(none, 1).Dial(t.Context(), "web"); !errors.As(err, &e) {
		t.Errorf("got %v", err)
	}
}

func TestFileNoticesThatTheDaemonIsGone(t *testing.T) {
	needFUSE(t)
	api, stop := start(t)
	f, err := remote.New(api, 2).Backend(slog.New(slog.DiscardHandler)).ServeFile(t.Context(), "web", t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, err := os.Stat(f.Path()); err != nil || info.Size() != 1<<20 {
		t.Errorf("the file is %v (%v)", info, err)
	}
	select {
	case <-f.Lost():
		t.Error("lost while the daemon runs")
	default:
	}
	stop()
	select {
	case <-f.Lost():
	case <-time.After(30 * time.Second):
		t.Error("not noticed")
	}
}

func needFUSE(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err == nil && os.Geteuid() == 0 {
		return
	}
	if os.Getenv("ROWAN_CI") != "" {
		t.Fatal("missing: root and /dev/fuse")
	}
	t.Skip("missing: root and /dev/fuse")
}
