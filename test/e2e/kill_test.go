package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/test/harness"
	"github.com/rowan-storage/rowan/test/workload"
)

// TestSoakKill kills the daemon at random instants under writers and fio, while
// group snapshots and clones are made and deleted, and a tree of snapshots is
// reverted, cloned and pruned, and starts it again: nothing that was
// acknowledged may be lost, a group is there as a whole or not at all, and no
// snapshot changes. With ROWAN_SOAK it goes on for that long, and for a
// thousand rounds at least; without it for a dozen.
func TestSoakKill(t *testing.T) {
	harness.Need(t, "fio")
	k := newKillTest(t)
	rounds := max(12/harness.Slow(), 2)
	budget := soak(t)
	if budget > 0 {
		rounds = 1000
	}
	begin, round := time.Now(), 0
	for ; round < rounds || time.Since(begin) < budget; round++ {
		k.round(round)
		if round%50 == 49 {
			t.Logf("%d rounds in %v", round+1, time.Since(begin).Round(time.Second))
		}
	}
	t.Logf("%d rounds in %v; in the tree %v", round, time.Since(begin).Round(time.Second), k.tree.done)
	t.Logf("%d requests, %d groups of snapshots, of them %d asked for when the daemon died, %d of those taken",
		k.work.Requests(), k.groups, k.torn, k.tornTaken)
	if k.groups == k.torn {
		t.Error("no snapshot was made beside the writes")
	}
}

// killTest is the state that lasts from one kill to the next.
type killTest struct {
	*testing.T
	d    *harness.Daemon
	work *workload.Workload
	rng  *rand.Rand
	tree *tree
	fio  *fioHalves

	groups, torn, tornTaken int
	kept                    map[string]workload.Versions // by group
}

var killLUNs = [...]string{"data", "log"}

func newKillTest(t *testing.T) *killTest {
	s := seed(t)
	k := &killTest{
		T:    t,
		d:    harness.Start(t),
		rng:  rand.New(rand.NewPCG(s, 1)),
		kept: map[string]workload.Versions{},
	}
	const sectors = 8 * mib / workload.SectorSize
	create(k.d, sectors, killLUNs[:]...)
	k.tree, k.fio = newTree(k.d, s), newFioHalves(t, k.d)
	k.work = workload.New(workload.Config{Seed: s, Devices: len(killLUNs), Sectors: sectors, Writers: 16})
	return k
}

// taken is a group of snapshots that was asked for.
type taken struct {
	name     string
	window   *workload.Window
	answered bool
}

// round writes, snapshots, kills, starts and checks.
func (k *killTest) round(n int) {
	k.Helper()
	c, err := open(k.Context(), k.d, killLUNs[:]...)
	if err != nil {
		k.Fatal(err)
	}
	k.fio.start()
	var beside sync.WaitGroup
	var groups []taken
	dead := make(chan struct{})
	beside.Go(func() { groups = k.snapshot(n, dead) })
	beside.Go(func() {
		// It ends with an error when the daemon dies.
		_ = k.work.Run(context.WithoutCancel(k.Context()), c.devices(), 0)
	})
	var treeErr error
	var dying atomic.Bool
	beside.Go(func() {
		if treeErr = k.tree.run(context.WithoutCancel(k.Context())); !dying.Load() {
			k.Errorf("the daemon lives, but: %v", treeErr)
		}
	})
	time.Sleep(time.Duration(k.rng.IntN(700)) * time.Millisecond)
	dying.Store(true)
	k.d.Kill()
	close(dead)
	beside.Wait()
	c.close()
	k.fio.stop()

	k.d.Start()
	if err := k.tree.check(k.Context(), k.T); err != nil {
		k.Fatalf("round %d: the tree, which ended with %v: %v", n, treeErr, err)
	}
	k.fio.check()
	k.checkGroups(groups)
	image, err := read(k.Context(), k.d, k.work, killLUNs[:]...)
	if err != nil {
		k.Fatalf("round %d: %v", n, err)
	}
	if err := k.work.Settle(image); err != nil {
		k.Fatalf("round %d: %v", n, err)
	}
	for group, was := range k.kept {
		k.unchanged(n, group, was)
	}
	k.forget()
}

func exportsOf(group string) []string {
	var exports []string
	for _, lun := range killLUNs {
		exports = append(exports, lun+"@"+group)
	}
	return exports
}

// snapshot makes groups of snapshots until the daemon is dead, and clones and
// deletes some.
func (k *killTest) snapshot(round int, dead <-chan struct{}) []taken {
	var groups []taken
	for n := 0; ; n++ {
		g := taken{name: fmt.Sprintf("r%d-%d", round, n), window: k.work.Begin()}
		err := rowan(context.Background(), k.d, append([]string{"snapshot", "create"}, exportsOf(g.name)...)...)
		k.work.End(g.window)
		g.answered = err == nil
		groups = append(groups, g)
		if err == nil && n%3 == 1 {
			clone := "clone-" + g.name
			if err = rowan(context.Background(), k.d, "snapshot", "clone", exportsOf(g.name)[0], clone); err == nil {
				err = rowan(context.Background(), k.d, "lun", "delete", clone, "--yes")
			}
		}
		if err == nil {
			// Not back to back, so that some kills fall between two groups.
			select {
			case <-dead:
				return groups
			case <-time.After(20 * time.Millisecond):
			}
			continue
		}
		select {
		case <-dead:
		case <-time.After(30 * time.Second):
			k.Errorf("the daemon lives, but: %v", err)
		}
		return groups
	}
}

// checkGroups looks at the snapshots of the round after the restart, before
// the workload settles.
func (k *killTest) checkGroups(groups []taken) {
	k.Helper()
	there := map[string]int{}
	for _, s := range snapshots(k.T, k.d) {
		there[s.Name]++
	}
	for _, g := range groups {
		k.groups++
		if !g.answered {
			k.torn++
			if there[g.name] == 0 {
				continue
			}
			k.tornTaken++
		}
		if there[g.name] != len(killLUNs) {
			k.Fatalf("group %s: %d of %d snapshots are there", g.name, there[g.name], len(killLUNs))
		}
		image, err := read(k.Context(), k.d, k.work, exportsOf(g.name)...)
		if err != nil {
			k.Fatal(err)
		}
		if err := k.work.CheckSnapshot(g.window, image); err != nil {
			k.Fatalf("group %s: %v", g.name, err)
		}
		k.kept[g.name] = image
	}
}

func (k *killTest) unchanged(round int, group string, was workload.Versions) {
	k.Helper()
	is, err := read(k.Context(), k.d, k.work, exportsOf(group)...)
	if err != nil {
		k.Fatal(err)
	}
	for d := range was {
		for s := range was[d] {
			if was[d][s] != is[d][s] {
				k.Fatalf("round %d: snapshot %s@%s changed: sector %d holds write %d instead of %d",
					round, killLUNs[d], group, s, is[d][s], was[d][s])
			}
		}
	}
}

// forget deletes snapshots until few are left.
func (k *killTest) forget() {
	k.Helper()
	for group := range k.kept {
		if len(k.kept) <= 4 {
			return
		}
		for _, e := range exportsOf(group) {
			k.d.Rowan("snapshot", "delete", e, "--yes")
		}
		delete(k.kept, group)
	}
}
