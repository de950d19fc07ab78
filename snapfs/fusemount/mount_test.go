package fusemount_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/fusemount"
	"github.com/rowan-storage/rowan/snapfs/imagetest"
)

// small makes the image of a small filesystem with one file.
func small(t testing.TB, content string) string {
	t.Helper()
	path := imagetest.New(t, "ext4.img", 4*imagetest.MiB)
	imagetest.Ext4("", imagetest.Files(t, map[string]string{"file": content, "dir/other": content, "link": "-> file"}), "-O", "^has_journal")(t, path)
	return path
}

func expectNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
		return
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, want) {
		t.Errorf("%s holds %q, want %q", dir, names, want)
	}
}

func expectFile(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s holds %q, %v, want %q", path, got, err, want)
	}
}

func TestLife(t *testing.T) {
	src := imagetest.NewSource(t)
	src.Add(t, "web", "a", small(t, "one"))
	dir := mountSource(t, src, snapfs.Options{})
	at := func(path string) string { return filepath.Join(dir, path) }

	expectNames(t, dir, "web")
	expectNames(t, at("web"), "a", "latest")
	expectNames(t, at("web/a"), "disk.raw", "fs", "info.json")
	expectFile(t, at("web/latest/fs/file"), "one")
	if target, err := os.Readlink(at("web/latest")); err != nil || target != "a" {
		t.Errorf("latest points at %q, %v", target, err)
	}
	for _, path := range []string{"web/b", "db"} { // remembered as absent, for a second
		if _, err := os.Stat(at(path)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}

	src.Add(t, "web", "b", small(t, "two"))
	src.AddLUN("db")
	eventually(t, "a new snapshot and LUN are there", func() bool {
		_, err := os.Stat(at("web/b"))
		_, err2 := os.Stat(at("db"))
		return err == nil && err2 == nil
	})
	eventually(t, "latest is the new one", func() bool {
		got, err := os.ReadFile(at("web/latest/fs/file"))
		return err == nil && string(got) == "two"
	})
	expectNames(t, dir, "db", "web")
	expectNames(t, at("web"), "a", "b", "latest")

	src.Update("web", "b", func(s *snapfs.Snapshot) { s.Info = map[string]any{"locked": "until Friday"} })
	eventually(t, "info.json says what changed", func() bool {
		got, err := os.ReadFile(at("web/b/info.json"))
		return err == nil && bytes.Contains(got, []byte("until Friday"))
	})
	src.Update("web", "b", func(s *snapfs.Snapshot) { s.Name = "c" })
	eventually(t, "the snapshot has its new name", func() bool {
		got, err := os.ReadFile(at("web/latest/fs/file"))
		_, gone := os.Stat(at("web/b"))
		target, _ := os.Readlink(at("web/latest"))
		return err == nil && string(got) == "two" && errors.Is(gone, fs.ErrNotExist) && target == "c"
	})

	// Deleted by force while somebody reads and somebody is in it.
	open, err := os.Open(at("web/a/disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	cwd, err := os.Open(at("web/a/fs/dir"))
	if err != nil {
		t.Fatal(err)
	}
	defer cwd.Close()
	src.Delete("web", "a")
	if _, err := open.ReadAt(make([]byte, 4096), 3*imagetest.MiB); !errors.Is(err, syscall.ESTALE) {
		t.Errorf("read in a deleted snapshot: %v, want ESTALE", err)
	}
	eventually(t, "the deleted snapshot is gone", func() bool {
		_, err := os.Stat(at("web/a/fs/file"))
		return errors.Is(err, fs.ErrNotExist)
	})
	expectNames(t, at("web"), "c", "latest")
	var st unix.Stat_t
	if err := unix.Fstatat(int(cwd.Fd()), "../file", &st, 0); err == nil {
		t.Error("a file is still found from inside of the deleted snapshot")
	}
	src.DeleteLUN("web")
	eventually(t, "the deleted LUN is gone", func() bool {
		_, err := os.Stat(at("web"))
		return errors.Is(err, fs.ErrNotExist)
	})
}

func TestSourceAway(t *testing.T) {
	src := imagetest.NewSource(t)
	src.Add(t, "web", "a", small(t, "one"))
	src.Add(t, "web", "b", small(t, strings.Repeat("two", 100000)))
	dir := mountSource(t, src, snapfs.Options{ListingAge: time.Millisecond})
	at := func(path string) string { return filepath.Join(dir, path) }
	expectFile(t, at("web/a/fs/file"), "one")
	b, err := os.Open(at("web/b/disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()

	src.SetDown(syscall.ECONNREFUSED)
	if _, err := b.ReadAt(make([]byte, 4096), 2*imagetest.MiB); !errors.Is(err, syscall.EIO) {
		t.Errorf("read of an open file: %v, want EIO", err)
	}
	eventually(t, "the list of LUNs is an error", func() bool {
		_, err := os.ReadDir(dir)
		return errors.Is(err, syscall.EIO)
	})
	eventually(t, "a snapshot that was not looked at is an error", func() bool {
		_, err := os.ReadDir(at("web/b/fs"))
		return errors.Is(err, syscall.EIO)
	})
	src.SetDown(nil)
	eventually(t, "all is as before", func() bool {
		_, err := os.ReadDir(dir)
		return err == nil
	})
	expectNames(t, at("web/b"), "disk.raw", "fs", "info.json")
	expectFile(t, at("web/b/fs/file"), strings.Repeat("two", 100000))
	expectFile(t, at("web/a/fs/dir/other"), "one")
	if _, err := b.ReadAt(make([]byte, 4096), 2*imagetest.MiB); err != nil {
		t.Errorf("read of the open file: %v", err)
	}
}

// TestIdleThroughTheKernel: a snapshot that nobody looks at is let go, so that
// it can be deleted, though the kernel remembers it; one with an open file not.
func TestIdleThroughTheKernel(t *testing.T) {
	src := imagetest.NewSource(t)
	src.Add(t, "web", "a", small(t, "one"))
	dir := mountSource(t, src, snapfs.Options{ImageIdle: 50 * time.Millisecond})
	path := filepath.Join(dir, "web/a/fs/file")
	expectFile(t, path, "one")
	eventually(t, "the image is closed", func() bool { return src.OpenImages() == 0 })
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // nothing shall happen
	if src.OpenImages() != 1 {
		t.Errorf("%d images are open with a file open", src.OpenImages())
	}
	f.Close()
	eventually(t, "the image is closed", func() bool { return src.OpenImages() == 0 })
}

// largeDirectory makes the image of a filesystem with many files in one
// directory.
func largeDirectory(t testing.TB, count int) string {
	t.Helper()
	return populated(t, 128, func(t testing.TB, dir string) {
		large := filepath.Join(dir, "large")
		if err := os.Mkdir(large, 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range count {
			fd, err := unix.Open(fmt.Sprintf("%s/file-number-%d", large, i), unix.O_CREAT|unix.O_WRONLY, 0o644)
			if err != nil {
				t.Fatal(err)
			}
			unix.Close(fd)
		}
	}, "mkfs.ext4", "-q", "-F", "-N", fmt.Sprint(count+1000), "-O", "^has_journal")
}

// TestLargeDirectory lists 45,000 files, in order of places too.
func TestLargeDirectory(t *testing.T) {
	const count = 45000
	image := largeDirectory(t, count)
	src := imagetest.NewSource(t)
	src.Add(t, "web", "a", image)
	dir := filepath.Join(mountSource(t, src, snapfs.Options{}), "web/a/fs/large")

	for _, what := range []string{"at first", "again"} {
		start := time.Now()
		lines := imagetest.Run(t, "find", dir, "-mindepth", "1", "-printf", "%f %s %i\n")
		t.Logf("find with stat %s: %v", what, time.Since(start))
		seen := map[string]bool{}
		for line := range strings.Lines(lines) {
			seen[line] = true
		}
		if len(seen) != count {
			t.Fatalf("%d different entries, want %d", len(seen), count)
		}
	}

	// Places: every entry read from the place of the one before is the same.
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	names, places := direntsFrom(t, int(f.Fd()), 0, 1<<30)
	if len(names) != count+2 {
		t.Fatalf("%d entries with . and .., want %d", len(names), count+2)
	}
	for _, i := range []int{1, 2, 3, 1000, 44999, 45000, 45001} {
		again, _ := direntsFrom(t, int(f.Fd()), places[i-1], 5)
		if want := names[i:min(i+5, len(names))]; !slices.Equal(again[:len(want)], want) {
			t.Errorf("from the place after entry %d come %q, want %q", i-1, again, want)
		}
	}
}

// direntsFrom reads at least n entries of a directory from a place, and the
// places after each.
func direntsFrom(t *testing.T, fd int, place int64, n int) (names []string, places []int64) {
	t.Helper()
	if _, err := unix.Seek(fd, place, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for len(names) < n {
		got, err := unix.Getdents(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		if got == 0 {
			break
		}
		// struct linux_dirent64: ino 8, off 8, reclen 2, type 1, name
		for rest := buf[:got]; len(rest) > 0; {
			size := int(rest[16]) | int(rest[17])<<8
			name, _, _ := bytes.Cut(rest[19:size], []byte{0})
			names = append(names, string(name))
			var off int64
			for i := range 8 {
				off |= int64(rest[8+i]) << (8 * i)
			}
			places = append(places, off)
			rest = rest[size:]
		}
	}
	return names, places
}

// TestManyAtOnce: everything is read by many while snapshots come and go, and
// every number is that of one file.
func TestManyAtOnce(t *testing.T) {
	image := populated(t, 64, func(t testing.TB, dir string) {
		for i := range 400 {
			sub := filepath.Join(dir, fmt.Sprint("dir", i%20))
			if err := os.MkdirAll(sub, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprint("file", i)), bytes.Repeat([]byte(fmt.Sprintln(i)), i*10), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}, "mkfs.ext4", "-q", "-F")
	src := imagetest.NewSource(t)
	src.Add(t, "web", "stays", image)
	src.Add(t, "db", "stays", image)
	dir := mountSource(t, src, snapfs.Options{ListingAge: 10 * time.Millisecond, ImageIdle: 20 * time.Millisecond})
	var wg sync.WaitGroup
	var rounds atomic.Int64
	stop := make(chan struct{})
	end := sync.OnceFunc(func() { close(stop); wg.Wait() })
	defer end()
	for worker := range 6 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				base := filepath.Join(dir, []string{"web", "db"}[worker%2], "stays/fs")
				for i := range 400 {
					path := fmt.Sprintf("%s/dir%d/file%d", base, i%20, i)
					got, err := os.ReadFile(path)
					if want := bytes.Repeat([]byte(fmt.Sprintln(i)), i*10); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s: %d bytes, %v, want %d", path, len(got), err, len(want))
						return
					}
				}
				rounds.Add(1)
			}
		})
	}
	for range 10 {
		src.Add(t, "web", "goes", image)
		path := filepath.Join(dir, "web/goes/fs/dir7/file7")
		eventually(t, "a new snapshot can be read", func() bool {
			got, err := os.ReadFile(path)
			return err == nil && string(got) == strings.Repeat("7\n", 70)
		})
		src.Delete("web", "goes")
	}
	eventually(t, "everybody has read everything", func() bool { return rounds.Load() >= 12 })
	end()

	numbers := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		ino := info.Sys().(*syscall.Stat_t).Ino
		if other, ok := numbers[ino]; ok {
			t.Errorf("%s and %s both have the number %d", path, other, ino)
		}
		numbers[ino] = path
		return nil
	})
	if err != nil || len(numbers) < 840 {
		t.Errorf("%d files, %v", len(numbers), err)
	}
}

// TestMountIsHarmless: what the mount looks like to the rest of the machine.
func TestMountIsHarmless(t *testing.T) {
	src := imagetest.NewSource(t)
	src.Add(t, "web", "a", small(t, "one"))
	dir := mountSource(t, src, snapfs.Options{})
	options := imagetest.Run(t, "findmnt", "--noheadings", "--output", "FSTYPE,SOURCE,OPTIONS", dir)
	for _, want := range []string{"fuse.rowan", "rowan ", "ro,", "nosuid", "nodev"} {
		if !strings.Contains(options, want) {
			t.Errorf("the mount is %s, without %q", options, want)
		}
	}
	if strings.Contains(options, "allow_other") || strings.Contains(options, "default_permissions") {
		t.Errorf("the mount is %s", options)
	}
	file := filepath.Join(dir, "web/a/fs/file")
	for what, err := range map[string]error{
		"write": os.WriteFile(file, nil, 0o600), "chmod": os.Chmod(file, 0), "remove": os.Remove(file),
		"mkdir": os.Mkdir(filepath.Join(dir, "web/a/fs/new"), 0o755), "setxattr": unix.Setxattr(file, "user.x", nil, 0),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v, want EROFS", what, err)
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(file, &st); err != nil || st.Blocks != 1024 || st.Bfree == 0 || st.Bfree >= 1024 {
		t.Errorf("statfs of a filesystem of 4 MiB: %+v, %v", st, err)
	}
	var mounted unix.Stat_t
	if err := unix.Stat(dir, &mounted); err != nil {
		t.Fatal(err)
	}
	expectFile(t, fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(mounted.Dev), unix.Minor(mounted.Dev)), "1024\n")
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, fd := range fds {
		if target, err := os.Readlink("/proc/self/fd/" + fd.Name()); err != nil || target != "/dev/fuse" {
			continue
		}
		found++
		info, err := os.ReadFile("/proc/self/fdinfo/" + fd.Name())
		var flags int64
		if _, scanErr := fmt.Sscanf(string(info[bytes.Index(info, []byte("flags:")):]), "flags: %o", &flags); err != nil || scanErr != nil || flags&unix.O_CLOEXEC == 0 {
			t.Errorf("the connection with the kernel is inherited by programs: %s, %v", info, err)
		}
	}
	if found == 0 {
		t.Error("no connection with the kernel was found")
	}
}

// TestAllowOther: with it everybody looks at everything, also at what its
// owner's mode would keep from them; without it nobody else does.
func TestAllowOther(t *testing.T) {
	needFUSE(t)
	imagetest.Tool(t, "setpriv")
	image := populated(t, 16, func(t testing.TB, dir string) {
		if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("for all"), 0); err != nil {
			t.Fatal(err)
		}
	}, "mkfs.ext4", "-q", "-F")
	src := imagetest.NewSource(t)
	src.Add(t, "web", "a", image)
	root := snapfs.New(src, snapfs.Options{})
	defer root.Close()
	for _, allow := range []bool{false, true} {
		dir, err := os.MkdirTemp("", "fusemount")
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(dir)
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		s, err := fusemount.Mount(dir, root, fusemount.Options{AllowOther: allow})
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", filepath.Join(dir, "web/a/fs/secret")).Output()
		if allowed := err == nil && string(out) == "for all"; allowed != allow {
			t.Errorf("with AllowOther %v another user reads %q, %v", allow, out, err)
		}
		info, err := os.Stat(filepath.Join(dir, "web/a/fs/secret"))
		if err != nil || info.Mode() != 0 {
			t.Errorf("mode %v, %v, want 0", info.Mode(), err)
		}
		if err := s.Unmount(); err != nil {
			t.Error(err)
		}
	}
}
