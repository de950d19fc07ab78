package ext4_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/snapfs/ext4"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// TestOrphans makes orphans of files: some are to be cut to their size, one is
// to be deleted. The kernel finishes that when it mounts the image.
func TestOrphans(t *testing.T) {
	need(t, "debugfs", "mke2fs", "mount")
	for _, v := range []struct {
		name string
		args []string
	}{
		{"ext4", []string{"-t", "ext4", "-b", "1024"}},
		{"ext4-4k", []string{"-t", "ext4", "-b", "4096"}},
		{"ext4-bigalloc", []string{"-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "8192"}},
		{"ext3", []string{"-t", "ext3", "-b", "1024"}},
		{"ext2", []string{"-t", "ext2", "-b", "4096"}},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			image := makeImage(t, 64<<20, v.args...)
			dir, unmount := mount(t, image)
			p := &population{t: t, dir: dir, rng: rand.New(rand.NewPCG(1, 1))}
			sizes := []int64{0, 1, 100_000, 1_000_000, 3_000_001, 9_000_000}
			for i := range sizes {
				f, err := os.Create(p.path(fmt.Sprint("file", i)))
				p.check(err)
				for j := range 300 {
					_, err := f.WriteAt(p.random(3000), int64(j)*20_000)
					p.check(err)
				}
				p.check(f.Close())
			}
			p.write("gone", p.random(100_000))
			unmount()

			script := "set_super_value last_orphan %d\n"
			fsys := openImage(t, image)
			for i, size := range sizes {
				ino := lookup(t, fsys, fmt.Sprint("file", i))
				script = fmt.Sprintf(script, ino) + fmt.Sprintf("set_inode_field <%d> size %d\n", ino, size) +
					fmt.Sprintf("set_inode_field <%d> dtime ", ino) + "%d\n"
			}
			gone := lookup(t, fsys, "gone")
			script = fmt.Sprintf(script, gone) + fmt.Sprintf("unlink gone\nset_inode_field <%d> links_count 0\nset_inode_field <%d> dtime 0\n", gone, gone)
			commands := filepath.Join(t.TempDir(), "commands")
			p.check(os.WriteFile(commands, []byte(script), 0o600))
			command(t, "debugfs", "-w", "-f", commands, image)

			fsys = openImage(t, image)
			if notes := fsys.Info().Notes; len(notes) != 0 {
				t.Errorf("notes: %q", notes)
			}
			if _, err := fsys.Stat(gone); !errors.Is(err, ext4.ErrCorrupt) {
				t.Errorf("Stat of an orphan: %v", err)
			}
			started := time.Now().Add(-time.Second)
			dir, _ = mount(t, copyImage(t, image), "noatime")
			c := &comparison{t: t, fsys: fsys, dir: dir, rng: p.rng}
			truncated := 0
			c.adjust = func(path string, got *tree.Attr, want tree.Attr) {
				if strings.HasPrefix(path, "file") && want.Ctime.After(started) {
					takeTimes(got, want)
					truncated++
				}
			}
			c.run()
			if truncated != len(sizes) {
				t.Errorf("the kernel truncated %d files", truncated)
			}
		})
	}
}

// lookup finds a name in the root directory.
func lookup(t testing.TB, fsys tree.FileSystem, name string) tree.Ino {
	t.Helper()
	ino, err := fsys.Lookup(fsys.Root(), name)
	if err != nil {
		t.Fatal(err)
	}
	return ino
}
