package blockdev

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/rowan-storage/rowan/blockdev/blockdevtest"
	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// hooks stand between the engine and its disk. before is called ahead of each
// call on a file or name, with the name of the call.
type hooks struct {
	mu     sync.Mutex
	before func(call, name string)
	update func(err error) error // what Table.Update returns for what it did
}

func (h *hooks) set(fn func(call, name string)) { h.mu.Lock(); h.before = fn; h.mu.Unlock() }
func (h *hooks) call(call, name string) {
	h.mu.Lock()
	fn := h.before
	h.mu.Unlock()
	if fn != nil {
		fn(call, name)
	}
}

type hookFS struct {
	blockfile.FS
	h *hooks
}

func (f hookFS) Open(name string, flag int) (blockfile.File, error) {
	f.h.call("open", name)
	x, err := f.FS.Open(name, flag)
	if err != nil {
		return nil, err
	}
	return hookFile{x, f.h, name}, nil
}
func (f hookFS) Rename(a, b string) error { f.h.call("rename", b); return f.FS.Rename(a, b) }
func (f hookFS) OpenTable(name string) (blockfile.Table, error) {
	t, err := f.FS.OpenTable(name)
	return hookTable{t, f.h}, err
}

type hookTable struct {
	blockfile.Table
	h *hooks
}

func (t hookTable) Update(fn func(tx blockfile.Tx) error) error {
	t.h.call("update", "")
	err := t.Table.Update(fn)
	t.h.mu.Lock()
	u := t.h.update
	t.h.mu.Unlock()
	if u != nil {
		return u(err)
	}
	return err
}

type hookFile struct {
	blockfile.File
	h    *hooks
	name string
}

func (f hookFile) ReadAt(b []byte, off int64) (int, error) {
	f.h.call("read", f.name)
	return f.File.ReadAt(b, off)
}
func (f hookFile) WriteAt(b []byte, off int64) (int, error) {
	f.h.call("write", f.name)
	return f.File.WriteAt(b, off)
}
func (f hookFile) PunchHole(off, n int64) error {
	f.h.call("punch", f.name)
	return f.File.PunchHole(off, n)
}
func (f hookFile) Sync() error { f.h.call("sync", f.name); return f.File.Sync() }

func openHooked(t *testing.T, d *blockdevtest.Disk, h *hooks, auto bool) (*Pool, error) {
	t.Helper()
	return Open("pool", Options{FS: hookFS{d.Session(), h}, BootID: d.BootID(), ShardBytes: 64 * BlockSize, JournalBytes: BlockSize, ReserveBytes: -1, ManualMaintenance: !auto})
}

func hookedPool(t *testing.T) (*blockdevtest.Disk, *hooks, *Pool) {
	t.Helper()
	d, h := blockdevtest.NewDisk(blockdevtest.DiskOptions{}), &hooks{}
	p, err := openHooked(t, d, h, false)
	if err != nil {
		t.Fatal(err)
	}
	return d, h, p
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func makeLUN(t *testing.T, p *Pool, name string, blocks int64) *Volume {
	t.Helper()
	_, err := p.CreateLUN(context.Background(), name, blocks*BlockSize)
	must(t, err)
	v, err := p.OpenLUN(name, "t")
	must(t, err)
	return v
}

func takeSnapshot(t *testing.T, p *Pool, lun, name string) {
	t.Helper()
	_, err := p.Snapshot(context.Background(), SnapshotRequest{Items: []SnapshotItem{{LUN: lun, Name: name}}})
	must(t, err)
}

func fillBlocks(t *testing.T, v *Volume, c byte, block, n int64) {
	t.Helper()
	_, err := v.WriteAt(bytes.Repeat([]byte{c}, int(n*BlockSize)), block*BlockSize)
	must(t, err)
}

// reopened returns a pool that was closed and opened again, with a LUN named a
// and snapshots s0, s1 and so on of it, of which no map is in memory.
func reopened(t *testing.T, snapshots int) (*hooks, *Pool) {
	t.Helper()
	d, h, p := hookedPool(t)
	v := makeLUN(t, p, "a", 8)
	for i := range snapshots {
		fillBlocks(t, v, byte(i), 0, 4)
		takeSnapshot(t, p, "a", fmt.Sprint("s", i))
	}
	must(t, p.Settle(context.Background()))
	must(t, p.Close())
	p, err := openHooked(t, d, h, false)
	must(t, err)
	return h, p
}

// segBytes is how much space the segments take.
func segBytes(t *testing.T, d *blockdevtest.Disk) (total int64) {
	t.Helper()
	dirs, err := d.ReadDir("segments")
	must(t, err)
	for _, dir := range dirs {
		names, err := d.ReadDir("segments/" + dir)
		must(t, err)
		for _, n := range names {
			f, err := d.Open("segments/"+dir+"/"+n, os.O_RDONLY)
			must(t, err)
			k, err := f.Allocated()
			must(t, err)
			total += k
			f.Close()
		}
	}
	return total
}
