package partition_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rowan-storage/rowan/snapfs/imagetest"
	"github.com/rowan-storage/rowan/snapfs/partition"
)

const mib = 1 << 20

// sfdiskTable is what "sfdisk --json" says of a disk.
type sfdiskTable struct {
	Table struct {
		Label      string
		ID         string
		SectorSize int64
		Partitions []struct {
			Node        string
			Start, Size int64
			Type        string
			UUID, Name  string
			Bootable    bool
		}
	} `json:"partitiontable"`
}

func readFile(t *testing.T, path string) (*partition.Table, error) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return partition.Read(bytes.NewReader(data), int64(len(data)))
}

// expectAsSfdisk compares the table with what sfdisk says of device (the file,
// or a loop device on it).
func expectAsSfdisk(t *testing.T, table *partition.Table, device string) {
	t.Helper()
	var want sfdiskTable
	if err := json.Unmarshal([]byte(imagetest.Run(t, "sfdisk", "--json", device)), &want); err != nil {
		t.Fatal(err)
	}
	if len(table.Partitions) != len(want.Table.Partitions) {
		t.Fatalf("%d partitions, sfdisk sees %d: %+v", len(table.Partitions), len(want.Table.Partitions), table.Partitions)
	}
	if int64(table.SectorBytes) != want.Table.SectorSize {
		t.Errorf("sectors of %d bytes, sfdisk says %d", table.SectorBytes, want.Table.SectorSize)
	}
	for _, w := range want.Table.Partitions {
		number, err := strconv.Atoi(strings.TrimPrefix(strings.TrimPrefix(w.Node, device), "p"))
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(table.Partitions, func(p partition.Partition) bool { return p.Number == number })
		if i < 0 {
			t.Errorf("no partition %d", number)
			continue
		}
		p := table.Partitions[i]
		kind := w.Type
		if table.Scheme == partition.MBR {
			kind = fmt.Sprintf("0x%02s", w.Type)
		}
		if p.StartBytes != w.Start*want.Table.SectorSize || p.SizeBytes != w.Size*want.Table.SectorSize && !p.Extended ||
			p.Type != kind || p.Name != w.Name || p.ID != w.UUID || p.Bootable != w.Bootable {
			t.Errorf("partition %d is %+v, sfdisk says %+v", number, p, w)
		}
	}
}

func TestReadAsSfdiskWrites(t *testing.T) {
	imagetest.Tool(t, "sfdisk")
	cases := []struct {
		name, script string
		sizeMiB      int64
		wantTypes    []string
	}{
		{"mbr primary", "label: dos\n2048,2M,83,*\n,2M,82\n,2M,7\n,,c\n", 20,
			[]string{"Linux filesystem", "Linux swap", "NTFS, exFAT or HPFS", "FAT32 (LBA)"}},
		{"mbr logical", "label: dos\n2048,2M,83,*\n,2M,82\n,14M,5\n,1M,7\n,2M,83\n,1M,8e\n,1M,fd\n", 24,
			[]string{"Linux filesystem", "Linux swap", "Extended", "NTFS, exFAT or HPFS", "Linux filesystem", "Linux LVM", "Linux RAID"}},
		{"mbr hole between entries", "label: dos\n3 : start=2048,size=4096,type=83\n", 8, []string{"Linux filesystem"}},
		{"gpt", "label: gpt\nsize=1M,type=U,name=\"EFI system partition\"\nsize=1M,type=L,name=root\nsize=1M,type=S\nsize=1M,type=V,name=\"Größe 100%\"\n", 20,
			[]string{"EFI system", "Linux filesystem", "Linux swap", "Linux LVM"}},
		{"gpt with gaps", "label: gpt\n2 : size=1M,type=L\n7 : size=1M,type=L\n128 : size=1M,type=L,name=last\n", 20, nil},
		{"gpt with 16 entries", "label: gpt\ntable-length: 16\n,1M,L\n,1M,L\n", 20, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			path := imagetest.New(t, "disk", c.sizeMiB*mib)
			imagetest.RunInput(t, c.script, "sfdisk", "--quiet", path)
			table, err := readFile(t, path)
			if err != nil {
				t.Fatal(err)
			}
			if len(table.Notes) != 0 {
				t.Errorf("notes on a sound table: %q", table.Notes)
			}
			expectAsSfdisk(t, table, path)
			for i, want := range c.wantTypes {
				if got := table.Partitions[i].TypeName; got != want {
					t.Errorf("partition %d is of type %q, want %q", table.Partitions[i].Number, got, want)
				}
			}
		})
	}
}

func TestReadManyLogical(t *testing.T) {
	imagetest.Tool(t, "sfdisk")
	path := imagetest.New(t, "disk", 80*mib)
	script := "label: dos\n,,5\n" + strings.Repeat(",1M,83\n", 39)
	imagetest.RunInput(t, script, "sfdisk", "--quiet", path)
	table, err := readFile(t, path)
	if err != nil {
		t.Fatal(err)
	}
	expectAsSfdisk(t, table, path)
	if last := table.Partitions[len(table.Partitions)-1]; last.Number != 43 {
		t.Errorf("the last logical partition is number %d, want 43", last.Number)
	}
}

func TestReadSectorsOf4096(t *testing.T) {
	imagetest.Tool(t, "sfdisk", "sgdisk")
	t.Run("gpt", func(t *testing.T) {
		path := imagetest.New(t, "disk", 64*mib)
		dev := imagetest.Loop(t, path, "--sector-size", "4096")
		imagetest.Run(t, "sgdisk", "-n1:0:+8M", "-t1:8300", "-c1:data", "-n2:0:0", dev)
		table, err := readFile(t, path)
		if err != nil {
			t.Fatal(err)
		}
		expectAsSfdisk(t, table, dev)
	})
	t.Run("mbr", func(t *testing.T) {
		path := imagetest.New(t, "disk", 64*mib)
		dev := imagetest.Loop(t, path, "--sector-size", "4096")
		imagetest.RunInput(t, "label: dos\n,8M,83\n,32M,5\n,4M,83\n,4M,82\n", "sfdisk", "--quiet", dev)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		table, err := partition.ReadMBR(bytes.NewReader(data), int64(len(data)), 4096)
		if err != nil {
			t.Fatal(err)
		}
		expectAsSfdisk(t, table, dev)
	})
}

func TestReadAsOtherProgramsWrite(t *testing.T) {
	imagetest.Tool(t, "sfdisk", "sgdisk", "parted")
	t.Run("parted gpt", func(t *testing.T) {
		path := imagetest.New(t, "disk", 32*mib)
		imagetest.Run(t, "parted", "-s", path, "mklabel", "gpt", "mkpart", "esp", "fat32", "1MiB", "8MiB", "set", "1", "esp", "on", "mkpart", "root", "ext4", "8MiB", "100%")
		table, err := readFile(t, path)
		if err != nil {
			t.Fatal(err)
		}
		expectAsSfdisk(t, table, path)
		if table.Partitions[0].TypeName != "EFI system" {
			t.Errorf("type %q", table.Partitions[0].TypeName)
		}
	})
	t.Run("parted msdos", func(t *testing.T) {
		path := imagetest.New(t, "disk", 32*mib)
		imagetest.Run(t, "parted", "-s", path, "mklabel", "msdos", "mkpart", "primary", "1MiB", "8MiB", "mkpart", "extended", "8MiB", "100%", "mkpart", "logical", "9MiB", "16MiB", "mkpart", "logical", "17MiB", "100%")
		table, err := readFile(t, path)
		if err != nil {
			t.Fatal(err)
		}
		expectAsSfdisk(t, table, path)
	})
	t.Run("sgdisk hybrid", func(t *testing.T) {
		path := imagetest.New(t, "disk", 32*mib)
		imagetest.Run(t, "sgdisk", "-n1:0:+4M", "-t1:0700", "-n2:0:+4M", "-n3:0:0", "-h1:2", path)
		table, err := readFile(t, path)
		if err != nil {
			t.Fatal(err)
		}
		if table.Scheme != partition.GPT || len(table.Partitions) != 3 {
			t.Fatalf("%s with %d partitions", table.Scheme, len(table.Partitions))
		}
		expectNote(t, table.Notes, "hybrid")
	})
}

func expectNote(t *testing.T, notes []string, want string) {
	t.Helper()
	if !slices.ContainsFunc(notes, func(n string) bool { return strings.Contains(n, want) }) {
		t.Errorf("no note with %q in %q", want, notes)
	}
}

// gptDisk makes the image of a disk with three partitions.
func gptDisk(t *testing.T) []byte {
	t.Helper()
	imagetest.Tool(t, "sfdisk")
	path := imagetest.New(t, "disk", 8*mib)
	imagetest.RunInput(t, "label: gpt\nsize=1M,type=U,name=one\nsize=1M,type=L,name=two\nsize=1M,type=S,name=three\n", "sfdisk", "--quiet", path)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestReadDamagedGPT(t *testing.T) {
	disk := gptDisk(t)
	sound, err := partition.Read(bytes.NewReader(disk), int64(len(disk)))
	if err != nil {
		t.Fatal(err)
	}
	end := len(disk)
	cases := []struct {
		name   string
		damage func(d []byte) []byte
		note   string // "" if the table cannot be read
	}{
		{"primary header", func(d []byte) []byte { d[512+40] ^= 1; return d }, "checksum of its GPT header is wrong): the backup was used"},
		{"primary entries", func(d []byte) []byte { d[2*512+60] ^= 1; return d }, "checksum of its GPT entries is wrong): the backup was used"},
		{"primary gone", func(d []byte) []byte { clear(d[512 : 34*512]); return d }, "the backup was used"},
		{"header too long", func(d []byte) []byte { binary.LittleEndian.PutUint32(d[512+12:], 1<<31); return d }, "the backup was used"},
		{"header from elsewhere", func(d []byte) []byte { copy(d[512:1024], d[end-512:]); return d }, "says that it is at"},
		{"backup header", func(d []byte) []byte { d[end-512+40] ^= 1; return d }, "backup GPT is missing or damaged"},
		{"backup entries", func(d []byte) []byte { d[end-33*512+60] ^= 1; return d }, "backup GPT is missing or damaged"},
		{"grown, primary header", func(d []byte) []byte { d[512] ^= 1; return append(d, make([]byte, mib)...) }, "the backup was used"},
		{"cut short", func(d []byte) []byte { return d[:end-mib] }, "past the end of the disk"},
		{"protective MBR gone", func(d []byte) []byte { clear(d[:512]); return d }, "master boot record that should protect"},
		{"both headers", func(d []byte) []byte { d[512+40] ^= 1; d[end-512+40] ^= 1; return d }, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := c.damage(bytes.Clone(disk))
			table, err := partition.Read(bytes.NewReader(d), int64(len(d)))
			if c.note == "" {
				if !errors.Is(err, partition.ErrDamaged) {
					t.Fatalf("error %v, want %v", err, partition.ErrDamaged)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			expectNote(t, table.Notes, c.note)
			if fmt.Sprint(table.Partitions) != fmt.Sprint(sound.Partitions) {
				t.Errorf("partitions %+v, want %+v", table.Partitions, sound.Partitions)
			}
		})
	}
}

func TestRecoverGPT(t *testing.T) {
	disk := gptDisk(t)
	clear(disk[:mib])
	r, size := bytes.NewReader(disk), int64(len(disk))
	if _, err := partition.Read(r, size); !errors.Is(err, partition.ErrNone) {
		t.Fatalf("Read: %v, want %v", err, partition.ErrNone)
	}
	table, err := partition.RecoverGPT(r, size)
	if err != nil {
		t.Fatal(err)
	}
	if len(table.Partitions) != 3 {
		t.Errorf("%d partitions, want 3", len(table.Partitions))
	}
	expectNote(t, table.Notes, "backup GPT at its end was used")
	clear(disk[size-512:])
	if _, err := partition.RecoverGPT(r, size); !errors.Is(err, partition.ErrNone) {
		t.Errorf("RecoverGPT without a backup: %v, want %v", err, partition.ErrNone)
	}
}

// entry writes entry i of a boot record.
func entry(record []byte, i int, kind byte, start, count uint32) {
	b := record[446+16*i:]
	b[4] = kind
	binary.LittleEndian.PutUint32(b[8:], start)
	binary.LittleEndian.PutUint32(b[12:], count)
	record[510], record[511] = 0x55, 0xAA
}

func TestReadNoTable(t *testing.T) {
	random := bytes.Repeat([]byte("no table "), 1000)
	marked := bytes.Clone(random)
	marked[510], marked[511] = 0x55, 0xAA
	empty := make([]byte, mib)
	empty[510], empty[511] = 0x55, 0xAA
	for name, d := range map[string][]byte{
		"zeros": make([]byte, mib), "nothing": nil, "short": make([]byte, 100),
		"text": random, "text with 55 AA": marked, "record without entries": empty,
	} {
		t.Run(name, func(t *testing.T) {
			table, err := partition.Read(bytes.NewReader(d), int64(len(d)))
			if !errors.Is(err, partition.ErrNone) {
				t.Errorf("%+v, %v, want %v", table, err, partition.ErrNone)
			}
		})
	}
}

// TestReadBareFilesystem: the boot sector of a volume is no master boot record,
// whatever stands where entries would be.
func TestReadBareFilesystem(t *testing.T) {
	for _, mkfs := range [][]string{
		{"mkfs.vfat", "-F", "12"}, {"mkfs.vfat", "-F", "16"}, {"mkfs.vfat", "-F", "32"},
		{"mkfs.ntfs", "-q", "-F", "-f"}, {"mkfs.ext4", "-q", "-F"}, {"mkfs.xfs", "-q", "-f"}, {"mkswap", "-q"},
	} {
		t.Run(strings.Join(mkfs, " "), func(t *testing.T) {
			imagetest.Tool(t, mkfs[0])
			size := int64(40 * mib)
			if mkfs[0] == "mkfs.xfs" {
				size = 320 * mib
			} else if mkfs[len(mkfs)-1] == "12" {
				size = 2 * mib
			}
			path := imagetest.New(t, "fs", size)
			imagetest.Run(t, mkfs[0], append(mkfs[1:], path)...)
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if table, err := partition.Read(f, size); !errors.Is(err, partition.ErrNone) {
				t.Errorf("%+v, %v, want %v", table, err, partition.ErrNone)
			}
			if mkfs[0] == "mkfs.vfat" || mkfs[0] == "mkfs.ntfs" {
				sector := make([]byte, 512)
				if _, err := f.ReadAt(sector, 0); err != nil {
					t.Fatal(err)
				}
				clear(sector[446:510]) // boot code that looks like an entry
				entry(sector, 0, 0x83, 1, 100)
				if !partition.VolumeBootSector(sector) {
					t.Error("not recognised as the boot sector of a volume")
				}
				sector = append(sector, make([]byte, 2*mib)...)
				if table, err := partition.Read(bytes.NewReader(sector), int64(len(sector))); !errors.Is(err, partition.ErrNone) {
					t.Errorf("taken for a table: %+v, %v", table, err)
				}
			}
		})
	}
}
