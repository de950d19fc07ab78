package snapfs_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/imagetest"
)

// sparse is a disk of zeros with some bytes in it.
type sparse struct {
	sizeBytes int64
	at        map[int64]string
}

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for at, b := range s.at {
		if at+int64(len(b)) <= off || at >= off+int64(len(p)) {
			continue
		}
		if at >= off {
			copy(p[at-off:], b)
		} else {
			copy(p, b[off-at:])
		}
	}
	return len(p), nil
}

func le(v uint64, n int) string {
	return string(binary.LittleEndian.AppendUint64(nil, v)[:n])
}

// mdSuper is a superblock of Linux software RAID, version 1.
func mdSuper(level uint64) string {
	return le(0xA92B4EFC, 4) + le(1, 4) + strings.Repeat("\x00", 8) + strings.Repeat("\x11", 16) + "host:0" + strings.Repeat("\x00", 34) + le(level, 4)
}

func TestDetectSignatures(t *testing.T) {
	const size = 64 << 20
	ntfsRecord := "FILE" + strings.Repeat("\x00", 16) + le(56, 2) + strings.Repeat("\x00", 34) +
		le(0x60, 4) + le(40, 4) + strings.Repeat("\x00", 8) + le(14, 4) + le(24, 2) + "\x00\x00" + "W\x00i\x00n\x00d\x00o\x00w\x00s\x00\x00\x00" + "\xff\xff\xff\xff"
	cases := []struct {
		name, kind, label, says string
		at                      map[int64]string
	}{
		{"LUKS1", "luks", "", "LUKS1 volume: encrypted", map[int64]string{0: "LUKS\xba\xbe\x00\x01"}},
		{"LUKS2", "luks", "secret", `LUKS2 volume "secret": encrypted`, map[int64]string{0: "LUKS\xba\xbe\x00\x02", 24: "secret"}},
		{"BitLocker", "bitlocker", "", "BitLocker volume: encrypted", map[int64]string{0: "\xeb\x58\x90-FVE-FS-\x00\x02", 510: "\x55\xaa"}},
		{"BitLocker To Go", "bitlocker", "", "BitLocker volume: encrypted", map[int64]string{0: "\xeb\x58\x90MSWIN4.1\x00\x02", 424: "\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01"}},
		{"MD 1.1", "md", "host:0", "Linux RAID5 member", map[int64]string{0: mdSuper(5)}},
		{"MD 1.2", "md", "host:0", "Linux RAID1 member", map[int64]string{4096: mdSuper(1)}},
		{"MD 1.0", "md", "host:0", "Linux RAID10 member", map[int64]string{size - 8192: mdSuper(10)}},
		{"MD 0.90", "md", "", "Linux RAID1 member", map[int64]string{size - 64<<10: le(0xA92B4EFC, 4) + le(0, 4) + le(90, 4) + strings.Repeat("\x00", 16) + le(1, 4)}},
		{"LVM2", "lvm2", "", "LVM2 physical volume: recognised", map[int64]string{512: "LABELONE\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x20\x00\x00\x00LVM2 001abcdef"}},
		{"ZFS", "zfs", "", "Member of a ZFS pool", map[int64]string{128<<10 + 4096: le(0x00BAB10C, 8)}},
		{"ZFS big-endian, second label", "zfs", "", "Member of a ZFS pool", map[int64]string{384<<10 + 1024: "\x00\x00\x00\x00\x00\xba\xb1\x0c"}},
		{"bcache", "bcache", "", "bcache device", map[int64]string{4120: "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"}},
		{"bcachefs", "bcachefs", "", "bcachefs filesystem", map[int64]string{4120: "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"}},
		{"BlueStore", "bluestore", "", "Ceph BlueStore", map[int64]string{0: "bluestore block device\n"}},
		{"VMFS", "vmfs", "", "VMFS volume: recognised", map[int64]string{1 << 20: "\x0d\xd0\x01\xc0"}},
		{"btrfs", "btrfs", "pool", "btrfs filesystem", map[int64]string{65536 + 64: "_BHRfS_M", 65536 + 299: "pool"}},
		{"APFS", "apfs", "", "APFS container", map[int64]string{32: "NXSB"}},
		{"ReFS", "refs", "", "ReFS filesystem: recognised", map[int64]string{3: "ReFS\x00\x00\x00\x00", 16: "FSRS"}},
		{"NTFS", "ntfs", "Windows", "NTFS filesystem", map[int64]string{0: "\xeb\x52\x90NTFS    \x00\x02\x08", 48: le(4, 8), 64: "\xf6", 4*4096 + 3*1024: ntfsRecord}},
		{"exFAT", "exfat", "CARD", "exFAT filesystem", map[int64]string{0: "\xeb\x76\x90EXFAT   ", 88: le(128, 4), 96: le(4, 4), 108: "\x09\x03", 128*512 + 2*8*512 + 32: "\x83\x04C\x00A\x00R\x00D\x00"}},
		{"swap", "swap", "", "Linux swap space: holds no files", map[int64]string{4086: "SWAPSPACE2"}},
		{"swap of 64 KiB pages", "swap", "", "Linux swap space", map[int64]string{65526: "SWAPSPACE2"}},
		{"hibernated", "hibernation", "", "memory of a hibernated machine", map[int64]string{4086: "S1SUSPEND\x00"}},
		{"journal", "jbd", "", "External journal", map[int64]string{1024 + 4: le(1000, 4), 1024 + 56: "\x53\xef", 1024 + 96: "\x08"}},
		{"ReiserFS", "reiserfs", "", "ReiserFS", map[int64]string{65536 + 52: "ReIsEr2Fs"}},
		{"JFS", "jfs", "old", "JFS", map[int64]string{32768: "JFS1", 32768 + 152: "old"}},
		{"F2FS", "f2fs", "A", "F2FS", map[int64]string{1024: "\x10\x20\xf5\xf2", 1024 + 124: "A\x00"}},
		{"HFS+", "hfsplus", "", "HFS+", map[int64]string{1024: "H+\x00\x04"}},
		{"HFSX", "hfsplus", "", "HFS+", map[int64]string{1024: "HX\x00\x05"}},
		{"UFS2", "ufs", "", "UFS2", map[int64]string{65536 + 1372: "\x19\x01\x54\x19"}},
		{"SquashFS", "squashfs", "", "SquashFS", map[int64]string{0: "hsqs", 28: "\x04\x00"}},
		{"ISO 9660", "iso9660", "Debian 12", "ISO 9660", map[int64]string{32769: "CD001", 32808: "Debian 12   "}},
		{"UDF", "udf", "", "UDF", map[int64]string{32769: "BEA01", 32768 + 2049: "NSR03"}},
		{"text", "unknown", "", "Disk: no partition table and no filesystem was recognised; its bytes are in disk.raw.", map[int64]string{0: "hello"}},
		{"nothing", "empty", "", "there are only zeros; its bytes are in disk.raw.", nil},
		{"BPB of zeros", "unknown", "", "", map[int64]string{0: "\xeb\x3c\x90MSDOS5.0", 510: "\x55\xaa"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			kind, label, _, says, ok, err := snapfs.Detect(sparse{size, c.at}, size)
			if err != nil || kind != c.kind || label != c.label || !strings.Contains(says, c.says) {
				t.Errorf("%q %q %q, %v, want %q %q %q", kind, label, says, err, c.kind, c.label, c.says)
			}
			if known := kind != "unknown" && kind != "empty"; known != ok {
				t.Errorf("recognised: %v", ok)
			}
		})
	}
}

// TestDetectReal compares with what the real programs write and blkid reads.
func TestDetectReal(t *testing.T) {
	imagetest.Tool(t, "blkid")
	cases := []struct {
		kind string
		size int64
		mkfs []string
	}{
		{"vfat", 2, []string{"mkfs.vfat", "-F", "12", "-n", "TWELVE"}},
		{"vfat", 20, []string{"mkfs.vfat", "-F", "16", "-n", "SIXTEEN"}},
		{"vfat", 40, []string{"mkfs.vfat", "-F", "32", "-n", "32 BITS"}},
		{"vfat", 40, []string{"mkfs.vfat", "-F", "32"}},
		{"ntfs", 10, []string{"mkfs.ntfs", "-q", "-F", "-f", "-L", "System"}},
		{"ntfs", 40, []string{"mkfs.ntfs", "-q", "-F", "-f", "-c", "65536", "-L", "Big clusters"}},
		{"xfs", 320, []string{"mkfs.xfs", "-q", "-L", "datenbank"}},
		{"ext2", 4, []string{"mkfs.ext2", "-q", "-F", "-L", "two"}},
		{"ext3", 8, []string{"mkfs.ext3", "-q", "-F", "-L", "three"}},
		{"ext4", 8, []string{"mkfs.ext4", "-q", "-F", "-L", "four"}},
		{"ext4", 8, []string{"mkfs.ext4", "-q", "-F", "-b", "1024"}},
		{"jbd", 8, []string{"mkfs.ext4", "-q", "-F", "-O", "journal_dev"}},
		{"swap", 4, []string{"mkswap", "-q", "-L", "sw"}},
	}
	for _, c := range cases {
		t.Run(strings.Join(c.mkfs, " "), func(t *testing.T) {
			path := imagetest.New(t, "fs", c.size*imagetest.MiB)
			imagetest.Mkfs(c.mkfs[0], c.mkfs[1:]...)(t, path)
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			kind, label, uuid, says, ok, err := snapfs.Detect(f, c.size*imagetest.MiB)
			if err != nil || !ok || kind != c.kind {
				t.Errorf("%q, %v, %v, want %q: %s", kind, ok, err, c.kind, says)
			}
			want := map[string]string{}
			for _, line := range strings.Split(imagetest.Run(t, "blkid", "-p", "-o", "export", path), "\n") {
				key, value, _ := strings.Cut(line, "=")
				want[key] = strings.ReplaceAll(value, `\ `, " ")
			}
			if label != want["LABEL"] || uuid != want["UUID"] && uuid != want["LOGUUID"] {
				t.Errorf("label %q, UUID %q, blkid says %q", label, uuid, want)
			}
		})
	}
}

func TestDetectFailsWithTheDisk(t *testing.T) {
	path := imagetest.New(t, "fs", 4*imagetest.MiB)
	imagetest.Ext4("x", "")(t, path)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, _, _, err := snapfs.Detect(failsAt{bytes.NewReader(data), 1024}, int64(len(data))); !errors.Is(err, syscall.EIO) {
		t.Errorf("%v, want EIO", err)
	}
	// Where ZFS would have its labels: that it is ext4 is told nevertheless.
	if kind, _, _, _, ok, err := snapfs.Detect(failsAt{bytes.NewReader(data), 128 << 10}, int64(len(data))); err != nil || !ok || kind != "ext4" {
		t.Errorf("%q, %v, %v", kind, ok, err)
	}
}

type failsAt struct {
	*bytes.Reader
	limit int64
}

func (f failsAt) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.limit {
		return 0, syscall.EIO
	}
	return f.Reader.ReadAt(p, off)
}

// mbrEntry makes an entry of a master boot record, and its signature.
func mbrEntry(t *testing.T, path string, i int64, kind byte, start, count uint32) {
	b := make([]byte, 16)
	b[4] = kind
	binary.LittleEndian.PutUint32(b[8:], start)
	binary.LittleEndian.PutUint32(b[12:], count)
	imagetest.WriteAt(t, path, 446+16*i, b)
	imagetest.WriteAt(t, path, 510, []byte{0x55, 0xAA})
}

// TestTableOrFilesystem: a disk that bears the marks of a partition table and
// of a filesystem.
func TestTableOrFilesystem(t *testing.T) {
	ext := func(files map[string]string) string { return extImage(t, files) }
	cases := []struct {
		name string
		make func() string
		want []string
		note string
	}{
		{"ext4 with a boot record without partitions", func() string {
			path := ext(nil)
			imagetest.WriteAt(t, path, 510, []byte{0x55, 0xAA})
			return path
		}, []string{"fs/"}, ""},
		{"ext4 under a former boot record", func() string {
			path := ext(nil)
			mbrEntry(t, path, 0, 0x83, 2048, 4096)
			return path
		}, []string{"fs/"}, "master boot record too"},
		{"partitions over a former ext4", func() string {
			path := imagetest.Disk(t, "dos", imagetest.Part{SizeMiB: 4, Type: "83", Make: imagetest.Ext4("new", "")})
			old, err := os.ReadFile(ext(nil))
			if err != nil {
				t.Fatal(err)
			}
			imagetest.WriteAt(t, path, 1024, old[1024:2048])
			return path
		}, []string{"p1-ext4-new/"}, "signature of something else too (ext4 filesystem)"},
		{"FAT with something like an entry", func() string {
			path := imagetest.New(t, "fat", 4*imagetest.MiB)
			imagetest.Mkfs("mkfs.vfat")(t, path)
			imagetest.WriteAt(t, path, 446, make([]byte, 64))
			mbrEntry(t, path, 0, 0x83, 100, 100)
			return path
		}, []string{"fs/"}, ""},
		{"sectors of 4096 bytes", func() string {
			path := imagetest.New(t, "disk", 8*imagetest.MiB)
			mbrEntry(t, path, 0, 0x83, 256, 1024)
			content := ext(map[string]string{"a": "b"})
			imagetest.CopyInto(t, path, imagetest.MiB, content)
			return path
		}, []string{"p1-ext4-data/"}, ""},
		{"nothing but entries", func() string {
			path := imagetest.New(t, "disk", 8*imagetest.MiB)
			mbrEntry(t, path, 0, 0x83, 100, 1024)
			mbrEntry(t, path, 1, 0x42, 2000, 1024)
			mbrEntry(t, path, 2, 0x07, 1<<31, 1024)
			return path
		}, []string{"p1-empty/", "p2-ldm/", "p3-unreadable/"}, ""},
		{"both GPTs damaged", func() string {
			path := imagetest.Disk(t, "gpt", imagetest.Part{SizeMiB: 1, Type: "L"})
			imagetest.WriteAt(t, path, 512+40, []byte{0xEE})
			imagetest.WriteAt(t, path, 3*imagetest.MiB-512+40, []byte{0xEE})
			return path
		}, []string{"fs/"}, "no backup can be used"},
		{"beginning of the disk wiped", func() string {
			path := imagetest.Disk(t, "gpt", imagetest.Part{SizeMiB: 4, Type: "L", Make: imagetest.Ext4("kept", "")})
			imagetest.WriteAt(t, path, 0, make([]byte, imagetest.MiB))
			return path
		}, []string{"p1-ext4-kept/"}, "backup GPT at its end"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			src := imagetest.NewSource(t)
			src.Add(t, "web", "a", c.make())
			r := newRoot(t, src)
			expectList(t, r, "/web/a", append([]string{"info.json", "disk.raw"}, c.want...)...)
			contents, err := r.Contents(context.Background(), "web", "a")
			if err != nil {
				t.Fatal(err)
			}
			if notes := strings.Join(contents.Notes, " "); c.note == "" && notes != "" || !strings.Contains(notes, c.note) {
				t.Errorf("notes %q, want %q", notes, c.note)
			}
		})
	}
}

func TestSafeLabel(t *testing.T) {
	for label, want := range map[string]string{
		"root": "root", "": "", "EFI system partition": "EFI_system_partition", "../../etc/passwd": "etc_passwd",
		"a/b\x00c\nd": "a_b_c_d", "Größe 100%": "Größe_100", " x ": "x", "\xff\xfe": "", "日本語": "日本語",
		strings.Repeat("ä", 100): strings.Repeat("ä", 32), "-rf": "rf", "...": "", "a--b": "a--b", "\u202Eexe.txt": "exe.txt",
	} {
		if got := snapfs.SafeLabel(label); got != want {
			t.Errorf("SafeLabel(%q) = %q, want %q", label, got, want)
		}
	}
}
