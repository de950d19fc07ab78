package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/test/harness"
)

// fsyncer writes files and remembers those that fsync said are durable.
type fsyncer struct {
	dir string

	mu      sync.Mutex
	durable map[string]string // path from dir to SHA-256
}

// write makes file n: its data, its directory entry and all directories above
// are durable when it returns.
func (f *fsyncer) write(n int, rng *rand.Rand) error {
	data := make([]byte, 1+rng.IntN(100<<10))
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	sub := fmt.Sprintf("d%d/e%d", n%7, n%3)
	path := filepath.Join(f.dir, sub, fmt.Sprintf("file-%d", n))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(data); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if err := syncDir(dir); err != nil {
			return err
		}
		if dir == f.dir {
			break
		}
	}
	sum := sha256.Sum256(data)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.durable[filepath.Join(sub, filepath.Base(path))] = hex.EncodeToString(sum[:])
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// known returns what is durable now.
func (f *fsyncer) known() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	copied := make(map[string]string, len(f.durable))
	for path, hash := range f.durable {
		copied[path] = hash
	}
	return copied
}

// restless makes, changes, renames and removes files in a directory and syncs
// nothing, so that the journal is never at rest.
func restless(dir string, n int, rng *rand.Rand) error {
	path := func(i int) string { return filepath.Join(dir, fmt.Sprintf("restless-%d", i)) }
	if err := os.WriteFile(path(n), make([]byte, rng.IntN(50_000)), 0o600); err != nil {
		return err
	}
	if n < 200 {
		return nil
	}
	if n%3 == 0 {
		if err := os.Rename(path(n-100), path(n-101)); err != nil {
			return err
		}
	}
	if err := os.Remove(path(n - 200)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.Truncate(path(n-1), int64(rng.IntN(100_000)))
}

// furnish puts one file of each kind, and some awkward ones, into a directory.
func furnish(t *testing.T, dir string) {
	t.Helper()
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	do(os.MkdirAll(at("many"), 0o711))
	for i := range 1500 {
		do(os.WriteFile(at(fmt.Sprintf("many/entry with a longer name, number %d", i)), nil, 0o640))
	}
	do(os.WriteFile(at("mode 0000"), []byte("nobody may read this"), 0))
	do(os.Chmod(at("mode 0000"), 0))
	do(os.WriteFile(at("setuid"), []byte("x"), 0o755))
	do(os.Chown(at("setuid"), 1234, 70000))
	do(os.Chmod(at("setuid"), 0o4755|os.ModeSetuid))
	do(os.Link(at("setuid"), at("second name")))
	do(os.Symlink("many/../setuid", at("short symlink")))
	long := ""
	for range 40 {
		long += "a-part-of-a-path/"
	}
	do(os.Symlink(long, at("long symlink")))
	do(os.WriteFile(at("név ☃ \xff"), []byte("not UTF-8"), 0o600))
	do(syscall.Mknod(at("device"), syscall.S_IFCHR|0o620, 5<<8|1))
	do(syscall.Mknod(at("fifo"), syscall.S_IFIFO|0o600, 0))
	do(syscall.Setxattr(at("setuid"), "user.colour", []byte("rowan red"), 0))
	do(syscall.Setxattr(at("many"), "trusted.overlay", []byte{1, 2, 3}, 0))
	do(os.WriteFile(at("old"), []byte("older than the epoch"), 0o600))
	do(os.Chtimes(at("old"), time.Time{}, time.Unix(-1_000_000_000, 123_456_789)))

	sparse, err := os.Create(at("sparse"))
	do(err)
	defer sparse.Close()
	for _, off := range []int64{0, 1 << 20, 10<<20 + 17, 30<<20 - 5} {
		_, err := sparse.WriteAt([]byte("here"), off)
		do(err)
	}
	do(sparse.Truncate(32 << 20))
}

// TestBusyFilesystem takes a snapshot of an ext4 that is mounted and being
// written, and compares what the snapshot's tree shows, its journal replayed by
// our reader, with what was fsynced and with what the kernel makes of a copy.
func TestBusyFilesystem(t *testing.T) {
	harness.NeedMounts(t)
	harness.Need(t, "nbdcopy", "e2fsck", "dumpe2fs")
	d := harness.Start(t)
	d.Rowan("lun", "create", "web", "--size", "256M")
	device := d.Attach("web")
	harness.Run(t, "mkfs.ext4", "-q", "-L", "busy", device)
	mnt := harness.Mount(t, device)
	furnish(t, mnt)
	if err := os.Mkdir(filepath.Join(mnt, "restless"), 0o755); err != nil {
		t.Fatal(err)
	}

	f := &fsyncer{dir: mnt, durable: map[string]string{}}
	s := seed(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var writers sync.WaitGroup
	repeat := func(stream uint64, step func(n int, rng *rand.Rand) error) {
		rng := rand.New(rand.NewPCG(s, stream))
		writers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if err := step(n, rng); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	repeat(1, f.write)
	repeat(2, func(n int, rng *rand.Rand) error { return restless(filepath.Join(mnt, "restless"), n, rng) })

	const rounds = 3
	var durable []map[string]string
	for n := range rounds {
		harness.Eventually(t, 2*time.Minute, "more files are fsynced", func() bool { return len(f.known()) >= 30*(n+1) })
		known := f.known()
		d.Rowan("snapshot", "create", fmt.Sprintf("web@busy%d", n))
		durable = append(durable, known)
	}
	stop()
	writers.Wait()
	harness.Unmount(t, mnt)
	d.Detach("web")

	browse := d.Browse()
	for n := range rounds {
		t.Run(fmt.Sprintf("snapshot %d", n), func(t *testing.T) {
			checkBusySnapshot(t, d, browse, fmt.Sprintf("busy%d", n), durable[n])
		})
	}
}

// checkBusySnapshot compares one snapshot with what was durable before it was
// made, and with the kernel's mount of a copy.
func checkBusySnapshot(t *testing.T, d *harness.Daemon, browse, name string, durable map[string]string) {
	fs := filepath.Join(browse, "web", name, "fs")
	for path, hash := range durable {
		if got := harness.HashFile(t, filepath.Join(fs, path)); got != hash {
			t.Errorf("%s, fsynced before the snapshot, differs", path)
		}
	}
	for path, hash := range durable { // one through the command line, any
		sum := sha256.Sum256([]byte(d.Rowan("files", "cat", "web@"+name+":/fs/"+path)))
		if hex.EncodeToString(sum[:]) != hash {
			t.Errorf("rowan files cat: %s, fsynced before the snapshot, differs", path)
		}
		break
	}

	copied := filepath.Join(t.TempDir(), "copy.raw")
	harness.Run(t, "nbdcopy", d.URI("web@"+name), copied)
	if harness.HashFile(t, copied) != harness.HashFile(t, filepath.Join(browse, "web", name, "disk.raw")) {
		t.Error("disk.raw is not what nbdcopy reads")
	}
	if features := harness.Run(t, "dumpe2fs", "-h", copied); !strings.Contains(features, "needs_recovery") {
		t.Error("the filesystem was at rest in the snapshot: its journal has nothing to replay")
	}
	// The kernel replays the journal of the copy, which is its own to write.
	mounting := time.Now().Add(-100 * time.Millisecond) // its clock may lag behind
	mnt := harness.Mount(t, copied, "-o", "loop")
	defer harness.Unmount(t, mnt)
	kernels, ours := walk(t, mnt), walk(t, fs)
	for path, k := range kernels {
		if !time.Unix(k.mtime.Unix()).Before(mounting) {
			// It went on with a truncation that the snapshot had cut off, and
			// noted when.
			k.mtime = ours[path].mtime
			kernels[path] = k
		}
	}
	compareTrees(t, kernels, ours)
	harness.Unmount(t, mnt)
	harness.Run(t, "e2fsck", "-fn", copied)
}
