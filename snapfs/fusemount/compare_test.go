package fusemount_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/imagetest"
)

// describe says everything about each file below a directory: what statx(2)
// says but for the device and the inode number, the target or a hash of the
// content, the extended attributes, and which files are one.
func describe(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	first := map[uint64]string{} // path of the first name of an inode
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		var st unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil {
			return &fs.PathError{Op: "statx", Path: path, Err: err}
		}
		var s strings.Builder
		fmt.Fprintf(&s, "mode=%o uid=%d gid=%d nlink=%d size=%d blocks=%d rdev=%d:%d mask=%x",
			st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Blocks, st.Rdev_major, st.Rdev_minor, st.Mask&(unix.STATX_BASIC_STATS|unix.STATX_BTIME))
		for i, ts := range []unix.StatxTimestamp{st.Atime, st.Mtime, st.Ctime, st.Btime} {
			fmt.Fprintf(&s, " %c=%d.%09d", "amcb"[i], ts.Sec, ts.Nsec)
		}
		if d.Type() != fs.FileMode(0) && uint32(d.Type().Type()) == 0 {
			t.Errorf("%s: type %v", path, d.Type())
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if _, ok := first[st.Ino]; !ok {
				first[st.Ino] = name
			}
			fmt.Fprintf(&s, " same=%q", first[st.Ino])
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&s, " target=%q", target)
		case unix.S_IFREG:
			sum, err := hash(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&s, " sha256=%x", sum)
		}
		attrs, err := xattrs(path)
		if err != nil {
			return &fs.PathError{Op: "xattrs", Path: path, Err: err}
		}
		for _, name := range slices.Sorted(maps.Keys(attrs)) {
			fmt.Fprintf(&s, " %s=%x", name, attrs[name])
		}
		files[name] = s.String()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func hash(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return h.Sum(nil), err
}

func xattrs(path string) (map[string]string, error) {
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, list)
	if err != nil {
		return nil, err
	}
	attrs := map[string]string{}
	for name := range strings.SplitSeq(strings.Trim(string(list[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		attrs[name] = string(value[:n])
	}
	return attrs, nil
}

// expectSameTree compares two directories file by file and returns how many
// entries there are.
func expectSameTree(t *testing.T, got, want string) int {
	t.Helper()
	g, w := describe(t, got), describe(t, want)
	for name, desc := range w {
		if g[name] != desc {
			t.Errorf("%q is\n%s, the kernel's own driver says\n%s", name, g[name], desc)
		}
		delete(g, name)
	}
	for name := range g {
		t.Errorf("%q is not there with the kernel's own driver", name)
	}
	return len(w)
}

// populate fills a mounted filesystem with every kind of file.
func populate(t testing.TB, dir string) {
	t.Helper()
	do := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, data []byte) { t.Helper(); do(name, os.WriteFile(at(name), data, 0o644)) }
	for i := range 300 {
		sub := fmt.Sprintf("dir%d/sub%d", i%7, i%3)
		do(sub, os.MkdirAll(at(sub), 0o755))
		write(fmt.Sprintf("%s/file%d", sub, i), bytes.Repeat([]byte{byte(i)}, i*i))
	}
	names := []string{"with space", "ünïcode-日本語", "new\nline", "quote\"'", "\x80\xff not UTF-8", strings.Repeat("n", 255), "-dash", "...", "tab\t"}
	for _, name := range names {
		write(name, []byte(name))
	}
	do("symlink", os.Symlink("dir0/sub0/file0", at("short link")))
	do("symlink", os.Symlink("/"+strings.Repeat("long/", 150)+"end", at("long link")))
	do("symlink", os.Symlink("nowhere", at("dangling")))
	write("hard1", []byte("three names"))
	do("link", os.Link(at("hard1"), at("hard2")))
	do("link", os.Link(at("hard1"), at("dir1/hard3")))
	do("mknod", unix.Mknod(at("char"), unix.S_IFCHR|0o620, int(unix.Mkdev(5, 1))))
	do("mknod", unix.Mknod(at("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
	do("mknod", unix.Mknod(at("fifo"), unix.S_IFIFO|0o600, 0))
	do("mknod", unix.Mknod(at("socket"), unix.S_IFSOCK|0o755, 0))
	for i, mode := range []uint32{0, 0o400, 0o4755, 0o2755, 0o1777, 0o7777, 0o111} {
		name := fmt.Sprintf("mode%d", i)
		write(name, []byte("x"))
		do("chown", os.Chown(at(name), 1000+i, 2000000000+i))
		do("chmod", unix.Chmod(at(name), mode))
	}
	populateContent(t, dir)
	populateXattrs(t, dir)
	for name, ts := range map[string]time.Time{
		"hard1": time.Unix(-1, 999999999), "short link": time.Unix(5000000000, 1), "mode1": time.Unix(0, 0), "dir3": time.Date(1901, 12, 14, 0, 0, 0, 5, time.UTC),
	} {
		spec := []unix.Timespec{{Sec: ts.Unix(), Nsec: int64(ts.Nanosecond())}, {Sec: ts.Unix() + 1, Nsec: int64(ts.Nanosecond())}}
		do("utimens", unix.UtimesNanoAt(unix.AT_FDCWD, at(name), spec, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// populateContent makes files whose content is stored in different ways.
func populateContent(t testing.TB, dir string) {
	t.Helper()
	for name, write := range map[string]func(f *os.File) error{
		"empty":  func(*os.File) error { return nil },
		"tiny":   func(f *os.File) error { _, err := f.WriteString("inline"); return err },
		"sparse": func(f *os.File) error { _, err := f.WriteAt([]byte("in the middle"), 20<<20); return err },
		"holes": func(f *os.File) error {
			for i := range int64(200) {
				if _, err := f.WriteAt([]byte("block"), i*16384); err != nil {
					return err
				}
			}
			return f.Truncate(10 << 20)
		},
		"allocated": func(f *os.File) error {
			if err := unix.Fallocate(int(f.Fd()), 0, 0, 1<<20); err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // ext3
				return err
			}
			_, err := f.WriteAt([]byte("written"), 500000)
			return err
		},
		"large": func(f *os.File) error {
			for i := range 16 {
				if _, err := f.Write(bytes.Repeat([]byte(fmt.Sprintf("%07d\n", i)), 131072)); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		f, err := os.Create(filepath.Join(dir, "content "+name))
		if err == nil {
			err = errors.Join(write(f), f.Close())
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

func populateXattrs(t testing.TB, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, a := range []struct{ file, name, value string }{
		{"tab\t", "user.comment", "a value"}, {"tab\t", "user.empty", ""}, {"tab\t", "user.long", strings.Repeat("v", 500)},
		{"tab\t", "trusted.overlay", "y"}, {"mode1", "security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
		{"dir1", "user.of.a.directory", "x"}, {"char", "trusted.device", "x"},
	} {
		if err := unix.Lsetxattr(at(a.file), a.name, []byte(a.value), 0); err != nil {
			t.Fatalf("%s: %s: %v", a.file, a.name, err)
		}
	}
	imagetest.Tool(t, "setfacl")
	imagetest.Run(t, "setfacl", "-m", "u:1234:rw,g:4321:r,m::rw", at("hard1"))
	imagetest.Run(t, "setfacl", "-d", "-m", "u:1234:rwx", at("dir2"))
}

// populated makes a filesystem, fills it with a kernel mount, and returns the
// image.
func populated(t testing.TB, sizeMiB int64, fill func(t testing.TB, dir string), mkfs ...string) string {
	t.Helper()
	imagetest.Root(t)
	path := imagetest.New(t, "fs.img", sizeMiB*imagetest.MiB)
	imagetest.Mkfs(mkfs[0], mkfs[1:]...)(t, path)
	dir := filepath.Join(t.TempDir(), "fill")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, "mount", "-o", "loop,acl,user_xattr", path, dir)
	defer imagetest.Run(t, "umount", dir)
	fill(t, dir)
	return path
}

// TestSameAsKernel compares everything in a partition with the kernel's own
// mount of it.
func TestSameAsKernel(t *testing.T) {
	needFUSE(t)
	for _, mkfs := range [][]string{
		{"mkfs.ext4", "-q", "-F", "-O", "inline_data"},
		{"mkfs.ext4", "-q", "-F", "-b", "1024", "-I", "256"},
		{"mkfs.ext3", "-q", "-F"},
	} {
		t.Run(strings.Join(mkfs, " "), func(t *testing.T) {
			content := populated(t, 100, populate, mkfs...)
			disk := imagetest.Disk(t, "gpt", imagetest.Part{SizeMiB: 100, Type: "L", Name: "data",
				Make: func(t testing.TB, path string) { imagetest.CopyInto(t, path, 0, content) }})
			src := imagetest.NewSource(t)
			src.Add(t, "web", "monday", disk)
			dir := mountSource(t, src, snapfs.Options{})
			kernel := imagetest.Mount(t, content, "loop,ro,noatime")
			part := filepath.Join(dir, "web/latest/p1-"+strings.TrimPrefix(mkfs[0], "mkfs.")+"-data")
			n := expectSameTree(t, part, kernel)
			t.Logf("%d entries are the same", n)
			again := expectSameTree(t, part, kernel) // from what the kernel keeps
			if again != n {
				t.Errorf("%d entries at first, %d then", n, again)
			}
			for _, script := range []string{
				`find . -printf '%p %y %m %U %G %n %s %b %T@ %A@ %C@ %l\n' | LC_ALL=C sort`,
				`tar --create --sort=name --numeric-owner --acls --xattrs --xattrs-include=user.long --xattrs-include=security.capability --format=pax --pax-option=exthdr.name=%d/%f,delete=atime,delete=ctime --file - .`,
				`getfacl --recursive --numeric . 2>/dev/null | LC_ALL=C sort`,
				`LC_ALL=C ls -lAR --time-style=full-iso`,
			} {
				got, want := inDir(t, part, script), inDir(t, kernel, script)
				if got != want {
					t.Errorf("%s differs: %d and %d bytes", script, len(got), len(want))
				}
				if len(want) < 1000 {
					t.Errorf("%s printed only %q", script, want)
				}
			}
		})
	}
}

// inDir runs a shell script in a directory.
func inDir(t *testing.T, dir, script string) string {
	t.Helper()
	return imagetest.Run(t, "sh", "-ec", `cd "$0" && eval "$1"`, dir, script)
}

// TestRawIsTheDisk compares disk.raw with the image, and mounts it.
func TestRawIsTheDisk(t *testing.T) {
	content := populated(t, 64, func(t testing.TB, dir string) {
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
	}, "mkfs.ext4", "-q", "-F")
	src := imagetest.NewSource(t)
	src.Add(t, "web", "monday", content)
	dir := mountSource(t, src, snapfs.Options{})
	raw := filepath.Join(dir, "web/monday/disk.raw")
	imagetest.Run(t, "cmp", raw, content)
	copied := filepath.Join(t.TempDir(), "copy")
	imagetest.Run(t, "cp", raw, copied)
	imagetest.Run(t, "cmp", copied, content)
	var st, orig syscall.Stat_t
	if err := syscall.Stat(copied, &st); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Stat(content, &orig); err != nil {
		t.Fatal(err)
	}
	if st.Blocks > orig.Blocks*3/2+64 {
		t.Errorf("a copy takes %d blocks, the image %d: holes were filled", st.Blocks, orig.Blocks)
	}
	mnt := imagetest.Mount(t, raw, "loop,ro")
	if b, err := os.ReadFile(filepath.Join(mnt, "file")); err != nil || string(b) != "content" {
		t.Errorf("a mount of disk.raw has %q, %v", b, err)
	}
}
