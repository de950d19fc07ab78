package snapfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/imagetest"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// locateDisk is a disk with an ext4 filesystem and something else, and a source
// that shows it as web@a.
func locateDisk(t *testing.T) (path string, src *imagetest.Source) {
	files := map[string]string{"top": strings.Repeat("top ", 2000), "a/b/deep": strings.Repeat("deep", 2000)}
	for i := range 40 {
		files[fmt.Sprintf("many/%02d", i)] = strings.Repeat(fmt.Sprintf("many%02d", i), 1000)
	}
	path = imagetest.Disk(t, "gpt",
		imagetest.Part{SizeMiB: 32, Type: "L", Make: imagetest.Ext4("data", imagetest.Files(t, files), "-b", "4096")},
		imagetest.Part{SizeMiB: 8, Type: "L", Make: imagetest.Mkfs("mkswap")})
	src = imagetest.NewSource(t)
	src.Add(t, "web", "a", path)
	return path, src
}

// place finds text in the file at path, in whole blocks.
func place(t *testing.T, path, text string) tree.Range {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(data, []byte(text))
	if i < 0 {
		t.Fatalf("%q is not in the image", text)
	}
	return tree.Range{OffsetBytes: int64(i) &^ 4095, LengthBytes: 4096}
}

// words puts what was located in a line.
func words(l snapfs.Located) string {
	var s []string
	for _, f := range l.Files {
		text := f.Part + " " + f.Path
		if f.Directory {
			text += "/"
		}
		s = append(s, text)
	}
	if l.MoreFiles > 0 {
		s = append(s, fmt.Sprintf("%d more", l.MoreFiles))
	}
	s = append(s, l.Structures...)
	for _, f := range l.Free {
		s = append(s, "free "+f)
	}
	return strings.Join(append(s, l.Notes...), "; ")
}

func TestLocate(t *testing.T) {
	disk, src := locateDisk(t)
	r := newRoot(t, src)
	const mib = imagetest.MiB
	deep := place(t, disk, "deepdeep")
	for _, c := range []struct {
		what string
		at   tree.Range
		want string
	}{
		{"a file", deep, "content /p1-ext4-data/a/b/deep"},
		{"a directory", place(t, disk, "deep\x00\x00"), "content /p1-ext4-data/a/b/"},
		{"the last block of the filesystem", tree.Range{OffsetBytes: 33*mib - 4096, LengthBytes: 4096}, "free p1-ext4-data"},
		{"the superblock", tree.Range{OffsetBytes: mib, LengthBytes: 4096}, "superblock of p1-ext4-data"},
		{"the partition table", tree.Range{OffsetBytes: 0, LengthBytes: 4096}, "partition table"},
		{"what comes after it", tree.Range{OffsetBytes: mib / 2, LengthBytes: 4096}, "space outside of all partitions"},
		{"another partition", tree.Range{OffsetBytes: 35 * mib, LengthBytes: 4096}, "p2-swap: Linux swap space: holds no files."},
	} {
		got, err := r.Locate(context.Background(), "web", "a", []tree.Range{c.at})
		if err != nil {
			t.Fatal(err)
		}
		if words(got[0]) != c.want {
			t.Errorf("%s: %s, want %s", c.what, words(got[0]), c.want)
		}
	}
	all, err := r.Locate(context.Background(), "web", "a", []tree.Range{deep, {OffsetBytes: 0, LengthBytes: 42 * mib}})
	if err != nil {
		t.Fatal(err)
	}
	if words(all[0]) != "content /p1-ext4-data/a/b/deep" {
		t.Errorf("one of several ranges: %s", words(all[0]))
	}
	// 42 files, and the directories /, a, a/b, many, lost+found.
	if l := all[1]; len(l.Files) != snapfs.MaxLocated || l.MoreFiles != 47-snapfs.MaxLocated || len(l.Structures) < 6 {
		t.Errorf("all of the disk: %s", words(l))
	}
	if _, err := r.Locate(context.Background(), "web", "none", nil); err == nil {
		t.Error("a snapshot that does not exist")
	}
}

// TestLocateDamaged has the ranges not readable, as they are when a scrub has
// found them.
func TestLocateDamaged(t *testing.T) {
	disk, src := locateDisk(t)
	const mib = imagetest.MiB
	ask := func(bad tree.Range, ranges ...tree.Range) (string, error) {
		t.Helper()
		src.SetBad(bad)
		got, err := newRoot(t, src).Locate(context.Background(), "web", "a", append([]tree.Range{bad}, ranges...))
		if err != nil {
			return "", err
		}
		var lines []string
		for _, l := range got {
			lines = append(lines, words(l))
		}
		return strings.Join(lines, "\n"), nil
	}
	expect := func(what, got string, err error, want ...string) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: %q is not in\n%s", what, w, got)
			}
		}
	}
	file := place(t, disk, "deepdeep")
	got, err := ask(file)
	if expect("a file", got, err); got != "content /p1-ext4-data/a/b/deep" {
		t.Errorf("a file: %s", got)
	}
	dir := place(t, disk, "deep\x00\x00")
	got, err = ask(dir, file)
	expect("a directory and a file in it", got, err, "content /p1-ext4-data/a/b/\n", "content /p1-ext4-data; p1-ext4-data: names are missing")
	root := place(t, disk, "lost+found\x00")
	got, err = ask(root, file)
	expect("the root directory", got, err, "content /p1-ext4-data/\n", "content /p1-ext4-data; p1-ext4-data: names are missing")
	for _, off := range []int64{0, mib} { // the partition table, the superblock
		if _, err := ask(tree.Range{OffsetBytes: off, LengthBytes: 4096}); !errors.Is(err, syscall.EIO) {
			t.Errorf("with damage at %d: %v", off, err)
		}
	}
}

// TestLocateIsBounded ends a search when its time is over, with what it found.
func TestLocateIsBounded(t *testing.T) {
	disk, inner := locateDisk(t)
	_ = inner
	src := imagetest.NewSilent(t)
	src.Add(t, "web", "a", disk)
	r := snapfs.New(src, snapfs.Options{SourceTimeout: time.Hour})
	defer r.Close()
	at := []tree.Range{place(t, disk, "deepdeep")}
	expectList(t, r, "web/a", "info.json", "disk.raw", "p1-ext4-data/", "p2-swap/")
	src.SetSilent(true)
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	context.AfterFunc(ctx, func() { _ = r.Close() })
	go func() {
		<-src.Asked()
		cancel()
	}()
	got, err := r.Locate(ctx, "web", "a", at)
	if err != nil || !slices.ContainsFunc(got[0].Notes, func(n string) bool { return strings.HasPrefix(n, "Not searched further") }) {
		t.Errorf("%+v, %v", got, err)
	}
}
