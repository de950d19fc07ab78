package blockdevtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// bug is a way for the toy engine to be wrong.
type bug string

const (
	none             bug = "none"
	buffersWrites    bug = "keeps writes in memory until the next flush"
	noSyncDir        bug = "does not sync the directory of a new file"
	noSyncOfCopies   bug = "does not sync the copy that a snapshot is"
	flushNoSync      bug = "does not sync on flush"
	sharesSnapshot   bug = "lets a snapshot and its LUN share a file"
	punchesFirst     bug = "punches a hole before each write"
	fillsWithZeros   bug = "fills a block written in part with zeros"
	mixesWrites      bug = "reads, changes and writes back blocks without a lock"
	groupInSteps     bug = "commits a group one by one"
	revertInSteps    bug = "commits the snapshot that a revert makes by itself"
	revertSavesWrong bug = "saves what it reverts to"
	ignoresErrors    bug = "ignores errors of writes"
	removesFirst     bug = "removes a snapshot's file before the commit"
	twoCopies        bug = "keeps two copies and reads another one after each boot"
	syncsAgain       bug = "tries a failed sync again"
	leaksFiles       bug = "leaves files behind"
	diffLies         bug = "says that all is the same"
	discardsMore     bug = "discards whole blocks that were given in part"
	missesAWrite     bug = "writes only the first block of several"
)

// toy is an engine that is simple enough to be right, or wrong in one way: a
// LUN is a file written in place, a snapshot a synced copy, the list of all is
// one value in a table.
type toy struct {
	bug   bug
	fs    blockfile.FS
	table blockfile.Table
	boot  string

	mu    sync.Mutex
	cat   toyCatalogue
	files map[string]blockfile.File
	held  map[string][]heldWrite // buffersWrites
}

type toyCatalogue struct {
	Next int
	Boot string // twoCopies
	Odd  bool
	// Failed are files that a sync failed of: they take no more of them.
	Failed map[string]bool
	LUNs   []toyLUN
}

type toyLUN struct {
	ID         int
	Name, File string
	Size       int64
	Snaps      []toyLUN
}

type heldWrite struct {
	off int64
	p   []byte
}

func toyTarget(b bug) Target {
	return Target{
		Open:  func(fs blockfile.FS, boot string) (Pool, error) { return openToy(fs, boot, b) },
		Check: checkToy,
	}
}

func openToy(fs blockfile.FS, boot string, b bug) (*toy, error) {
	table, err := fs.OpenTable("table")
	if err != nil {
		return nil, err
	}
	t := &toy{bug: b, fs: fs, table: table, boot: boot, files: map[string]blockfile.File{}, held: map[string][]heldWrite{}}
	err = table.View(func(tx blockfile.Tx) error { return loadToy(tx, &t.cat) })
	if err == nil {
		err = fs.SyncDir(".")
	}
	if err == nil && t.cat.Boot != boot {
		t.cat.Boot, t.cat.Odd = boot, !t.cat.Odd
		err = t.commit()
	}
	if err == nil {
		err = t.removeUnused()
	}
	if err != nil {
		return nil, errors.Join(err, table.Close())
	}
	return t, nil
}

func loadToy(tx blockfile.Tx, c *toyCatalogue) error {
	if v := tx.Get("toy", []byte("catalogue")); v != nil {
		return json.Unmarshal(v, c)
	}
	return nil
}

func (c *toyCatalogue) files() map[string]bool {
	used := map[string]bool{}
	for _, l := range c.LUNs {
		for _, s := range append(l.Snaps, l) {
			used[s.File], used[s.File+".copy"] = true, true
		}
	}
	return used
}

func (t *toy) removeUnused() error {
	used := t.cat.files()
	names, err := t.fs.ReadDir(".")
	for _, n := range names {
		if strings.HasPrefix(n, "f") && !used[n] && t.bug != leaksFiles {
			err = errors.Join(err, t.fs.Remove(n))
		}
	}
	return err
}

// checkToy finds files that nothing uses.
func checkToy(fs blockfile.FS) error {
	table, err := fs.OpenTable("table")
	if err != nil {
		return err
	}
	defer table.Close()
	var c toyCatalogue
	if err := table.View(func(tx blockfile.Tx) error { return loadToy(tx, &c) }); err != nil {
		return err
	}
	used := c.files()
	names, err := fs.ReadDir(".")
	for _, n := range names {
		if strings.HasPrefix(n, "f") && !used[n] {
			return fmt.Errorf("file %s is not used", n)
		}
	}
	return err
}

func (t *toy) commit() error {
	b, err := json.Marshal(t.cat)
	if err != nil {
		return err
	}
	return t.table.Update(func(tx blockfile.Tx) error { return tx.Put("toy", []byte("catalogue"), b) })
}

func (t *toy) file(name string) (blockfile.File, error) {
	if f := t.files[name]; f != nil {
		return f, nil
	}
	f, err := t.fs.Open(name, os.O_RDWR)
	if err == nil {
		t.files[name] = f
	}
	return f, err
}

// copies are the names of the files that hold one content.
func (t *toy) copies(name string) []string {
	if t.bug == twoCopies {
		return []string{name, name + ".copy"}
	}
	return []string{name}
}

// newFile makes a file that holds what another one does, or nothing.
func (t *toy) newFile(from string, size int64) (string, error) {
	t.cat.Next++
	name := fmt.Sprintf("f%d", t.cat.Next)
	b := make([]byte, size)
	if from != "" {
		if err := t.read(from, b, 0); err != nil {
			return "", err
		}
	}
	for _, n := range t.copies(name) {
		f, err := t.fs.Open(n, os.O_RDWR|os.O_CREATE)
		if err != nil {
			return "", err
		}
		t.files[n] = f
		if _, err := f.WriteAt(b, 0); err != nil {
			return "", err
		}
		if t.bug == noSyncOfCopies {
			continue
		}
		if err := f.Sync(); err != nil {
			return "", err
		}
	}
	if t.bug == noSyncDir {
		return name, nil
	}
	return name, t.fs.SyncDir(".")
}

func (t *toy) read(name string, p []byte, off int64) error {
	from := name
	if t.bug == twoCopies && t.cat.Odd {
		from += ".copy"
	}
	f, err := t.file(from)
	if err != nil {
		return err
	}
	n, err := f.ReadAt(p, off)
	if err == io.EOF {
		clear(p[n:])
		err = nil
	}
	for _, h := range t.held[name] {
		for i, b := range h.p {
			if at := h.off + int64(i) - off; at >= 0 && at < int64(len(p)) {
				p[at] = b
			}
		}
	}
	return err
}

func (t *toy) write(name string, p []byte, off int64) error {
	if t.bug == buffersWrites {
		t.held[name] = append(t.held[name], heldWrite{off, slices.Clone(p)})
		return nil
	}
	for _, n := range t.copies(name) {
		f, err := t.file(n)
		if err == nil && t.cat.Failed[n] {
			err = fmt.Errorf("toy: %s lost data", n)
		}
		if err != nil {
			return err
		}
		if t.bug == punchesFirst {
			if err := f.PunchHole(off, int64(len(p))); err != nil {
				return err
			}
		}
		if _, err := f.WriteAt(p, off); err != nil && t.bug != ignoresErrors {
			return err
		}
	}
	return nil
}

func (t *toy) sync(name string) error {
	for _, n := range t.copies(name) {
		f, err := t.file(n)
		if err != nil {
			return err
		}
		for _, h := range t.held[name] {
			if _, err := f.WriteAt(h.p, h.off); err != nil {
				return err
			}
		}
		delete(t.held, name)
		if t.bug == flushNoSync {
			continue
		}
		if t.cat.Failed[n] {
			return fmt.Errorf("toy: %s lost data", n)
		}
		if err := f.Sync(); err != nil && (t.bug != syncsAgain || f.Sync() != nil) {
			if t.cat.Failed == nil {
				t.cat.Failed = map[string]bool{}
			}
			t.cat.Failed[n] = true
			return err
		}
	}
	return nil
}

func (t *toy) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, l := range t.cat.LUNs {
		errs = append(errs, t.sync(l.File))
	}
	if errors.Join(errs...) != nil {
		errs = append(errs, t.commit()) // what has failed
	}
	for _, f := range t.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(append(errs, t.table.Close())...)
}

func (t *toy) State() ([]LUNState, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []LUNState
	for _, l := range t.cat.LUNs {
		s := LUNState{Name: l.Name, SizeBytes: l.Size, Failed: t.cat.Failed[l.File]}
		for _, x := range l.Snaps {
			s.Snapshots = append(s.Snapshots, SnapshotState{x.Name, x.Size})
		}
		out = append(out, s)
	}
	return out, nil
}

func findToy(l []toyLUN, name string) *toyLUN {
	return &l[slices.IndexFunc(l, func(l toyLUN) bool { return l.Name == name })]
}

// Diff compares contents.
func (t *toy) Diff(_ context.Context, lun, from, to string, off, n int64, yield func(int64, Difference) bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := findToy(t.cat.LUNs, lun)
	a, b := make([]byte, n), make([]byte, n)
	target := l
	if to != "" {
		target = findToy(l.Snaps, to)
	}
	if err := errors.Join(t.read(findToy(l.Snaps, from).File, a, off), t.read(target.File, b, off)); err != nil {
		return err
	}
	if t.bug == diffLies || slices.Equal(a, b) {
		yield(n, Same)
	} else if yield(n/2, Changed) {
		yield(n-n/2, Changed)
	}
	return nil
}

func (t *toy) OpenLUN(name string) (Volume, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return &toyVolume{t: t, id: findToy(t.cat.LUNs, name).ID}, nil
}

func (t *toy) OpenSnapshot(lun, name string) (Volume, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return &toyVolume{t: t, snapshot: findToy(findToy(t.cat.LUNs, lun).Snaps, name).File}, nil
}

type toyVolume struct {
	t        *toy
	id       int    // of the LUN
	snapshot string // the file
}

func (v *toyVolume) file() string {
	if v.snapshot != "" {
		return v.snapshot
	}
	i := slices.IndexFunc(v.t.cat.LUNs, func(l toyLUN) bool { return l.ID == v.id })
	if i < 0 {
		return "gone"
	}
	return v.t.cat.LUNs[i].File
}

func (v *toyVolume) Close() error { return nil }

func (v *toyVolume) ReadAt(p []byte, off int64) (int, error) {
	v.t.mu.Lock()
	defer v.t.mu.Unlock()
	return len(p), v.t.read(v.file(), p, off)
}

func (v *toyVolume) WriteAt(p []byte, off int64) (int, error) {
	v.t.mu.Lock()
	defer v.t.mu.Unlock()
	b, at := p, off
	if v.t.bug == fillsWithZeros || v.t.bug == mixesWrites {
		at = off / pageSize * pageSize
		b = make([]byte, alignUp(off+int64(len(p)), pageSize)-at)
		if v.t.bug == mixesWrites {
			if err := v.t.read(v.file(), b, at); err != nil {
				return 0, err
			}
			v.t.mu.Unlock()
			runtime.Gosched()
			v.t.mu.Lock()
		}
		copy(b[off-at:], p)
	}
	if v.t.bug == missesAWrite && len(b) > pageSize {
		b = b[:pageSize]
	}
	return len(p), v.t.write(v.file(), b, at)
}

func (v *toyVolume) Flush(context.Context) error {
	v.t.mu.Lock()
	defer v.t.mu.Unlock()
	if err := v.t.sync(v.file()); err != nil {
		return errors.Join(err, v.t.commit())
	}
	return nil
}

func (v *toyVolume) Discard(_ context.Context, off, n int64) error {
	v.t.mu.Lock()
	defer v.t.mu.Unlock()
	if v.t.bug == discardsMore {
		n = alignUp(off+n, pageSize) - off/pageSize*pageSize
		off = off / pageSize * pageSize
	}
	return v.t.write(v.file(), make([]byte, n), off)
}

func (v *toyVolume) WriteZeroes(ctx context.Context, off, n int64) error {
	v.t.mu.Lock()
	defer v.t.mu.Unlock()
	return v.t.write(v.file(), make([]byte, n), off)
}

// Extents says that all is data, half by half.
func (v *toyVolume) Extents(_ context.Context, off, n int64, yield func(int64, bool) bool) error {
	if yield(n/2, true) {
		yield(n-n/2, true)
	}
	return nil
}
