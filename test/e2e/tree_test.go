package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/test/harness"
)

// entry is what a file of a mounted tree shows of itself. Inode numbers are
// left out: no two mounts share them.
type entry struct {
	mode       uint32
	uid, gid   uint32
	nlink      uint64
	rdev       uint64
	sizeBytes  int64
	mtime      syscall.Timespec
	target     string // of a symlink
	hash       string // of a regular file
	attributes string // extended attributes, name=value, sorted
}

// walk reads a tree as a mount shows it, by path from its root.
func walk(t *testing.T, root string) map[string]entry {
	t.Helper()
	tree := map[string]entry{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return fmt.Errorf("lstat %s: %w", path, err)
		}
		e := entry{
			mode: st.Mode, uid: st.Uid, gid: st.Gid, nlink: st.Nlink, rdev: st.Rdev,
			sizeBytes: st.Size, mtime: st.Mtim,
		}
		if e.attributes, err = attributes(path); err != nil {
			return err
		}
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			if e.target, err = os.Readlink(path); err != nil {
				return err
			}
		case d.Type().IsRegular():
			e.hash = harness.HashFile(t, path)
		}
		rel, err := filepath.Rel(root, path)
		tree[rel] = e
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// attributes lists a file's extended attributes and their values.
func attributes(path string) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return "", fmt.Errorf("listxattr %s: %w", path, err)
	}
	var list []string
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return "", fmt.Errorf("getxattr %s %s: %w", path, name, err)
		}
		list = append(list, fmt.Sprintf("%s=%x", name, value[:n]))
	}
	slices.Sort(list)
	return strings.Join(list, " "), nil
}

// compareTrees fails the test for every file in which two trees differ, up to
// a few.
func compareTrees(t *testing.T, want, got map[string]entry) {
	t.Helper()
	differ := 0
	report := func(format string, args ...any) {
		t.Helper()
		if differ++; differ <= 10 {
			t.Errorf(format, args...)
		}
	}
	for path, w := range want {
		if g, ok := got[path]; !ok {
			report("%s is missing", path)
		} else if g != w {
			report("%s is\n%+v, want\n%+v", path, g, w)
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			report("%s should not be there", path)
		}
	}
	if differ > 0 {
		t.Errorf("%d of %d files differ", differ, len(want))
	}
}
