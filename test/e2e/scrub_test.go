package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/test/harness"
)

// scrubbed is what `scrub -o json` says of findings.
type scrubbed struct {
	Snapshots []struct {
		Verdict string `json:"verdict"`
	} `json:"snapshots"`
	Findings []struct {
		OffsetBytes int64    `json:"offset_bytes"`
		File        string   `json:"file"`
		Snapshots   []string `json:"snapshots"`
		Affected    *struct {
			Snapshot string `json:"snapshot"`
			Files    []struct {
				Path string `json:"path"`
				Part string `json:"part"`
			} `json:"files"`
			Structures  []string `json:"structures"`
			FreeSpaceOf []string `json:"free_space_of"`
			Notes       []string `json:"notes"`
		} `json:"affected"`
	} `json:"findings"`
}

// ext4LUN makes a LUN web with an ext4 filesystem on the whole disk, whose free
// space was written to, and its snapshot web@monday, with checksums. It returns
// the image.
func ext4LUN(t *testing.T, d *harness.Daemon) string {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	files := map[string]int{"home/ann/photo": 30_000, "home/bob/list": 100}
	for i := range fillers {
		files[fmt.Sprintf("many/%02d", i)] = 100
	}
	for name, size := range files {
		path := filepath.Join(source, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.Repeat(name+"\n", size/len(name))), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	image := filepath.Join(dir, "image")
	if err := os.WriteFile(image, []byte(strings.Repeat("old content\n", 32*mib/12+1))[:32*mib], 0o600); err != nil {
		t.Fatal(err)
	}
	harness.Run(t, "mkfs.ext4", "-q", "-F", "-b", "4096", "-N", "256", "-E", "nodiscard", "-d", source, image)
	d.Rowan("lun", "create", "web", "--size", "32M")
	harness.Run(t, "nbdcopy", "--flush", image, d.URI("web"))
	d.Rowan("snapshot", "create", "web@monday")
	harness.Eventually(t, time.Minute, "the snapshot has checksums", func() bool {
		s := harness.Decode[scrubbed](t, d.Rowan("scrub", "-o", "json")).Snapshots
		return len(s) == 1 && s[0].Verdict == "intact"
	})
	return image
}

// fillers are files that have their inodes in several blocks.
const fillers = 40

// inodeOf asks debugfs for the place of the block with the inode of a file.
func inodeOf(t *testing.T, image, file string) int64 {
	t.Helper()
	_, at, _ := strings.Cut(harness.Run(t, "debugfs", "-R", "imap "+file, image), "located at block ")
	number, _, _ := strings.Cut(at, ",")
	return block(t, number)
}

// firstBlock asks debugfs for the place of a file's first block.
func firstBlock(t *testing.T, image, file string) int64 {
	t.Helper()
	words := strings.Fields(harness.Run(t, "debugfs", "-R", "blocks "+file, image))
	if len(words) == 0 {
		t.Fatalf("%s has no blocks", file)
	}
	return block(t, words[0])
}

func block(t *testing.T, number string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(strings.Trim(number, " ,\n"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n * 4096
}

// damageAt turns bytes of the only segment, where a LUN's offset is the file's.
func damageAt(t *testing.T, d *harness.Daemon, off int64) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(d.Pool, "segments", "*", "*.seg"))
	if err != nil || len(segments) != 1 {
		t.Fatalf("segments %v, %v", segments, err)
	}
	f, err := os.OpenFile(segments[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 16)
	if _, err := f.ReadAt(b, off+100); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] ^= 0xff
	}
	if _, err := f.WriteAt(b, off+100); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// TestScrubNamesFiles damages blocks of files, of directories, of the inode
// table and of free space, and sees them named.
func TestScrubNamesFiles(t *testing.T) {
	harness.Need(t, "mkfs.ext4", "debugfs", "nbdcopy")
	d := harness.Start(t)
	image := ext4LUN(t, d)
	places := map[string]int64{
		"file":      firstBlock(t, image, "/home/ann/photo"),
		"directory": firstBlock(t, image, "/home/bob"),
		"free":      block(t, strings.Fields(harness.Run(t, "debugfs", "-R", "ffb 1", image))[3]),
	}
	for _, off := range places {
		damageAt(t, d, off)
	}
	find := func() map[int64]string {
		t.Helper()
		r := d.TryRowan("scrub", "-o", "json")
		if r.Code != 1 {
			t.Fatalf("exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
		found := map[int64]string{}
		for _, f := range harness.Decode[scrubbed](t, r.Stdout).Findings {
			var words []string
			for _, file := range f.Affected.Files {
				words = append(words, file.Part+" "+file.Path)
			}
			words = append(words, f.Affected.Structures...)
			words = append(words, f.Affected.FreeSpaceOf...)
			found[f.OffsetBytes] = strings.Join(append(words, f.Affected.Notes...), "; ")
		}
		return found
	}
	found := find()
	for name, want := range map[string]string{"file": "content /fs/home/ann/photo", "directory": "directory /fs/home/bob", "free": "fs"} {
		if got := found[places[name]]; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	text := d.TryRowan("scrub", "--status").Stdout
	for _, want := range []string{
		"  web@monday:/fs/home/ann/photo\n", "  web@monday:/fs/home/bob (directory: names in it)\n",
		"  web@monday: free space of fs, no file is affected\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if text := d.TryRowan("scrub", "--status", "--files-within", "0").Stdout; strings.Contains(text, "/fs/") {
		t.Errorf("files though none were asked for:\n%s", text)
	}
	if text := d.TryRowan("scrub", "--status", "--files-within", "1ns").Stdout; !strings.Contains(text, "the time was over") {
		t.Errorf("no time:\n%s", text)
	}

	letter := ""
	for i := range fillers { // not in the block of the root directory
		name := fmt.Sprintf("/many/%02d", i)
		if inodeOf(t, image, name) != inodeOf(t, image, "/") && inodeOf(t, image, name) != inodeOf(t, image, "/many") {
			letter = name
		}
	}
	table := inodeOf(t, image, letter)
	damageAt(t, d, table)
	found = find()
	for _, want := range []string{"inode /fs" + letter, "inode table of fs", "other files may be affected"} {
		if !strings.Contains(found[table], want) {
			t.Errorf("the inode table: %q is not in %q", want, found[table])
		}
	}
	damageAt(t, d, 0)
	if got := find()[0]; !strings.Contains(got, "web@monday could not be searched for files") {
		t.Errorf("the superblock: %q", got)
	}
	d.Rowan("snapshot", "delete", "web@monday", "--yes", "--force")
	if text := d.TryRowan("scrub", "--status").Stdout; !strings.Contains(text, "there is no snapshot that shows it") {
		t.Errorf("without the snapshot:\n%s", text)
	}
}
