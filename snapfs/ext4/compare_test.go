package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs/ext4"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// comparison compares a filesystem, file by file, with what the kernel shows of
// the same image.
type comparison struct {
	t    testing.TB
	fsys *ext4.FS
	dir  string // where the kernel has mounted it
	rng  *rand.Rand

	// adjust makes equal what need not be, such as times that the kernel's
	// recovery sets: it may change got.
	adjust func(path string, got *tree.Attr, want tree.Attr)

	// without are names in the root directory that dir does not have.
	without []string

	entries  int
	bytes    int64
	failures int
}

// takeTimes takes over times of a file from want.
func takeTimes(got *tree.Attr, want tree.Attr) {
	got.Atime, got.Mtime, got.Ctime, got.Btime = want.Atime, want.Mtime, want.Ctime, want.Btime
}

// compare compares everything.
func compare(t testing.TB, fsys *ext4.FS, dir string) *comparison {
	t.Helper()
	c := &comparison{t: t, fsys: fsys, dir: dir, rng: rand.New(rand.NewPCG(1, 2))}
	c.run()
	return c
}

func (c *comparison) run() {
	c.t.Helper()
	c.tree("", c.fsys.Root())
	c.t.Logf("%d entries and %d bytes of content equal", c.entries, c.bytes)
}

func (c *comparison) errorf(path, format string, args ...any) {
	c.t.Helper()
	c.t.Errorf("/%s: %s", path, fmt.Sprintf(format, args...))
	if c.failures++; c.failures > 50 {
		c.t.Fatal("too many differences")
	}
}

// tree compares the file at path and everything below it.
func (c *comparison) tree(path string, ino tree.Ino) {
	c.entries++
	attr, err := c.fsys.Stat(ino)
	if err != nil {
		c.errorf(path, "Stat: %v", err)
		return
	}
	c.attributes(path, attr)
	c.xattrs(path, ino)
	switch attr.Type {
	case tree.Regular:
		c.content(path, ino, attr.Size)
	case tree.Symlink:
		want, err := os.Readlink(filepath.Join(c.dir, path))
		got, err2 := c.fsys.Readlink(ino)
		if err != nil || err2 != nil || got != want {
			c.errorf(path, "Readlink: %q, %v; kernel %q, %v", got, err2, want, err)
		}
	case tree.Directory:
		c.directory(path, ino)
	}
}

func (c *comparison) directory(path string, ino tree.Ino) {
	entries, err := c.fsys.ReadDir(ino)
	if err != nil {
		c.errorf(path, "ReadDir: %v", err)
	}
	if path == "" {
		entries = slices.DeleteFunc(entries, func(e tree.DirEntry) bool { return slices.Contains(c.without, e.Name) })
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name
	}
	d, err := os.Open(filepath.Join(c.dir, path))
	if err != nil {
		c.t.Fatal(err)
	}
	want, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		c.t.Fatal(err)
	}
	sort.Strings(names)
	sort.Strings(want)
	if strings.Join(names, "\x00") != strings.Join(want, "\x00") {
		c.errorf(path, "ReadDir: %d names %.200q; kernel %d names %.200q", len(names), names, len(want), want)
	}
	for _, e := range entries {
		if got, err := c.fsys.Lookup(ino, e.Name); err != nil || got != e.Ino {
			c.errorf(path, "Lookup %q: %d, %v; ReadDir %d", e.Name, got, err, e.Ino)
		}
		if a, err := c.fsys.Stat(e.Ino); err == nil && e.Type != tree.Unknown && e.Type != a.Type {
			c.errorf(path, "entry %q of type %d, inode of type %d", e.Name, e.Type, a.Type)
		}
		c.tree(filepath.Join(path, e.Name), e.Ino)
	}
}

var unixTypes = map[uint32]tree.Type{
	unix.S_IFREG: tree.Regular, unix.S_IFDIR: tree.Directory, unix.S_IFLNK: tree.Symlink,
	unix.S_IFCHR: tree.CharDevice, unix.S_IFBLK: tree.BlockDevice, unix.S_IFIFO: tree.FIFO, unix.S_IFSOCK: tree.Socket,
}

func (c *comparison) attributes(path string, got tree.Attr) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, filepath.Join(c.dir, path), unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st)
	if err != nil {
		c.errorf(path, "statx: %v", err)
		return
	}
	stamp := func(t unix.StatxTimestamp) time.Time { return time.Unix(t.Sec, int64(t.Nsec)) }
	want := tree.Attr{
		Ino: tree.Ino(st.Ino), Type: unixTypes[uint32(st.Mode)&unix.S_IFMT], Mode: uint32(st.Mode) & 0o7777,
		UID: st.Uid, GID: st.Gid, Nlink: st.Nlink, Size: int64(st.Size), Blocks: int64(st.Blocks),
		Rdev:  unix.Mkdev(st.Rdev_major, st.Rdev_minor),
		Atime: stamp(st.Atime), Mtime: stamp(st.Mtime), Ctime: stamp(st.Ctime),
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		want.Btime = stamp(st.Btime)
	}
	if c.adjust != nil {
		c.adjust(path, &got, want)
	}
	if got != want {
		c.errorf(path, "Stat:\n\t%+v\nkernel:\n\t%+v", got, want)
	}
}

func (c *comparison) xattrs(path string, ino tree.Ino) {
	full := filepath.Join(c.dir, path)
	got, err := c.fsys.Xattrs(ino)
	if err != nil {
		c.errorf(path, "Xattrs: %v", err)
		return
	}
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(full, list)
	if err != nil {
		c.errorf(path, "listxattr: %v", err)
		return
	}
	names := strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00")
	if n == 0 {
		names = nil
	}
	if len(names) != len(got) {
		c.errorf(path, "Xattrs: %d; kernel %d: %q", len(got), len(names), names)
	}
	value := make([]byte, 64<<10)
	for _, name := range names {
		n, err := unix.Lgetxattr(full, name, value)
		if err != nil {
			c.errorf(path, "getxattr %s: %v", name, err)
			continue
		}
		if v, ok := got[name]; !ok || !bytes.Equal(v, value[:n]) {
			c.errorf(path, "Xattrs: %s: %x, %v; kernel %x", name, v, ok, value[:n])
		}
	}
}

// content compares a file from its start to its end, and in places here and
// there. Of a file with holes only what is near its data is read.
func (c *comparison) content(path string, ino tree.Ino, size int64) {
	r, err := c.fsys.Open(ino)
	if err != nil {
		c.errorf(path, "Open: %v", err)
		return
	}
	f, err := os.Open(filepath.Join(c.dir, path))
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	fd := int(f.Fd())
	const chunk = 256 << 10
	for off := int64(0); off < size; {
		data, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			data = size
		} else if err != nil {
			c.t.Fatal(err)
		}
		// The first and the last of a hole.
		for _, at := range []int64{off, data - chunk} {
			if at >= off && at < data {
				c.piece(path, r, f, at, min(chunk, data-at))
			}
		}
		hole := size
		if data < size {
			if hole, err = unix.Seek(fd, data, unix.SEEK_HOLE); err != nil {
				c.t.Fatal(err)
			}
		}
		for at := data; at < hole; at += chunk {
			c.piece(path, r, f, at, min(chunk, hole-at))
		}
		off = hole
	}
	for range 4 {
		if size > 0 {
			at := c.rng.Int64N(size)
			c.piece(path, r, f, at, min(1+c.rng.Int64N(20_000), size-at))
		}
	}
	if n, err := r.ReadAt(make([]byte, 10), size); n != 0 || err != io.EOF {
		c.errorf(path, "ReadAt at the end: %d, %v", n, err)
	}
}

func (c *comparison) piece(path string, r, kernel io.ReaderAt, off, n int64) {
	got, want := bytes.Repeat([]byte{0xee}, int(n)), make([]byte, n)
	if m, err := r.ReadAt(got, off); m < len(got) {
		c.errorf(path, "ReadAt %d+%d: %d, %v", off, n, m, err)
		return
	}
	if m, err := kernel.ReadAt(want, off); m < len(want) {
		c.errorf(path, "kernel's ReadAt %d+%d: %d, %v", off, n, m, err)
		return
	}
	if !bytes.Equal(got, want) {
		c.errorf(path, "content differs within %d+%d", off, n)
	}
	c.bytes += n
}
