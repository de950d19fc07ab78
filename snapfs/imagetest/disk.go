package imagetest

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// MiB is 2 to the power of 20.
const MiB = 1 << 20

// Part is a partition to be made: of SizeMiB, from 1 MiB on one after the other.
type Part struct {
	SizeMiB int64
	Type    string // as sfdisk takes it: "L", "U", "83"
	Name    string // GPT only
	// Make puts a filesystem into the file at path. nil leaves it empty.
	Make func(t testing.TB, path string)
}

// Disk makes the image of a disk with a partition table ("gpt" or "dos") and
// returns its path.
func Disk(t testing.TB, label string, parts ...Part) string {
	t.Helper()
	Tool(t, "sfdisk")
	sizeMiB := int64(2)
	script := "label: " + label + "\n"
	for _, p := range parts {
		line := fmt.Sprintf("start=%dMiB, size=%dMiB, type=%s", sizeMiB-1, p.SizeMiB, p.Type)
		if p.Name != "" {
			line += fmt.Sprintf(", name=%q", p.Name)
		}
		script += line + "\n"
		sizeMiB += p.SizeMiB
	}
	path := New(t, "disk.img", sizeMiB*MiB)
	RunInput(t, script, "sfdisk", "--quiet", path)
	at := int64(1)
	for _, p := range parts {
		if p.Make != nil {
			content := New(t, "part.img", p.SizeMiB*MiB)
			p.Make(t, content)
			CopyInto(t, path, at*MiB, content)
		}
		at += p.SizeMiB
	}
	return path
}

// Mkfs gives a Part.Make that runs a program with the path as last argument.
func Mkfs(program string, args ...string) func(testing.TB, string) {
	return func(t testing.TB, path string) {
		t.Helper()
		Tool(t, program)
		Run(t, program, append(append([]string{}, args...), path)...)
	}
}

// Ext4 gives a Part.Make of an ext4 filesystem with the files of a directory.
func Ext4(label, dir string, options ...string) func(testing.TB, string) {
	args := append([]string{"-q", "-F", "-L", label}, options...)
	if dir != "" {
		args = append(args, "-d", dir)
	}
	return Mkfs("mkfs.ext4", args...)
}

// Files makes a directory with files. A name that ends with "/" is a directory;
// a content that begins with "-> " makes a symbolic link.
func Files(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := Dir(t)
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, content := range files {
		parent := name[:strings.LastIndex(strings.TrimSuffix(name, "/"), "/")+1]
		if err := root.MkdirAll("./"+parent, 0o755); err != nil {
			t.Fatal(err)
		}
		target, link := strings.CutPrefix(content, "-> ")
		switch {
		case strings.HasSuffix(name, "/"):
			err = root.MkdirAll(strings.TrimSuffix(name, "/"), 0o755)
		case link:
			err = root.Symlink(target, name)
		default:
			err = root.WriteFile(name, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
