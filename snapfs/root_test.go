package snapfs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
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

// newRoot makes a tree that asks its source anew at every call.
func newRoot(t testing.TB, src snapfs.Source) *snapfs.Root {
	t.Helper()
	r := snapfs.New(src, snapfs.Options{ListingAge: time.Nanosecond})
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// list returns the names in a directory, with "/" after directories and "@"
// after links.
func list(t testing.TB, r *snapfs.Root, path string) []string {
	t.Helper()
	ino, err := r.Walk(context.Background(), snapfs.RootIno, path, true)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := r.ReadDir(context.Background(), ino)
	if err != nil {
		t.Fatalf("list %s: %v", path, err)
	}
	names := []string{}
	for _, e := range entries {
		if got, err := r.Lookup(context.Background(), ino, e.Name); err != nil || got != e.Ino {
			t.Errorf("%s/%s is %d in the list, looked up it is %d, %v", path, e.Name, e.Ino, got, err)
		}
		switch e.Type {
		case tree.Directory:
			e.Name += "/"
		case tree.Symlink:
			e.Name += "@"
		}
		names = append(names, e.Name)
	}
	return names
}

func expectList(t testing.TB, r *snapfs.Root, path string, want ...string) {
	t.Helper()
	if got := list(t, r, path); !slices.Equal(got, want) {
		t.Errorf("%s holds %q, want %q", path, got, want)
	}
}

// read returns the content of a file.
func read(r *snapfs.Root, path string) (string, error) {
	ctx := context.Background()
	ino, err := r.Walk(ctx, snapfs.RootIno, path, true)
	if err != nil {
		return "", err
	}
	attr, err := r.Stat(ctx, ino)
	if err != nil {
		return "", err
	}
	f, err := r.Open(ctx, ino)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if f.Size() != attr.Size {
		return "", fmt.Errorf("%s: the open file has %d bytes, stat says %d", path, f.Size(), attr.Size)
	}
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<40))
	return string(b), err
}

func expectContent(t testing.TB, r *snapfs.Root, path, want string) {
	t.Helper()
	if got, err := read(r, path); err != nil || got != want {
		t.Errorf("%s holds %q, %v, want %q", path, got, err, want)
	}
}

func expectErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// extImage makes the image of a bare ext4 filesystem.
func extImage(t testing.TB, files map[string]string) string {
	t.Helper()
	path := imagetest.New(t, "ext4.img", 4*imagetest.MiB)
	imagetest.Ext4("data", imagetest.Files(t, files), "-O", "^has_journal")(t, path)
	return path
}

func TestTreeOfPartitions(t *testing.T) {
	src := imagetest.NewSource(t)
	disk := imagetest.Disk(t, "gpt",
		imagetest.Part{SizeMiB: 34, Type: "U", Name: "EFI system partition", Make: imagetest.Mkfs("mkfs.vfat", "-F", "32", "-n", "EFI")},
		imagetest.Part{SizeMiB: 8, Type: "L", Make: imagetest.Ext4("root / fs", imagetest.Files(t, map[string]string{"etc/hostname": "web\n"}))},
		imagetest.Part{SizeMiB: 1, Type: "S", Make: imagetest.Mkfs("mkswap", "-q", "-L", "swap")},
		imagetest.Part{SizeMiB: 1, Type: "E3C9E316-0B5C-4DB8-817D-F92DF00215AE", Name: "Microsoft reserved partition"},
		imagetest.Part{SizeMiB: 1, Type: "L", Name: "spare"},
	)
	src.Add(t, "web", "monday", disk)
	src.Add(t, "web", "tuesday", disk)
	src.AddLUN("empty")
	r := newRoot(t, src)

	expectList(t, r, "/", "empty/", "web/")
	expectList(t, r, "/empty")
	expectList(t, r, "/web", "monday/", "tuesday/", "latest@")
	if src.Opens() != 0 {
		t.Errorf("%d images were opened before anyone looked into a snapshot", src.Opens())
	}
	expectList(t, r, "/web/latest", "info.json", "disk.raw", "p1-vfat-EFI/", "p2-ext4-root_fs/", "p3-swap-swap/",
		"p4-msr-Microsoft_reserved_partition/", "p5-empty-spare/")
	expectList(t, r, "/web/monday/p2-ext4-root_fs", "lost+found/", "etc/")
	expectContent(t, r, "/web/monday/p2-ext4-root_fs/etc/hostname", "web\n")
	for dir, want := range map[string]string{
		"p1-vfat-EFI":                         "FAT filesystem \"EFI\": recognised, but its files cannot be read yet; restore the whole LUN, or attach a clone of the snapshot.\n",
		"p3-swap-swap":                        "Linux swap space \"swap\": holds no files.\n",
		"p4-msr-Microsoft_reserved_partition": "Microsoft reserved partition: holds no files.\n",
		"p5-empty-spare":                      "Partition 5: where partition tables and filesystems have their signatures there are only zeros; the partition table says that it is for: Linux filesystem.\n",
	} {
		expectList(t, r, "/web/monday/"+dir, "README")
		expectContent(t, r, "/web/monday/"+dir+"/README", want)
	}
}

func TestInfo(t *testing.T) {
	src := imagetest.NewSource(t)
	disk := imagetest.Disk(t, "gpt",
		imagetest.Part{SizeMiB: 8, Type: "L", Name: "system", Make: imagetest.Ext4("root", imagetest.Files(t, map[string]string{"a": "b"}))},
		imagetest.Part{SizeMiB: 1, Type: "L", Make: func(t testing.TB, path string) { imagetest.WriteAt(t, path, 0, []byte("LUKS\xba\xbe\x00\x02")) }},
	)
	data, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	imagetest.WriteAt(t, disk, 512, make([]byte, 512)) // the primary GPT
	src.Add(t, "web", "monday", disk)
	r := newRoot(t, src)
	text, err := read(r, "/web/monday/info.json")
	if err != nil {
		t.Fatal(err)
	}
	var got snapfs.Contents
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	if got.LUN != "web" || got.Snapshot != "monday" || !got.Created.Equal(imagetest.Created) || got.SizeBytes != int64(len(data)) ||
		got.Consistency != "crash" || got.Details["comment"] != "of web" || got.Table == nil || got.Table.Scheme != "gpt" || got.Table.SectorBytes != 512 {
		t.Errorf("info.json says %s", text)
	}
	if len(got.Notes) != 1 || !strings.Contains(got.Notes[0], "the backup was used") {
		t.Errorf("notes %q, want one about the damaged GPT", got.Notes)
	}
	if len(got.Areas) != 2 {
		t.Fatalf("%d areas, want 2", len(got.Areas))
	}
	root, luks := got.Areas[0], got.Areas[1]
	if root.Directory != "p1-ext4-root" || !root.Readable || root.Content != "ext4" || root.Label != "root" || len(root.UUID) != 36 ||
		root.StartBytes != imagetest.MiB || root.SizeBytes != 8*imagetest.MiB || root.PartitionName != "system" || root.UsedBytes == 0 {
		t.Errorf("first area %+v", root)
	}
	if luks.Directory != "p2-luks" || luks.Readable || luks.Reason != "LUKS2 volume: encrypted; restore the whole LUN, or unlock it on a clone of the snapshot." {
		t.Errorf("second area %+v", luks)
	}
	c, err := r.Contents(context.Background(), "web", "monday")
	if err != nil || c.Areas[0].UUID != root.UUID {
		t.Errorf("Contents: %+v, %v", c, err)
	}
	if _, err := r.Contents(context.Background(), "web", "disk.raw"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Contents of no snapshot: %v", err)
	}

	ctx := context.Background()
	before, err := r.Walk(ctx, snapfs.RootIno, "web/monday/info.json", false)
	if err != nil {
		t.Fatal(err)
	}
	src.Update("web", "monday", func(s *snapfs.Snapshot) { s.Info = map[string]any{"locked": true} })
	expectList(t, r, "/web", "monday/", "latest@")
	after, err := r.Walk(ctx, snapfs.RootIno, "web/monday/info.json", false)
	if err != nil || after == before {
		t.Errorf("info.json is %d, %v after a change of the snapshot, as before", after, err)
	}
	if text, err := read(r, "/web/monday/info.json"); err != nil || !strings.Contains(text, `"locked": true`) {
		t.Errorf("info.json says %s, %v", text, err)
	}
}

func TestRawDisk(t *testing.T) {
	src := imagetest.NewSource(t)
	path := imagetest.New(t, "disk", 8*imagetest.MiB)
	imagetest.WriteAt(t, path, 3*imagetest.MiB, bytes.Repeat([]byte("data"), 64<<10))
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	src.Add(t, "web", "monday", path)
	r := newRoot(t, src)
	expectContent(t, r, "/web/monday/disk.raw", string(want))
	ctx := context.Background()
	ino, err := r.Walk(ctx, snapfs.RootIno, "web/monday/disk.raw", false)
	if err != nil {
		t.Fatal(err)
	}
	attr, err := r.Stat(ctx, ino)
	if err != nil || attr.Blocks*512 != 256<<10 || !attr.Mtime.Equal(imagetest.Created) {
		t.Errorf("attributes %+v, %v", attr, err)
	}
	f, err := r.Open(ctx, ino)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var extents []string
	if err := f.Extents(ctx, imagetest.MiB, 7*imagetest.MiB, func(n int64, data bool) bool {
		extents = append(extents, fmt.Sprint(n/1024, data))
		return true
	}); err != nil || !slices.Equal(extents, []string{"2048 false", "256 true", "4864 false"}) {
		t.Errorf("extents %q, %v", extents, err)
	}
	for _, c := range []struct {
		off  int64
		n    int
		want int
		err  error
	}{
		{8*imagetest.MiB - 10, 10, 10, io.EOF}, {8*imagetest.MiB - 10, 20, 10, io.EOF}, {8 * imagetest.MiB, 1, 0, io.EOF},
		{1 << 60, 1, 0, io.EOF}, {-1, 1, 0, syscall.EINVAL}, {0, 10, 10, nil},
	} {
		if n, err := f.ReadAt(make([]byte, c.n), c.off); n != c.want || !errors.Is(err, c.err) {
			t.Errorf("ReadAt(%d bytes, %d) = %d, %v, want %d, %v", c.n, c.off, n, err, c.want, c.err)
		}
	}
}

// TestNumbers: numbers are unique over snapshots of one image, and stay the
// same when all has been forgotten.
func TestNumbers(t *testing.T) {
	src := imagetest.NewSource(t)
	path := extImage(t, map[string]string{"a/b/c": "d", "e": "f"})
	src.Add(t, "web", "monday", path)
	src.Add(t, "web", "tuesday", path)
	src.Add(t, "db", "monday", path)
	r := newRoot(t, src)
	collect := func() map[string]tree.Ino {
		all := map[string]tree.Ino{}
		seen := map[tree.Ino]string{}
		var visit func(path string, ino tree.Ino)
		visit = func(path string, ino tree.Ino) {
			attr, err := r.Stat(context.Background(), ino)
			if err != nil || attr.Ino != ino {
				t.Fatalf("Stat(%d) of %s: %+v, %v", ino, path, attr, err)
			}
			if other, ok := seen[ino]; ok {
				t.Errorf("%s and %s both have the number %d", path, other, ino)
			}
			seen[ino], all[path] = path, ino
			if attr.Type != tree.Directory {
				return
			}
			entries, err := r.ReadDir(context.Background(), ino)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				visit(path+"/"+e.Name, e.Ino)
			}
		}
		visit("", snapfs.RootIno)
		return all
	}
	first := collect()
	if len(first) != 1+2+2+3*(1+2+6) {
		t.Errorf("%d files: %v", len(first), first)
	}
	r.ForgetVolumes()
	for path, ino := range collect() {
		if first[path] != ino {
			t.Errorf("%s had the number %d and has %d", path, first[path], ino)
		}
	}
}

func TestSnapshotsComeAndGo(t *testing.T) {
	ctx := context.Background()
	src := imagetest.NewSource(t)
	one, two := extImage(t, map[string]string{"file": "one"}), extImage(t, map[string]string{"file": "two"})
	src.Add(t, "web", "a", one)
	r := newRoot(t, src)
	expectContent(t, r, "/web/latest/fs/file", "one")
	lun, err := r.Walk(ctx, snapfs.RootIno, "web", false)
	if err != nil {
		t.Fatal(err)
	}
	latest, err := r.Lookup(ctx, lun, "latest")
	if err != nil {
		t.Fatal(err)
	}
	file, err := r.Walk(ctx, snapfs.RootIno, "web/a/fs/file", false)
	if err != nil {
		t.Fatal(err)
	}

	src.Add(t, "web", "b", two)
	expectList(t, r, "/web", "a/", "b/", "latest@")
	expectContent(t, r, "/web/latest/fs/file", "two")
	if _, err := r.Readlink(ctx, latest); !errors.Is(err, snapfs.ErrGone) {
		t.Errorf("the link to the former newest snapshot: %v, want %v", err, snapfs.ErrGone)
	}
	src.Update("web", "a", func(s *snapfs.Snapshot) { s.Name = "renamed" })
	expectList(t, r, "/web", "renamed/", "b/", "latest@")
	if got, err := r.Walk(ctx, snapfs.RootIno, "web/renamed/fs/file", false); err != nil || got != file {
		t.Errorf("after a rename the file is %d, %v, want %d", got, err, file)
	}
	expectContent(t, r, "/web/renamed/fs/file", "one")

	open, err := r.Open(ctx, file)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	src.Delete("web", "renamed")
	src.Add(t, "web", "renamed", two) // another one of the same name
	if _, err := open.ReadAt(make([]byte, 1), 0); !errors.Is(err, snapfs.ErrGone) || snapfs.Errno(err) != syscall.ESTALE {
		t.Errorf("read of a file in a deleted snapshot: %v, want %v", err, snapfs.ErrGone)
	}
	expectContent(t, r, "/web/renamed/fs/file", "two")
	if _, err := r.Stat(ctx, file); !errors.Is(err, snapfs.ErrGone) {
		t.Errorf("a file of the deleted snapshot: %v, want %v", err, snapfs.ErrGone)
	}
	if _, err := r.Walk(ctx, snapfs.RootIno, "web/nothing", false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a snapshot that never was: %v", err)
	}

	src.Add(t, "web", "latest", one) // takes the place of the link
	expectList(t, r, "/web", "b/", "renamed/", "latest/")
	expectContent(t, r, "/web/latest/fs/file", "one")

	src.DeleteLUN("web")
	expectList(t, r, "/")
	if _, err := r.ReadDir(ctx, lun); !errors.Is(err, snapfs.ErrGone) {
		t.Errorf("the directory of a deleted LUN: %v, want %v", err, snapfs.ErrGone)
	}
	if made, volumes := r.Files(); made != 1 || volumes != 0 {
		t.Errorf("%d files and %d volumes are remembered of what is gone", made, volumes)
	}
}
