package ext4_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestJournalChangesSuperblock has the journal write another superblock. What
// may change in a filesystem that is mounted is taken over; a journal that
// changes more is damaged, and nothing of it is applied.
func TestJournalChangesSuperblock(t *testing.T) {
	need(t, "debugfs", "mke2fs")
	source := t.TempDir()
	content := bytes.Repeat([]byte("content "), 3000)
	if err := os.WriteFile(filepath.Join(source, "file"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	original := makeImage(t, 16<<20, "-t", "ext4", "-b", "1024", "-J", "size=2", "-O", "metadata_csum", "-L", "old", "-d", source)
	image, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	put32 := func(off int, v uint32) func(sb []byte) {
		return func(sb []byte) { binary.LittleEndian.PutUint32(sb[off:], v) }
	}
	put16 := func(off int, v uint16) func(sb []byte) {
		return func(sb []byte) { binary.LittleEndian.PutUint16(sb[off:], v) }
	}
	perGroup := binary.LittleEndian.Uint32(image[1024+0x28:])
	for _, c := range []struct {
		name   string
		edit   func(sb []byte)
		damage string // in the note; "": none
	}{
		{"nothing", func([]byte) {}, ""},
		{"it grows", func(sb []byte) { put32(0x04, 3*8192+1)(sb); put32(0x00, 3*perGroup)(sb) }, ""},
		{"block size", func(sb []byte) { put32(0x18, 1)(sb); put32(0x1c, 1)(sb) }, "geometry"},
		{"blocks in a group", put32(0x20, 4096), "geometry"},
		{"inodes in a group", put32(0x28, perGroup+8), "geometry"},
		{"inode size", put16(0x58, 512), "geometry"},
		{"descriptor size", put16(0xfe, 128), "geometry"},
		{"first inode", put32(0x54, 12), "geometry"},
		{"cluster size", func(sb []byte) { put32(0x64, 0x200|binary.LittleEndian.Uint32(sb[0x64:]))(sb); put32(0x1c, 2)(sb) }, "geometry"},
		{"no superblock", func(sb []byte) { clear(sb) }, "something else"},
		{"no inodes", put32(0x28, 0), "inodes in a group"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(image[:2048])
			c.edit(b[1024:])
			copy(b[1024+0x78:], "new")
			seal(b)
			path := copyImage(t, original)
			journalWrite(t, path, "1", b[1024:])
			fsys := openImage(t, path)
			label, note := "new", "its journal was applied"
			if c.damage != "" {
				label, note = "old", "The journal is damaged and was not applied"
			}
			info := fsys.Info()
			if notes := strings.Join(info.Notes, " "); !strings.Contains(notes, note) || !strings.Contains(notes, c.damage) {
				t.Errorf("notes: %q", info.Notes)
			}
			if info.Label != label {
				t.Errorf("label %q, expected %q", info.Label, label)
			}
			if got, err := readPath(fsys, "file"); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}

// journalWrite writes a transaction with one block to the journal of an image.
func journalWrite(t *testing.T, image, block string, content []byte) {
	t.Helper()
	dir := t.TempDir()
	commands := "jo -c\njw -b " + block + " " + filepath.Join(dir, "block") + "\njc\n"
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "block"), content, 0o600),
		os.WriteFile(filepath.Join(dir, "commands"), []byte(commands), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	command(t, "debugfs", "-w", "-f", filepath.Join(dir, "commands"), image)
}
