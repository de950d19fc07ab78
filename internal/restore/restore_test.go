package restore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/internal/restore"
	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/imagetest"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// snapshotOf makes an ext4 image of a directory and shows it as the snapshot
// web@a. It returns the root of the filesystem in it. change may change the
// image first.
func snapshotOf(t *testing.T, dir string, change func(image string)) (*snapfs.Root, tree.Ino, *imagetest.Source) {
	t.Helper()
	image := imagetest.New(t, "image", 64<<20)
	imagetest.Ext4("", dir)(t, image)
	if change != nil {
		change(image)
	}
	return show(t, image)
}

// show shows an image as the snapshot web@a.
func show(t *testing.T, image string) (*snapfs.Root, tree.Ino, *imagetest.Source) {
	t.Helper()
	source := imagetest.NewSource(t)
	source.Add(t, "web", "a", image)
	root := snapfs.New(source, snapfs.Options{})
	t.Cleanup(func() {
		if err := root.Close(); err != nil {
			t.Error(err)
		}
	})
	return root, walk(t, root, "web/a/fs"), source
}

func walk(t *testing.T, root *snapfs.Root, path string) tree.Ino {
	t.Helper()
	ino, err := root.Walk(context.Background(), snapfs.RootIno, path, false)
	if err != nil {
		t.Fatal(err)
	}
	return ino
}

// describe says of every file in a directory what a copy has to keep.
func describe(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if name == "lost+found" {
			return fs.SkipDir // made by mkfs
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		text := fmt.Sprintf("%o %d:%d mtime %d.%09d rdev %x", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec, st.Rdev)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" size %d %x", st.Size, sha256.Sum256(data))
			if st.Nlink > 1 {
				if first[st.Ino] == "" {
					first[st.Ino] = name
				}
				text += " same as " + first[st.Ino]
			}
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " -> " + target
		}
		value := make([]byte, 1<<16)
		for _, attr := range []string{"user.note", "system.posix_acl_access", "security.capability"} {
			if n, err := unix.Lgetxattr(path, attr, value); err == nil {
				text += fmt.Sprintf(" %s=%x", attr, value[:n])
			}
		}
		files[name] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func expectSame(t *testing.T, got, want string) {
	t.Helper()
	g, w := describe(t, got), describe(t, want)
	for name, text := range w {
		if g[name] != text {
			t.Errorf("%s is\n%s, want\n%s", name, g[name], text)
		}
		delete(g, name)
	}
	for name := range g {
		t.Errorf("%s was not in the original", name)
	}
}

// original makes an image with files of every kind, and returns their
// directory and the root of the filesystem in the snapshot of it. The kernel's
// own driver has it mounted, since mkfs drops fractions of seconds.
func original(t *testing.T) (string, *snapfs.Root, tree.Ino) {
	t.Helper()
	image := imagetest.New(t, "image", 64<<20)
	imagetest.Ext4("", t.TempDir())(t, image)
	dir := imagetest.Mount(t, image, "loop")
	populate(t, dir)
	mounted, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer mounted.Close()
	if err := unix.Syncfs(int(mounted.Fd())); err != nil {
		t.Fatal(err)
	}
	root, ino, _ := show(t, image)
	return dir, root, ino
}

func populate(t *testing.T, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	must(os.MkdirAll(at("a/b/c"), 0o755))
	must(os.WriteFile(at("a/text"), []byte("hello\n"), 0o640))
	must(os.WriteFile(at("a/empty"), nil, 0o444))
	must(os.WriteFile(at("a/b/large"), bytes.Repeat([]byte("0123456789abcdef"), 200000), 0o600))
	must(os.Link(at("a/text"), at("a/b/c/again")))
	must(os.Symlink("../../etc/passwd", at("a/link")))
	must(os.Symlink("/", at("a/root")))
	must(os.WriteFile(at("new\nline \xff"), []byte("odd name"), 0o600))
	f, err := os.Create(at("sparse"))
	must(err)
	_, err = f.WriteAt([]byte("end"), 30<<20)
	must(err)
	must(f.Close())
	must(unix.Setxattr(at("a/text"), "user.note", []byte("kept"), 0))
	must(unix.Mkfifo(at("fifo"), 0o620))
	must(os.Mkdir(at("closed"), 0o700))
	must(os.WriteFile(at("closed/in"), []byte("x"), 0o600))
	old := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
	must(os.Chtimes(at("a/text"), old, old))
	must(os.Chmod(at("closed"), 0o500))
	must(os.Chtimes(at("a"), old, old))
	must(unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(unix.Mknod(at("disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
	must(os.Chown(at("a/text"), 1234, 2000000000))
	must(unix.Chmod(at("a/text"), 0o6751))
	must(os.Lchown(at("a/link"), 5, 6))
	must(os.Chown(at("a"), 7, 8))
	must(unix.Setxattr(at("a/empty"), "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
}

func TestEverythingIsKept(t *testing.T) {
	dir, root, ino := original(t)
	dest := filepath.Join(t.TempDir(), "copy")
	var progress restore.Progress
	result, err := restore.Copy(context.Background(), root, ino, dest, restore.Options{Owners: true, Progress: &progress})
	if err != nil || len(result.Problems) > 0 || result.Skipped > 0 || result.Attributes > 0 {
		t.Fatalf("result is %+v (%v)", result, err)
	}
	expectSame(t, dest, dir)
	files := int64(len(describe(t, dir))) + 1 // lost+found
	if result.Files != files || progress.Files.Load() != files || result.Bytes != 6+3200000+8+30<<20+3+1 {
		t.Errorf("%d files with %d bytes, want %d", result.Files, result.Bytes, files)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dest, "sparse"), &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("the sparse file takes %d bytes (%v)", st.Blocks*512, err)
	}
}

// TestWithoutOwners is what a user gets who is not root.
func TestWithoutOwners(t *testing.T) {
	_, root, ino := original(t)
	dest := filepath.Join(t.TempDir(), "copy")
	result, err := restore.Copy(context.Background(), root, ino, dest, restore.Options{})
	if err != nil || len(result.Problems) > 0 {
		t.Fatalf("result is %+v (%v)", result, err)
	}
	if result.Skipped != 2 || result.Attributes != 1 {
		t.Errorf("%d devices and %d attributes were left out, want 2 and 1", result.Skipped, result.Attributes)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dest, "a/text"), &st); err != nil || st.Mode&0o7777 != 0o751 || int(st.Uid) != os.Geteuid() {
		t.Errorf("mode %o, owner %d (%v)", st.Mode, st.Uid, err)
	}
	if _, err := os.Lstat(filepath.Join(dest, "null")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a device was made: %v", err)
	}
}

func TestSingleFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hosts"), []byte("127.0.0.1 localhost\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	root, _, _ := snapshotOf(t, dir, nil)
	ino := walk(t, root, "web/a/fs/hosts")
	out := t.TempDir()
	dest := filepath.Join(out, "hosts")
	copyIt := func(o restore.Options) error {
		_, err := restore.Copy(context.Background(), root, ino, dest, o)
		return err
	}
	if err := copyIt(restore.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dest, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := copyIt(restore.Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
	if data, err := os.ReadFile(dest); err != nil || string(data) != "damaged" {
		t.Errorf("the file there was changed: %q (%v)", data, err)
	}
	if err := copyIt(restore.Options{Replace: true}); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(dest); err != nil || string(data) != "127.0.0.1 localhost\n" {
		t.Errorf("got %q (%v)", data, err)
	}
	expectOnly(t, out, "hosts")

	// A link at the destination is replaced, not written through.
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("safe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dest); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, dest); err != nil {
		t.Fatal(err)
	}
	if err := copyIt(restore.Options{Replace: true}); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(victim); err != nil || string(data) != "safe" {
		t.Errorf("what the link pointed at is %q (%v)", data, err)
	}
}

func expectOnly(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("%s holds %q, want %q", dir, got, names)
	}
}

func TestExistingDirectoryIsNotMergedInto(t *testing.T) {
	root, ino, _ := snapshotOf(t, t.TempDir(), nil)
	dest := t.TempDir()
	if _, err := restore.Copy(context.Background(), root, ino, dest, restore.Options{Replace: true}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v", err)
	}
	expectOnly(t, dest)
}

// TestDirectoryInItself copies a filesystem whose directories have several
// names, as none has that is intact.
func TestDirectoryInItself(t *testing.T) {
	imagetest.Tool(t, "debugfs")
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "d/e"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "z"), []byte("after"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, ino, _ := snapshotOf(t, dir, func(image string) {
		for _, command := range []string{"ln /d /d/e/loop", "ln / /d/root", "ln /d/e /d/twice"} {
			if out, err := exec.Command("debugfs", "-w", "-R", command, image).CombinedOutput(); err != nil {
				t.Fatalf("debugfs %s: %v\n%s", command, err, out)
			}
		}
	})
	dest := filepath.Join(t.TempDir(), "copy")
	result, err := restore.Copy(context.Background(), root, ino, dest, restore.Options{})
	if err != nil || len(result.Problems) != 3 {
		t.Errorf("result is %+v (%v), want 3 problems", result, err)
	}
	if data, err := os.ReadFile(filepath.Join(dest, "z")); err != nil || string(data) != "after" {
		t.Errorf("the rest was not copied: %q (%v)", data, err)
	}
}

// TestDamagedFileIsLeftOut has one file whose checksum does not hold.
func TestDamagedFileIsLeftOut(t *testing.T) {
	imagetest.Tool(t, "debugfs")
	dir := t.TempDir()
	for _, name := range []string{"bad", "good"} {
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte(name), 5000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root, ino, _ := snapshotOf(t, dir, func(image string) {
		if out, err := exec.Command("debugfs", "-w", "-R", "set_inode_field bad block[5] 0xffffffff", image).CombinedOutput(); err != nil {
			t.Fatalf("debugfs: %v\n%s", err, out)
		}
	})
	dest := filepath.Join(t.TempDir(), "copy")
	result, err := restore.Copy(context.Background(), root, ino, dest, restore.Options{})
	if err != nil || len(result.Problems) != 1 || result.Problems[0].Path != "bad" {
		t.Errorf("result is %+v (%v), want a problem with bad", result, err)
	}
	expectOnly(t, dest, "good", "lost+found")
}

func TestSourceThatGoesAwayEndsTheCopy(t *testing.T) {
	dir := t.TempDir()
	for i := range 50 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("file", i)), bytes.Repeat([]byte{byte(i)}, 100000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root, ino, source := snapshotOf(t, dir, nil)
	source.SetDown(errors.New("cable pulled"))
	dest := filepath.Join(t.TempDir(), "copy")
	if _, err := restore.Copy(context.Background(), root, ino, dest, restore.Options{}); err == nil {
		t.Error("it succeeded")
	}
}

func TestCancel(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, ino, _ := snapshotOf(t, dir, nil)
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := root.ReadDir(ctx, ino); err != nil {
		t.Fatal(err)
	}
	cancel()
	_, err := restore.Copy(ctx, root, ino, filepath.Join(t.TempDir(), "copy"), restore.Options{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestFullDestinationEndsTheCopy(t *testing.T) {
	imagetest.Root(t)
	dir := t.TempDir()
	for i := range 40 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("file", i)), bytes.Repeat([]byte{byte(i + 1)}, 200000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root, ino, _ := snapshotOf(t, dir, nil)
	full := t.TempDir()
	if err := unix.Mount("tmpfs", full, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(full, unix.MNT_DETACH)
	result, err := restore.Copy(context.Background(), root, ino, filepath.Join(full, "copy"), restore.Options{})
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v with %+v", err, result)
	}
}
