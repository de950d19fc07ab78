package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/nbd"
	"github.com/rowan-storage/rowan/test/harness"
)

const (
	treeLUN   = "tree"
	treeBytes = 1 * mib
	// treeSnapshots and treeClones bound what there is at a time.
	treeSnapshots, treeClones = 5, 2
)

// tree is a LUN whose snapshots branch: one request after the other writes it,
// snapshots it, reverts it, and clones and deletes what there is, until the
// daemon dies. What there was before the request under way, and what there is
// if it happened, is known in full.
type tree struct {
	d    *harness.Daemon
	rng  *rand.Rand
	n    int // names given
	now  treeState
	next *treeState // if the request under way happened, nil for none
	torn bool       // which may happen in part: a write

	done map[string]int // requests by kind
}

// treeState is the content of all exports of the tree by name.
type treeState map[string][]byte

// newTree makes the LUN.
func newTree(d *harness.Daemon, seed uint64) *tree {
	create(d, treeBytes/512, treeLUN)
	return &tree{
		d: d, rng: rand.New(rand.NewPCG(seed, 2)), done: map[string]int{},
		now: treeState{treeLUN: make([]byte, treeBytes)},
	}
}

// run issues requests until one fails, as it does when the daemon dies.
func (t *tree) run(ctx context.Context) error {
	for {
		if err := t.step(ctx); err != nil {
			return err
		}
	}
}

// some returns one of the exports that have a text in their names.
func (t *tree) some(part string) string {
	var names []string
	for name := range t.now {
		if strings.Contains(name, part) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if len(names) == 0 {
		return ""
	}
	return names[t.rng.IntN(len(names))]
}

func (t *tree) count(part string) (n int) {
	for name := range t.now {
		if strings.Contains(name, part) {
			n++
		}
	}
	return n
}

func (t *tree) step(ctx context.Context) error {
	next := maps.Clone(t.now)
	t.n++
	name := fmt.Sprintf("%s@s%d", treeLUN, t.n)
	snap, clone := t.some("@"), t.some("branch")
	var kind string
	var line []string
	switch k := t.rng.IntN(10); {
	case k < 3 || snap == "":
		kind, line = "snapshot", []string{"snapshot", "create", name}
		next[name] = next[treeLUN]
	case k < 5:
		kind, line = "revert", []string{"snapshot", "revert", snap, "--yes", "--force", "--save-as", strings.TrimPrefix(name, treeLUN+"@")}
		next[name], next[treeLUN] = next[treeLUN], next[snap]
	case k < 6 && t.count("branch") < treeClones:
		name = fmt.Sprintf("branch%d", t.n)
		kind, line = "clone", []string{"snapshot", "clone", snap, name}
		next[name] = next[snap]
	case k < 7 && clone != "":
		kind, line = "delete clone", []string{"lun", "delete", clone, "--yes"}
		delete(next, clone)
	case t.count("@") > treeSnapshots:
		kind, line = "delete snapshot", []string{"snapshot", "delete", snap, "--yes"}
		delete(next, snap)
	default:
		return t.write(ctx)
	}
	t.next, t.torn = &next, false
	if err := rowan(ctx, t.d, line...); err != nil {
		return err
	}
	t.now, t.next = next, nil
	t.done[kind]++
	return nil
}

// write writes some ranges of the LUN, or of a clone.
func (t *tree) write(ctx context.Context) error {
	to := treeLUN
	if clone := t.some("branch"); clone != "" && t.rng.IntN(3) == 0 {
		to = clone
	}
	c, err := nbd.Dial(ctx, "unix", t.d.NBD, nbd.ClientOptions{Export: to})
	if err != nil {
		return err
	}
	defer c.Close() // it may have died with the daemon
	for range 20 {
		n := 512 * (1 + t.rng.IntN(64))
		off := 512 * t.rng.IntN((treeBytes-n)/512)
		next := maps.Clone(t.now)
		next[to] = bytes.Clone(next[to])
		for i := range next[to][off : off+n] {
			next[to][off+i] = byte(t.rng.Uint32())
		}
		t.next, t.torn = &next, true
		if _, err := c.WriteAt(next[to][off:off+n], int64(off)); err != nil {
			return err
		}
		t.now, t.next = next, nil
		t.done["write"]++
	}
	return nil
}

// check compares all exports with what they must hold after the daemon died
// and was started again. From then on what was found is the state.
func (t *tree) check(ctx context.Context, tt *testing.T) error {
	found, err := t.read(ctx, tt)
	if err != nil {
		return err
	}
	was, next := t.now, t.next
	t.now, t.next = found, nil
	differ := was.differ(found)
	if differ == "" {
		return nil
	}
	if next == nil {
		return fmt.Errorf("%s", differ)
	}
	ifDone := next.differ(found)
	if ifDone == "" || t.torn && found.between(was, *next) {
		return nil
	}
	return fmt.Errorf("%s; and if the request under way happened, %s", differ, ifDone)
}

func (t *tree) read(ctx context.Context, tt *testing.T) (treeState, error) {
	names := []string{}
	for _, l := range harness.Decode[[]struct{ Name string }](tt, t.d.Rowan("lun", "list", "-o", "json")) {
		if l.Name == treeLUN || strings.HasPrefix(l.Name, "branch") {
			names = append(names, l.Name)
		}
	}
	for _, s := range snapshots(tt, t.d, treeLUN) {
		names = append(names, s.LUN+"@"+s.Name)
	}
	found := treeState{}
	for _, name := range names {
		c, err := open(ctx, t.d, name)
		if err != nil {
			return nil, err
		}
		found[name] = make([]byte, treeBytes)
		_, err = c[0].ReadAt(found[name], 0)
		c.close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return found, nil
}

// differ says how another state differs, "" for not at all.
func (s treeState) differ(found treeState) string {
	for _, name := range slices.Sorted(maps.Keys(s)) {
		is, ok := found[name]
		if !ok {
			return name + " is missing"
		}
		if want, got := sha256.Sum256(s[name]), sha256.Sum256(is); want != got {
			return fmt.Sprintf("%s has SHA-256 %x instead of %x", name, got, want)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if _, ok := s[name]; !ok {
			return name + " should not be there"
		}
	}
	return ""
}

// between tells whether each sector is that of either state.
func (s treeState) between(a, b treeState) bool {
	if len(s) != len(a) {
		return false
	}
	for name, data := range s {
		if len(a[name]) != len(data) {
			return false
		}
		for off := 0; off < len(data); off += 512 {
			if is := data[off : off+512]; !bytes.Equal(is, a[name][off:off+512]) && !bytes.Equal(is, b[name][off:off+512]) {
				return false
			}
		}
	}
	return true
}

const fioLUN = "fio"

// fioHalves is a LUN of two halves: fio has written one of them and is writing
// the other when the daemon dies. The first must still have fio's checksums.
type fioHalves struct {
	*testing.T
	d       *harness.Daemon
	written string // the offset of the half that is written
	other   string // of the one that is being written
	writer  *exec.Cmd
}

func newFioHalves(t *testing.T, d *harness.Daemon) *fioHalves {
	create(d, 8*mib/512, fioLUN)
	return &fioHalves{T: t, d: d, written: "0", other: "4M"}
}

func (f *fioHalves) args(name, offset string, more ...string) []string {
	return append([]string{
		"--name=" + name, "--ioengine=nbd", "--uri=" + f.d.URI(fioLUN), "--rw=randwrite", "--bs=4k", "--iodepth=16",
		"--offset=" + offset, "--size=4M", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0",
		"--randseed=3",
	}, more...)
}

// start writes one half, unflushed, and begins with the other.
func (f *fioHalves) start() {
	f.Helper()
	f.written, f.other = f.other, f.written
	harness.Run(f.T, "fio", f.args("done", f.written, "--do_verify=0")...)
	f.writer = exec.Command("fio", f.args("busy", f.other, "--do_verify=0", "--time_based", "--runtime=300")...)
	if err := f.writer.Start(); err != nil {
		f.Fatal(err)
	}
}

// stop waits for fio, which fails since the daemon is dead.
func (f *fioHalves) stop() {
	f.Helper()
	late := time.AfterFunc(time.Minute, func() { _ = f.writer.Process.Kill() })
	defer late.Stop()
	if err := f.writer.Wait(); err == nil {
		f.Error("fio did not miss the daemon")
	}
}

// check lets fio verify the half that it had written.
func (f *fioHalves) check() {
	f.Helper()
	harness.Run(f.T, "fio", f.args("done", f.written, "--verify_only")...)
}
