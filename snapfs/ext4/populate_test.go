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

	"golang.org/x/sys/unix"
)

// population fills a mounted filesystem with one of everything.
type population struct {
	t   testing.TB
	dir string
	rng *rand.Rand

	manyNames int   // in the large directory
	farOffset int64 // of data in a sparse file
}

func (p *population) path(name string) string { return filepath.Join(p.dir, name) }

func (p *population) check(errs ...error) {
	p.t.Helper()
	if err := errors.Join(errs...); err != nil {
		p.t.Fatal(err)
	}
}

// random is n bytes that do not compress to nothing.
func (p *population) random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(p.rng.Uint32())
	}
	return b
}

func (p *population) write(name string, content []byte) {
	p.t.Helper()
	p.check(os.WriteFile(p.path(name), content, 0o644))
}

func (p *population) all() {
	p.files()
	p.links()
	p.special()
	p.times()
	p.attributes()
	p.sparse()
	p.fragmented()
	p.directories()
}

// files of sizes around the edges: inline, one block, direct and indirect.
func (p *population) files() {
	p.check(os.Mkdir(p.path("files"), 0o750))
	for _, n := range []int{0, 1, 59, 60, 61, 100, 150, 160, 161, 1023, 1024, 1025, 4095, 4096, 4097,
		12 * 1024, 12*1024 + 1, 12 * 4096, 12*4096 + 1, 300_000, 1_300_000} {
		p.write(fmt.Sprintf("files/%d", n), p.random(n))
	}
	p.write("files/setuid", nil)
	p.check(os.Chmod(p.path("files/setuid"), 0o4711|os.ModeSetuid|os.ModeSticky))
	p.check(os.Lchown(p.path("files/setuid"), 70_000, 4_000_000_000))
	p.write("files/none", []byte("x"))
	p.check(os.Chmod(p.path("files/none"), 0))
	p.write("files/shrunk", p.random(50_000))
	p.check(os.Truncate(p.path("files/shrunk"), 1234))
	p.write("files/"+strings.Repeat("n", 255), []byte("longest name"))
	p.write("files/\xff\xfe not UTF-8 \\ \n", []byte("odd name"))
}

func (p *population) links() {
	p.check(os.Mkdir(p.path("links"), 0o755))
	for _, n := range []int{1, 58, 59, 60, 61, 120, 155, 156, 157, 900, 1000} {
		p.check(os.Symlink(strings.Repeat("t", n), p.path(fmt.Sprintf("links/%d", n))))
	}
	_ = os.Symlink(strings.Repeat("u", 4000), p.path("links/4000")) // does not fit in a small block
	p.check(os.Symlink("../../../etc/passwd", p.path("links/up")))
	p.check(os.Symlink("with attribute", p.path("links/attribute")))
	p.check(unix.Lsetxattr(p.path("links/attribute"), "trusted.a", p.random(200), 0))
	for i := range 5 {
		p.check(os.Link(p.path("files/4097"), p.path(fmt.Sprintf("links/hard%d", i))))
	}
}

func (p *population) special() {
	p.check(os.Mkdir(p.path("special"), 0o1777))
	p.check(os.Chmod(p.path("special"), 0o777|os.ModeSticky))
	for _, d := range [][2]int{{1, 3}, {8, 17}, {255, 255}, {256, 0}, {4095, 1<<20 - 1}, {3, 256}} {
		dev := int(unix.Mkdev(uint32(d[0]), uint32(d[1])))
		p.check(unix.Mknod(p.path(fmt.Sprintf("special/c%d.%d", d[0], d[1])), unix.S_IFCHR|0o620, dev))
		p.check(unix.Mknod(p.path(fmt.Sprintf("special/b%d.%d", d[0], d[1])), unix.S_IFBLK|0o660, dev))
	}
	p.check(unix.Mkfifo(p.path("special/fifo"), 0o600))
	p.check(unix.Mknod(p.path("special/socket"), unix.S_IFSOCK|0o755, 0))
}

func (p *population) times() {
	p.check(os.Mkdir(p.path("times"), 0o755))
	for i, at := range []time.Time{
		time.Unix(0, 0), time.Unix(-1, 1), time.Unix(-1<<31, 5), time.Unix(1<<31-1, 999_999_999),
		time.Unix(1<<31, 123_456_789), time.Unix(1<<32+7, 1), time.Unix(2<<32-1, 2), time.Unix(3<<32+1<<31-1, 3),
	} {
		name := p.path(fmt.Sprintf("times/%d", i))
		p.check(os.WriteFile(name, nil, 0o600), os.Chtimes(name, at.Add(time.Nanosecond), at))
	}
}

// attributes in the inode, in a block, in both, and access control lists.
func (p *population) attributes() {
	p.check(os.Mkdir(p.path("attributes"), 0o755))
	set := func(name, attr string, value []byte) {
		p.t.Helper()
		if err := unix.Lsetxattr(p.path("attributes/"+name), attr, value, 0); err != nil && !errors.Is(err, unix.ENOSPC) {
			p.t.Fatalf("%s %s: %v", name, attr, err)
		}
	}
	for _, n := range []int{0, 1, 40, 80, 200, 700, 3000, 9000, 40_000} {
		name := fmt.Sprintf("value%d", n)
		p.write("attributes/"+name, []byte("content"))
		set(name, "user.value", p.random(n))
	}
	p.write("attributes/many", []byte("content"))
	for i := range 20 {
		set("many", fmt.Sprintf("user.n%d", i), p.random(i))
		set("many", fmt.Sprintf("trusted.n%d", i), p.random(2*i))
	}
	set("many", "security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	set("many", "security.other", []byte("label"))
	for _, d := range []string{"attributes/acl", "attributes/acl/inside"} {
		p.check(os.Mkdir(p.path(d), 0o755))
		command(p.t, "setfacl", "-m", "u:1234:rwx,g:4000000000:r-x,m::rx", p.path(d))
		command(p.t, "setfacl", "-d", "-m", "u:99:rw-,o::---", p.path(d))
	}
	p.write("attributes/acl/inherits", []byte("x"))
}

func (p *population) sparse() {
	p.check(os.Mkdir(p.path("sparse"), 0o755))
	f, err := os.Create(p.path("sparse/far"))
	p.check(err)
	for off := int64(0); off < p.farOffset; off = off*3 + 5000 {
		_, err := f.WriteAt(p.random(3000), off)
		p.check(err)
	}
	p.check(f.Truncate(p.farOffset+12_345), f.Close())

	for _, n := range []int{55, 70, 150, 10_000, 5_000_000} { // beyond what may be in the inode
		name := fmt.Sprintf("sparse/grown%d", n)
		p.write(name, p.random(50))
		p.check(os.Truncate(p.path(name), int64(n)))
	}

	f, err = os.Create(p.path("sparse/empty"))
	p.check(err, f.Truncate(3<<20+17), f.Close())

	// Preallocated: written in the middle, and beyond the end.
	f, err = os.Create(p.path("sparse/preallocated"))
	p.check(err)
	if err := unix.Fallocate(int(f.Fd()), 0, 0, 1<<20); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		p.check(err)
	}
	_, err = f.WriteAt(p.random(10_000), 300_000)
	p.check(err)
	_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 1<<20, 1<<20)
	_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 301_000, 5_000)
	p.check(f.Close())
}

// fragmented files: their trees have several levels.
func (p *population) fragmented() {
	const pieces = 700
	a, err := os.Create(p.path("files/fragmented"))
	p.check(err)
	for i := range pieces {
		_, err := a.WriteAt(p.random(900), int64(i)*9_000)
		p.check(err)
	}
	p.check(a.Close())
}

func (p *population) directories() {
	p.check(os.MkdirAll(p.path("deep/"+strings.Repeat("d/", 60)), 0o755))
	p.write("deep/"+strings.Repeat("d/", 60)+"file", []byte("bottom"))
	p.check(os.Mkdir(p.path("many"), 0o755))
	for i := range p.manyNames {
		name := p.path(fmt.Sprintf("many/entry number %d", i))
		if i%50 == 0 {
			p.check(os.Mkdir(name, 0o700))
		} else {
			p.check(unix.Mknod(name, unix.S_IFREG|0o644, 0))
		}
	}
	for i := 0; i < p.manyNames; i += 3 {
		p.check(os.Remove(p.path(fmt.Sprintf("many/entry number %d", i))))
	}
	p.check(os.Mkdir(p.path("small"), 0o755))
	for i := range 3 {
		p.write(fmt.Sprintf("small/%d", i), []byte("inline"))
	}
}
