package e2e

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rowan-storage/rowan/test/harness"
	"github.com/rowan-storage/rowan/test/workload"
)

// TestSnapshotNeverChanges hashes a snapshot, and again after a hundred
// thousand random writes and discards, more snapshots, clones and deletes, and
// after a restart.
func TestSnapshotNeverChanges(t *testing.T) {
	harness.Need(t, "nbdcopy")
	d := harness.Start(t)
	const sectors = 128 * mib / workload.SectorSize
	create(d, sectors, "web")
	const writers = 16
	w := workload.New(workload.Config{Seed: seed(t), Devices: 1, Sectors: sectors, Writers: writers})
	c, err := open(t.Context(), d, "web")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()

	if err := w.Run(t.Context(), c.devices(), 3000/writers); err != nil {
		t.Fatal(err)
	}
	win := w.Begin()
	d.Rowan("snapshot", "create", "web@kept")
	w.End(win)
	hash := exportHash(t, d, "web@kept")

	var churn sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	var made atomic.Int32
	churn.Go(func() {
		for ; ctx.Err() == nil; made.Add(1) {
			if err := snapshotsComeAndGo(d, int(made.Load())); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for err == nil && !t.Failed() && (w.Requests() < 100_000/harness.Slow() || made.Load() < 10) {
		err = w.Run(t.Context(), c.devices(), 1000/writers)
	}
	stop()
	churn.Wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d requests, %d snapshots made beside them", w.Requests(), made.Load())

	check := func(when string) {
		t.Helper()
		if now := exportHash(t, d, "web@kept"); now != hash {
			t.Errorf("%s the snapshot's hash is another", when)
		}
		image, err := read(t.Context(), d, w, "web@kept")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.CheckSnapshot(win, image); err != nil {
			t.Errorf("%s the snapshot: %v", when, err)
		}
		if image, err = read(t.Context(), d, w, "web"); err != nil {
			t.Fatal(err)
		}
		if err := w.CheckAll(image); err != nil {
			t.Errorf("%s the LUN: %v", when, err)
		}
	}
	check("after the writes")
	c.close()
	d.Stop()
	d.Start()
	check("after a restart")
}

// snapshotsComeAndGo makes a snapshot of web, sometimes a clone of it, and
// deletes what was made three rounds ago.
func snapshotsComeAndGo(d *harness.Daemon, n int) error {
	lines := [][]string{{"snapshot", "create", fmt.Sprintf("web@s%d", n)}}
	if n%5 == 0 {
		clone := fmt.Sprintf("clone%d", n)
		lines = append(lines,
			[]string{"snapshot", "clone", fmt.Sprintf("web@s%d", n), clone},
			[]string{"lun", "delete", clone, "--yes"})
	}
	if n >= 3 {
		lines = append(lines, []string{"snapshot", "delete", fmt.Sprintf("web@s%d", n-3), "--yes"})
	}
	for _, line := range lines {
		if err := rowan(context.Background(), d, line...); err != nil {
			return err
		}
	}
	return nil
}

// rowan runs a command that must succeed, outside a test's goroutine.
func rowan(ctx context.Context, d *harness.Daemon, args ...string) error {
	r, err := harness.Exec(ctx, harness.Bin("rowan"), append([]string{"--api", d.API}, args...)...)
	if err != nil {
		return err
	}
	if r.Code != 0 {
		return fmt.Errorf("rowan %v: exit code %d: %s", args, r.Code, r.Stderr)
	}
	return nil
}

// TestGroupIsOnePointInTime takes snapshots of three LUNs under eight writers
// that go from one LUN to the next.
func TestGroupIsOnePointInTime(t *testing.T) {
	d := harness.Start(t)
	const sectors = 16 * mib / workload.SectorSize
	luns := []string{"data", "log", "index"}
	create(d, sectors, luns...)
	w := workload.New(workload.Config{Seed: seed(t), Devices: len(luns), Sectors: sectors, Writers: 8})
	c, err := open(t.Context(), d, luns...)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	writers.Go(func() {
		if err := w.Run(ctx, c.devices(), 0); err != nil {
			t.Error(err)
		}
	})
	defer writers.Wait()
	defer stop()

	groups := 25 / harness.Slow()
	var windows []*workload.Window
	for n := range groups {
		win := w.Begin()
		d.Rowan("snapshot", "create", fmt.Sprintf("data@g%d", n), fmt.Sprintf("log@g%d", n), fmt.Sprintf("index@g%d", n))
		w.End(win)
		windows = append(windows, win)
	}
	stop()
	writers.Wait()
	for n, win := range windows {
		var exports []string
		for _, lun := range luns {
			exports = append(exports, fmt.Sprintf("%s@g%d", lun, n))
		}
		image, err := read(t.Context(), d, w, exports...)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.CheckSnapshot(win, image); err != nil {
			t.Errorf("group %d: %v", n, err)
		}
	}
	t.Logf("%d requests, %d group snapshots", w.Requests(), groups)
}

// TestRevertCloneGrow takes one LUN through its life and checks its content
// sector by sector at each step.
func TestRevertCloneGrow(t *testing.T) {
	d := harness.Start(t)
	const sectors = 16 * mib / workload.SectorSize
	create(d, sectors, "web")
	w := workload.New(workload.Config{Seed: seed(t), Devices: 1, Sectors: sectors, Writers: 8})
	write := func(requests int) {
		t.Helper()
		c, err := open(t.Context(), d, "web")
		if err != nil {
			t.Fatal(err)
		}
		defer c.close()
		if err := w.Run(t.Context(), c.devices(), requests/8); err != nil {
			t.Fatal(err)
		}
	}
	mustRead := func(export string) workload.Versions {
		t.Helper()
		image, err := read(t.Context(), d, w, export)
		if err != nil {
			t.Fatal(err)
		}
		return image
	}
	write(1000)
	d.Rowan("snapshot", "create", "web@a")
	a := mustRead("web@a")
	write(1000)
	b := mustRead("web")
	d.Rowan("snapshot", "revert", "web@a", "--yes")
	w.Rewind(0, a[0])
	if err := w.CheckAll(mustRead("web")); err != nil {
		t.Fatalf("after the revert: %v", err)
	}
	var saved string
	for _, s := range snapshots(t, d, "web") {
		if s.Name != "a" {
			saved = s.Name
		}
	}
	write(1000)
	if err := w.CheckAll(mustRead("web")); err != nil {
		t.Fatalf("writing after the revert: %v", err)
	}

	// The state before the revert was kept, and a clone of it is its equal and
	// does not share its fate.
	d.Rowan("snapshot", "clone", "web@"+saved, "copy")
	d.Rowan("snapshot", "delete", "web@"+saved, "--yes")
	d.Rowan("snapshot", "delete", "web@a", "--yes")
	w2 := workload.New(workload.Config{Seed: 1, Devices: 1, Sectors: sectors, Writers: 8})
	w2.Rewind(0, b[0])
	if err := w2.CheckAll(mustRead("copy")); err != nil {
		t.Fatalf("the clone of the state before the revert: %v", err)
	}
	d.Rowan("lun", "resize", "web", "--size", "24M")
	d.Kill()
	d.Start()
	if err := w.CheckAll(mustRead("web")); err != nil {
		t.Fatalf("after growing and a kill: %v", err)
	}
	if err := w2.CheckAll(mustRead("copy")); err != nil {
		t.Fatalf("the clone after a kill: %v", err)
	}
}
