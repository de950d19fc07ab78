package blockdev

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/rowan-storage/rowan/blockdev/blockdevtest"
)

// rotation is a pool in which snapshots come and go, and what all of it holds.
type rotation struct {
	t       *testing.T
	disk    *blockdevtest.Disk
	pool    *Pool
	rng     *rand.Rand
	limit   int
	stamp   uint32
	content map[string][]uint32 // by LUN, or LUN@snapshot: a stamp for each block
}

const rotationBlocks = 96

func newRotation(t *testing.T, limit int) *rotation {
	t.Helper()
	r := &rotation{t: t, disk: blockdevtest.NewDisk(blockdevtest.DiskOptions{}), rng: rand.New(rand.NewPCG(5, 6)),
		limit: limit, content: make(map[string][]uint32)}
	r.open()
	r.makeLUN("a")
	return r
}

func (r *rotation) open() {
	r.t.Helper()
	p, err := Open("pool", Options{FS: r.disk.Session(), BootID: r.disk.BootID(), ShardBytes: 16 * BlockSize, JournalBytes: BlockSize,
		ReserveBytes: 32 * BlockSize, ManualMaintenance: true, MaxOrigins: r.limit})
	must(r.t, err)
	r.t.Cleanup(func() { p.Close() })
	r.pool = p
}

func (r *rotation) makeLUN(name string) {
	r.t.Helper()
	_, err := r.pool.CreateLUN(context.Background(), name, rotationBlocks*BlockSize)
	must(r.t, err)
	r.content[name] = make([]uint32, rotationBlocks)
}

// write writes a few runs of blocks, discards one, to a LUN.
func (r *rotation) write(lun string) {
	r.t.Helper()
	v, err := r.pool.OpenLUN(lun, "test")
	must(r.t, err)
	defer v.Close()
	for range 4 {
		block, n := r.rng.Int64N(rotationBlocks), 1+r.rng.Int64N(4)
		for b := block; b < min(block+n, rotationBlocks); b++ {
			r.stamp++
			r.content[lun][b] = r.stamp
			_, err := v.WriteAt(stamped(r.stamp), b*BlockSize)
			must(r.t, err)
		}
	}
	b := r.rng.Int64N(rotationBlocks)
	r.content[lun][b] = 0
	must(r.t, v.Discard(context.Background(), b*BlockSize, BlockSize))
}

func stamped(stamp uint32) []byte {
	if stamp == 0 {
		return make([]byte, BlockSize)
	}
	return bytes.Repeat([]byte{byte(stamp), byte(stamp >> 8), byte(stamp >> 16), 0xa5}, BlockSize/4)
}

func (r *rotation) snapshot(lun, name string) {
	r.t.Helper()
	takeSnapshot(r.t, r.pool, lun, name)
	r.content[lun+"@"+name] = append([]uint32{}, r.content[lun]...)
}

func (r *rotation) remove(lun, name string) {
	r.t.Helper()
	must(r.t, r.pool.DeleteSnapshot(context.Background(), lun, name, false))
	delete(r.content, lun+"@"+name)
}

// verify reads everything.
func (r *rotation) verify() {
	r.t.Helper()
	for name, want := range r.content {
		var v *Volume
		var err error
		if lun, snapshot, ok := strings.Cut(name, "@"); ok {
			v, err = r.pool.OpenSnapshot(lun, snapshot, "test")
		} else {
			v, err = r.pool.OpenLUN(name, "test")
		}
		must(r.t, err)
		got := make([]byte, rotationBlocks*BlockSize)
		_, err = v.ReadAt(got, 0)
		must(r.t, err)
		must(r.t, v.Close())
		for b, stamp := range want {
			if !bytes.Equal(got[b*BlockSize:][:BlockSize], stamped(stamp)) {
				r.t.Fatalf("%s: block %d is not what was written, number %d", name, b, stamp)
			}
		}
	}
}

// settle runs maintenance, and checks that no layer owns more than it may, and
// that there are no files of others.
func (r *rotation) settle() {
	r.t.Helper()
	must(r.t, r.pool.Settle(context.Background()))
	owned := 0
	for id, l := range r.pool.cat.layers {
		limit := r.limit
		if !l.Sealed {
			limit++
		}
		if owned += len(l.Origins); len(l.Origins) > limit {
			r.t.Fatalf("layer %d owns %d origins, the limit is %d", id, len(l.Origins), r.limit)
		}
	}
	dirs, err := r.disk.ReadDir("segments")
	must(r.t, err)
	if len(dirs) != owned {
		r.t.Fatalf("%d directories of segments, the layers own %d", len(dirs), owned)
	}
	for _, d := range dirs {
		files, err := r.disk.ReadDir(path.Join("segments", d))
		must(r.t, err)
		if len(files) > rotationBlocks/16 {
			r.t.Fatalf("segments/%s has %d files", d, len(files))
		}
	}
}

// check closes the pool, has its files checked, and opens it again.
func (r *rotation) check() {
	r.t.Helper()
	must(r.t, r.pool.CheckMaps(context.Background()))
	must(r.t, r.pool.Close())
	must(r.t, Check(r.disk.Session()))
	must(r.t, CheckSpace(r.disk.Session()))
	r.open()
	r.verify()
}

const rotations = 300

// TestRotationOldest deletes the oldest snapshot of each LUN with each new one.
func TestRotationOldest(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1, 2, 8} {
		t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) {
			r := newRotation(t, limit)
			for i := range rotations {
				r.write("a")
				r.snapshot("a", fmt.Sprint("s", i))
				if i >= 3 {
					r.remove("a", fmt.Sprint("s", i-3))
				}
				r.settle()
				if i%50 == 0 {
					r.verify()
					r.check()
				}
			}
			r.check()
		})
	}
}

// TestRotationNewest is a backup that makes a snapshot and deletes it.
func TestRotationNewest(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1, 2, 8} {
		t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) {
			r := newRotation(t, limit)
			for i := range rotations {
				r.write("a")
				r.snapshot("a", "s")
				r.write("a")
				if i%3 == 0 {
					r.settle()
				}
				r.remove("a", "s")
				r.settle()
				if i%50 == 0 {
					r.verify()
					r.check()
				}
			}
			r.check()
		})
	}
}

// TestRotationOfATree makes, reverts, clones and deletes in random order.
func TestRotationOfATree(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1, 8} {
		t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) {
			r := newRotation(t, limit)
			for i := range rotations {
				r.step(i)
				if i%3 == 0 {
					r.settle()
				}
				if i%60 == 59 {
					r.settle()
					r.verify()
					r.check()
				}
			}
			r.settle()
			r.check()
		})
	}
}

// step does something to one of the LUNs.
func (r *rotation) step(i int) {
	r.t.Helper()
	ctx := context.Background()
	var luns, snapshots []string
	for _, name := range slices.Sorted(maps.Keys(r.content)) {
		if strings.Contains(name, "@") {
			snapshots = append(snapshots, name)
		} else {
			luns = append(luns, name)
		}
	}
	l := luns[r.rng.IntN(len(luns))]
	r.write(l)
	fresh := fmt.Sprint("n", i)
	if len(snapshots) < 3 {
		r.snapshot(l, fresh)
		return
	}
	lun, s, _ := strings.Cut(snapshots[r.rng.IntN(len(snapshots))], "@")
	switch k := r.rng.IntN(10); {
	case k < 3:
		r.snapshot(l, fresh)
	case k < 7 || len(snapshots) > 12:
		r.remove(lun, s)
	case k == 7:
		_, err := r.pool.Revert(ctx, lun, s, RevertOptions{SavedName: fresh})
		must(r.t, err)
		r.content[lun+"@"+fresh] = r.content[lun]
		r.content[lun] = slices.Clone(r.content[lun+"@"+s])
	case k == 8 && len(luns) < 4:
		_, err := r.pool.Clone(ctx, lun, s, fresh)
		must(r.t, err)
		r.content[fresh] = slices.Clone(r.content[lun+"@"+s])
	case k == 9 && len(luns) > 1 && l != "a":
		must(r.t, r.pool.DeleteLUN(ctx, l, DeleteLUNOptions{WithSnapshots: true}))
		maps.DeleteFunc(r.content, func(name string, _ []uint32) bool { return name == l || strings.HasPrefix(name, l+"@") })
	}
}
