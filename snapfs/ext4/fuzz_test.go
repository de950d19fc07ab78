package ext4_test

import (
	"bytes"
	"testing"
)

// FuzzOpen edits small filesystems of three kinds and reads everything in them.
// An edit is five bytes: where, in 1/65536 of the image and a byte beyond, what
// to do, and with which value.
func FuzzOpen(f *testing.F) {
	images := [][]byte{
		smallImage(f, "-t", "ext4", "-O", "^metadata_csum,^has_journal,^resize_inode"),
		smallImage(f, "-t", "ext4", "-O", "metadata_csum,inline_data,ea_inode,^has_journal,^resize_inode"),
		smallImage(f, "-t", "ext2", "-O", "^resize_inode"),
	}
	f.Add(uint8(0), []byte{})
	f.Add(uint8(1), []byte{0, 8, 20, 1, 9, 1, 1, 0, 2, 3})
	f.Add(uint8(2), []byte{0, 130, 100, 0, 255, 1, 0, 17, 3, 4})
	f.Add(uint8(4), []byte{5, 0, 0, 2, 0, 9, 0, 0, 3, 40})
	f.Fuzz(func(t *testing.T, which uint8, edits []byte) {
		image := bytes.Clone(images[int(which)%len(images)])
		for ; len(edits) >= 5 && len(edits) < 5*200; edits = edits[5:] {
			edit(image, edits[:5])
		}
		if which&4 != 0 {
			seal(image)
		}
		fsys, err := openBytes(image)
		if err != nil {
			return
		}
		fsys.Info()
		manifest(fsys)
	})
}

func edit(image, e []byte) {
	off := (int(e[0])<<8 | int(e[1])) * (len(image) / 65536)
	off = min(off+int(e[2]), len(image)-1)
	block := image[off&^1023:][:1024]
	switch e[3] % 4 {
	case 0:
		image[off] = e[4]
	case 1:
		image[off] ^= e[4]
	case 2:
		clear(block)
	case 3:
		copy(block, image[int(e[4])*1024%len(image):])
	}
}
