package snapfs_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/imagetest"
)

func TestWalk(t *testing.T) {
	ctx := context.Background()
	src := imagetest.NewSource(t)
	files := map[string]string{
		"etc/hosts": "hosts", "etc/link": "-> hosts", "abs": "-> /etc/hosts", "up": "-> ../../../../etc/hosts",
		"dir/sub/file": "deep", "dir/tolink": "-> sub/../../abs", "loop": "-> loop", "a": "-> b", "b": "-> a",
		"etcdir": "-> /etc/", "dangling": "-> nowhere", "host": "-> /proc/self/root/etc/passwd", "slash": "-> /", "hop0": "-> etc/hosts",
		strings.Repeat("n", 255): "long",
	}
	for i := range 45 {
		files["hop"+string(rune('A'+i))] = "-> hop" + string(rune('A'+i-1))
	}
	files["hopA"] = "-> hop0"
	src.Add(t, "web", "mon", imagetest.Disk(t, "dos", imagetest.Part{SizeMiB: 8, Type: "83", Make: imagetest.Ext4("root", imagetest.Files(t, files))}))
	r := newRoot(t, src)
	const p1 = "web/mon/p1-ext4-root"
	cases := []struct {
		path    string
		content string // "" if there is none
		err     error
	}{
		{p1 + "/etc/hosts", "hosts", nil},
		{"/" + p1 + "//etc/./hosts", "hosts", nil},
		{p1 + "/etc/link", "hosts", nil},
		{p1 + "/abs", "hosts", nil},
		{p1 + "/up", "hosts", nil},
		{p1 + "/dir/sub/../../etc/hosts", "hosts", nil},
		{p1 + "/dir/tolink", "hosts", nil},
		{p1 + "/etcdir/hosts", "hosts", nil},
		{p1 + "/slash/slash/slash/etc/hosts", "hosts", nil},
		{p1 + "/../p1-ext4-root/etc/hosts", "hosts", nil},
		{"../../" + p1 + "/etc/hosts", "hosts", nil},
		{"web/latest/p1-ext4-root/etc/hosts", "hosts", nil},
		{"web/latest/../mon/p1-ext4-root/etc/hosts", "hosts", nil},
		{p1 + "/" + strings.Repeat("n", 255), "long", nil},
		{p1 + "/hop" + string(rune('A'+38)), "hosts", nil}, // 40 links
		{p1 + "/hop" + string(rune('A'+39)), "", syscall.ELOOP},
		{p1 + "/loop", "", syscall.ELOOP},
		{p1 + "/a", "", syscall.ELOOP},
		{p1 + "/dangling", "", fs.ErrNotExist},
		{p1 + "/host", "", fs.ErrNotExist},
		{p1 + "/etc/hosts/x", "", syscall.ENOTDIR},
		{p1 + "/etc/hosts/", "", syscall.ENOTDIR},
		{p1 + "/etc/link/", "", syscall.ENOTDIR},
		{"web/mon/disk.raw/x", "", syscall.ENOTDIR},
		{p1 + "/none", "", fs.ErrNotExist},
		{p1 + "/none/x", "", fs.ErrNotExist},
		{"none/mon", "", fs.ErrNotExist},
		{p1 + "/" + strings.Repeat("n", 256), "", fs.ErrNotExist},
		{strings.Repeat("x/", 2049), "", syscall.ENAMETOOLONG},
		{p1 + "/etc\x00/hosts", "", syscall.EINVAL},
	}
	for _, c := range cases {
		got, err := read(r, c.path)
		if got != c.content || !errors.Is(err, c.err) {
			t.Errorf("%.60s holds %q, %v, want %q, %v", c.path, got, err, c.content, c.err)
		}
	}
	for path, want := range map[string]string{"abs": "/etc/hosts", "dangling": "nowhere", "etc/link": "hosts", "loop": "loop"} {
		ino, err := r.Walk(ctx, snapfs.RootIno, p1+"/"+path, false)
		if err != nil {
			t.Errorf("%s itself: %v", path, err)
			continue
		}
		if got, err := r.Readlink(ctx, ino); err != nil || got != want {
			t.Errorf("%s points at %q, %v, want %q", path, got, err, want)
		}
		if _, err := r.Open(ctx, ino); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("Open of a link: %v, want EINVAL", err)
		}
	}
	// From inside of a filesystem nothing leads out of where the walk began.
	etc, err := r.Walk(ctx, snapfs.RootIno, p1+"/etc", false)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Walk(ctx, etc, "../../..", true); err != nil || got != etc {
		t.Errorf(".. from the beginning leads to %d, %v, want %d", got, err, etc)
	}
}

func TestIOFS(t *testing.T) {
	ctx := context.Background()
	src := imagetest.NewSource(t)
	dir := imagetest.Files(t, map[string]string{
		"etc/hosts": "127.0.0.1 localhost\n", "etc/link": "-> hosts", "var/lib/x": strings.Repeat("data", 10000), "empty": "", "dir/": "", "ünïcode": "é",
	})
	if err := os.Chmod(dir+"/empty", 0o4750|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	path := imagetest.New(t, "ext2", 128<<10) // TestFS reads disk.raw byte by byte
	imagetest.Mkfs("mkfs.ext2", "-q", "-F", "-N", "32", "-d", dir)(t, path)
	src.Add(t, "web", "mon", path)
	r := newRoot(t, src)
	fsys := r.FS(ctx, snapfs.RootIno)
	if err := fstest.TestFS(fsys, "web/mon/info.json", "web/mon/disk.raw", "web/mon/fs/etc/hosts", "web/mon/fs/etc/link", "web/mon/fs/var/lib/x", "web/mon/fs/empty", "web/mon/fs/ünïcode", "web/latest"); err != nil {
		t.Error(err)
	}
	root, err := r.Walk(ctx, snapfs.RootIno, "web/mon/fs", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(r.FS(ctx, root), "etc/hosts", "var/lib/x"); err != nil {
		t.Error(err)
	}
	info, err := fs.Stat(fsys, "web/mon/fs/empty")
	if err != nil || info.Mode() != 0o750|fs.ModeSetuid {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if target, err := fs.ReadLink(fsys, "web/mon/fs/etc/link"); err != nil || target != "hosts" {
		t.Errorf("link to %q, %v", target, err)
	}
	for name, want := range map[string]error{"/etc": fs.ErrInvalid, "web/mon/fs/none": fs.ErrNotExist, "web/mon/fs/etc/hosts/x": syscall.ENOTDIR} {
		_, err := fsys.Open(name)
		if e, ok := errors.AsType[*fs.PathError](err); !ok || e.Path != name || !errors.Is(err, want) {
			t.Errorf("Open(%q): %v, want %v", name, err, want)
		}
	}
}
