package archive_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/archive"
	"github.com/rowan-storage/rowan/snapfs/imagetest"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// show shows an image as the snapshot web@a and returns the root of the
// filesystem in it.
func show(t *testing.T, image string) (*snapfs.Root, tree.Ino, *imagetest.Source) {
	t.Helper()
	src := imagetest.NewSource(t)
	src.Add(t, "web", "a", image)
	root := snapfs.New(src, snapfs.Options{})
	t.Cleanup(func() {
		if err := root.Close(); err != nil {
			t.Error(err)
		}
	})
	ino, err := root.Walk(context.Background(), snapfs.RootIno, "web/a/fs", false)
	if err != nil {
		t.Fatal(err)
	}
	return root, ino, src
}

func populate(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.MkdirAll(at("a/b"), 0o750),
		os.WriteFile(at("a/b/large"), bytes.Repeat([]byte("0123456789abcde\n"), 200000), 0o640),
		os.WriteFile(at("a/empty"), nil, 0o444),
		os.WriteFile(at("a/"+strings.Repeat("long", 60)), []byte("long name"), 0o644),
		os.WriteFile(at("odd \n \x80 name"), []byte("odd"), 0o600),
		os.Symlink("/etc/"+strings.Repeat("x/", 100), at("link")),
		os.Link(at("a/b/large"), at("again")),
		unix.Mkfifo(at("fifo"), 0o620),
		unix.Mknod(at("device"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))),
		unix.Mknod(at("socket"), unix.S_IFSOCK|0o660, 0),
		os.Chown(at("a/empty"), 1234, 2000000000),
		unix.Chmod(at("a/b/large"), 0o6755),
		unix.Setxattr(at("a/empty"), "user.with=%", []byte("a\x00b=c"), 0),
		unix.Setxattr(at("a/b/large"), "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0),
		unix.UtimesNano(at("a"), []unix.Timespec{{Sec: 1, Nsec: 2}, {Sec: -5, Nsec: 7}}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestGNUTarRestores writes an archive of an image, unpacks it with GNU tar and
// compares with the kernel's own mount of the image.
func TestGNUTarRestores(t *testing.T) {
	imagetest.Tool(t, "tar", "getfattr")
	image := imagetest.New(t, "ext4.img", 32*imagetest.MiB)
	imagetest.Ext4("", "", "-O", "^has_journal")(t, image)
	original := imagetest.Mount(t, image, "loop")
	populate(t, original)
	imagetest.Run(t, "sync", "-f", original)
	root, ino, _ := show(t, image)

	var packed bytes.Buffer
	result, err := archive.Tar(context.Background(), root, ino, "top", &packed)
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Problems) != 1 || result.Problems[0].Path != "top/socket" {
		t.Errorf("problems %v, want one with the socket", result.Problems)
	}
	if result.Files != 12 || result.Bytes != 3200000+9+3 {
		t.Errorf("%d files with %d bytes", result.Files, result.Bytes)
	}
	if err := os.Remove(filepath.Join(original, "socket")); err != nil {
		t.Fatal(err)
	}
	restored := t.TempDir()
	imagetest.RunInput(t, packed.String(), "tar", "--extract", "--preserve-permissions", "--same-owner", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--directory", restored)
	for _, script := range []string{
		`find . -mindepth 1 -path ./lost+found -prune -o -printf '%p %y %m %U %G %l %n %T@\n' | LC_ALL=C sort`,
		`find . -type f -printf '%p %s\n' | LC_ALL=C sort`,
		`find . -type f -exec sha256sum {} + | LC_ALL=C sort`,
		`find . -exec getfattr --absolute-names --no-dereference --dump --match=- --encoding=hex {} + 2>/dev/null | LC_ALL=C sort`,
		`stat -c '%t:%T' device`,
	} {
		run := func(dir string) string {
			return imagetest.Run(t, "sh", "-ec", `cd "$0" && eval "$1"`, dir, script)
		}
		got, want := run(filepath.Join(restored, "top")), run(original)
		if got != want || want == "" {
			t.Errorf("%s prints\n%s, of the original\n%s", script, got, want)
		}
	}
	one, err := os.Stat(filepath.Join(restored, "top/again"))
	if err != nil {
		t.Fatal(err)
	}
	if two, err := os.Stat(filepath.Join(restored, "top/a/b/large")); err != nil || !os.SameFile(one, two) {
		t.Errorf("a hard link became a file of its own: %v", err)
	}
}

func TestSingleFile(t *testing.T) {
	image := imagetest.New(t, "ext4.img", 4*imagetest.MiB)
	imagetest.Ext4("", imagetest.Files(t, map[string]string{"etc/hosts": "localhost"}), "-O", "^has_journal")(t, image)
	root, ino, _ := show(t, image)
	file, err := root.Walk(context.Background(), ino, "etc/hosts", false)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	if _, err := archive.Tar(context.Background(), root, file, "hosts", &packed); err != nil {
		t.Fatal(err)
	}
	imagetest.Tool(t, "tar")
	if got := imagetest.RunInput(t, packed.String(), "tar", "--extract", "--to-stdout", "--verbose"); got != "localhost" {
		t.Errorf("it holds %q", got)
	}
}

// damaged makes an image of which one file, of 6 MiB, has a block number past
// the end of the filesystem.
func damaged(t *testing.T, block string) string {
	t.Helper()
	imagetest.Tool(t, "debugfs")
	image := imagetest.New(t, "ext4.img", 16*imagetest.MiB)
	dir := imagetest.Files(t, map[string]string{"bad": strings.Repeat("x", 6<<20), "good": "fine", "zz": "after"})
	imagetest.Ext4("", dir, "-O", "^has_journal,^extent,^64bit", "-b", "4096")(t, image)
	imagetest.Run(t, "debugfs", "-w", "-R", "set_inode_field bad block["+block+"] 0x7fffffff", image)
	return image
}

// TestDamagedFile: one that fails before anything of it is in the archive is
// left out, one that fails later ends it.
func TestDamagedFile(t *testing.T) {
	root, ino, _ := show(t, damaged(t, "0"))
	var packed bytes.Buffer
	result, err := archive.Tar(context.Background(), root, ino, "top", &packed)
	if err != nil || len(result.Problems) != 1 || result.Problems[0].Path != "top/bad" {
		t.Fatalf("%+v, %v, want a problem with bad", result, err)
	}
	imagetest.Tool(t, "tar")
	got := strings.Fields(imagetest.RunInput(t, packed.String(), "tar", "--list"))
	slices.Sort(got)
	if want := []string{"top/", "top/good", "top/lost+found/", "top/zz"}; !slices.Equal(got, want) {
		t.Errorf("it holds %q, want %q", got, want)
	}

	root, ino, _ = show(t, damaged(t, "DIND")) // for what lies behind 4 MiB
	if _, err := archive.Tar(context.Background(), root, ino, "top", io.Discard); !errors.Is(err, unix.EUCLEAN) || !strings.Contains(err.Error(), "top/bad") {
		t.Errorf("a file that fails in the middle: %v", err)
	}
}

func TestDirectoryInItself(t *testing.T) {
	imagetest.Tool(t, "debugfs")
	image := imagetest.New(t, "ext4.img", 4*imagetest.MiB)
	imagetest.Ext4("", imagetest.Files(t, map[string]string{"d/e/f": "x", "z": "after"}), "-O", "^has_journal")(t, image)
	for _, command := range []string{"ln /d /d/e/loop", "ln / /d/root", "ln /d/e /d/twice"} {
		imagetest.Run(t, "debugfs", "-w", "-R", command, image)
	}
	root, ino, _ := show(t, image)
	result, err := archive.Tar(context.Background(), root, ino, "top", io.Discard)
	if err != nil || len(result.Problems) != 3 || result.Files != 6 {
		t.Errorf("%+v, %v, want 6 files and 3 problems", result, err)
	}
}

// failingWriter takes some bytes.
type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

func TestEndsEarly(t *testing.T) {
	image := imagetest.New(t, "ext4.img", 8*imagetest.MiB)
	imagetest.Ext4("", imagetest.Files(t, map[string]string{"a": "x", "b": strings.Repeat("y", 3<<20), "c": "z"}), "-O", "^has_journal")(t, image)
	root, ino, src := show(t, image)
	if _, err := archive.Tar(context.Background(), root, ino, "top", &failingWriter{1 << 20}); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("a full disk: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := archive.Tar(ctx, root, ino, "top", io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	src.SetDown(errors.New("cable pulled"))
	if _, err := archive.Tar(context.Background(), root, ino, "top", io.Discard); !errors.Is(err, snapfs.ErrUnreachable) {
		t.Errorf("the source went away: %v", err)
	}
}
