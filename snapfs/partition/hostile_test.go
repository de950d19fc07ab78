package partition_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"slices"
	"syscall"
	"testing"

	"github.com/rowan-storage/rowan/snapfs/partition"
)

func TestReadHostileMBR(t *testing.T) {
	sector := func(d []byte, n int) []byte { return d[n*512:][:512] }
	cases := []struct {
		name  string
		build func(d []byte)
		note  string
		want  []int // numbers
	}{
		{"loop to itself", func(d []byte) {
			entry(d, 0, 5, 100, 1000)
			entry(sector(d, 100), 0, 0x83, 1, 10)
			entry(sector(d, 100), 1, 5, 0, 10)
		}, "comes back to sector 100", []int{1, 5}},
		{"loop of two", func(d []byte) {
			entry(d, 0, 5, 100, 1000)
			entry(sector(d, 100), 0, 0x83, 1, 10)
			entry(sector(d, 100), 1, 5, 50, 10)
			entry(sector(d, 150), 0, 0x83, 1, 10)
			entry(sector(d, 150), 1, 5, 0, 10)
		}, "comes back to sector 100", []int{1, 5, 6}},
		{"link out of the extended partition", func(d []byte) {
			entry(d, 0, 5, 100, 100)
			entry(sector(d, 100), 0, 0x83, 1, 10)
			entry(sector(d, 100), 1, 5, 200, 10)
		}, "leaves its extended partition", []int{1, 5}},
		{"link past the end of the disk", func(d []byte) {
			entry(d, 0, 5, 100, 0xFFFFFFFF)
			entry(sector(d, 100), 0, 0x83, 1, 10)
			entry(sector(d, 100), 1, 5, 0xFFFFFFF0, 10)
		}, "missing or damaged", []int{1, 5}},
		{"extended record without signature", func(d []byte) { entry(d, 0, 5, 100, 100) }, "missing or damaged", []int{1}},
		{"garbage in entries 3 and 4", func(d []byte) {
			entry(d, 0, 5, 100, 100)
			entry(sector(d, 100), 0, 0x83, 1, 10)
			entry(sector(d, 100), 2, 0x77, 0xDEADBEEF, 0xDEADBEEF)
		}, "", []int{1, 5}},
		{"overlap", func(d []byte) {
			entry(d, 0, 0x83, 10, 500)
			entry(d, 1, 0x83, 20, 10)
			entry(d, 2, 0x83, 400, 200)
		}, "Partitions 1 and 3 overlap", []int{1, 2, 3}},
		{"two extended", func(d []byte) {
			entry(d, 0, 5, 100, 100)
			entry(d, 1, 5, 300, 100)
			entry(sector(d, 100), 0, 0x83, 1, 10)
			entry(sector(d, 300), 0, 0x83, 1, 10)
		}, "", []int{1, 2, 5, 6}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := make([]byte, mib)
			c.build(d)
			table, err := partition.Read(bytes.NewReader(d), int64(len(d)))
			if err != nil {
				t.Fatal(err)
			}
			var got []int
			for _, p := range table.Partitions {
				got = append(got, p.Number)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("partitions %v, want %v", got, c.want)
			}
			if c.note == "" && len(table.Notes) > 0 {
				t.Errorf("notes %q, want none", table.Notes)
			}
			if c.note != "" {
				expectNote(t, table.Notes, c.note)
			}
		})
	}
}

func TestReadLongChain(t *testing.T) {
	d := make([]byte, 8*mib)
	entry(d, 0, 5, 1, uint32(len(d)/512-1))
	for at := 1; at+20 < len(d)/512; at += 10 {
		entry(d[at*512:], 0, 0x83, 1, 8)
		entry(d[at*512:], 1, 5, uint32(at+10-1), 10)
	}
	table, err := partition.Read(bytes.NewReader(d), int64(len(d)))
	if err != nil {
		t.Fatal(err)
	}
	if len(table.Partitions) != 256 {
		t.Errorf("%d partitions, want the bound of 256", len(table.Partitions))
	}
}

func TestReadPastTheEnd(t *testing.T) {
	d := make([]byte, mib)
	entry(d, 0, 0x83, 1000, 0xFFFFFFFF)
	entry(d, 1, 0x83, 0xFFFFFFFF, 0xFFFFFFFF)
	table, err := partition.Read(bytes.NewReader(d), int64(len(d)))
	if err != nil {
		t.Fatal(err)
	}
	one, two := table.Partitions[0], table.Partitions[1]
	if one.StartBytes != 1000*512 || one.SizeBytes != int64(len(d))-1000*512 {
		t.Errorf("partition 1 is clipped to %d+%d", one.StartBytes, one.SizeBytes)
	}
	expectNote(t, one.Notes, "past the end of the disk")
	if two.SizeBytes != 0 {
		t.Errorf("partition 2 has %d bytes", two.SizeBytes)
	}
	expectNote(t, two.Notes, "starts at sector 4294967295, past the end")
}

// sealGPT gives header and entries at the given places right checksums.
func sealGPT(d []byte, header, entries, n int) {
	h := d[header:][:512]
	binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(d[entries:][:n]))
	clear(h[16:20])
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
}

// TestReadHostileGPT: numbers are not believed because a checksum holds.
func TestReadHostileGPT(t *testing.T) {
	sound := gptDisk(t)
	clear(sound[len(sound)-512:])
	read := func(change func(d []byte)) (*partition.Table, error) {
		d := bytes.Clone(sound)
		change(d)
		sealGPT(d, 512, 1024, 128*128)
		return partition.Read(bytes.NewReader(d), int64(len(d)))
	}
	for name, change := range map[string]func(d []byte){
		"entries far away": func(d []byte) { binary.LittleEndian.PutUint64(d[512+72:], 1<<63) },
		"too many entries": func(d []byte) { binary.LittleEndian.PutUint32(d[512+80:], 1<<31) },
		"entries too big":  func(d []byte) { binary.LittleEndian.PutUint32(d[512+84:], 1<<30) },
		"entries too small": func(d []byte) {
			binary.LittleEndian.PutUint32(d[512+84:], 64)
		},
		"entries past the end": func(d []byte) { binary.LittleEndian.PutUint64(d[512+72:], uint64(len(d)/512-1)) },
	} {
		if table, err := read(change); !errors.Is(err, partition.ErrDamaged) {
			t.Errorf("%s: %+v, %v, want %v", name, table, err, partition.ErrDamaged)
		}
	}
	table, err := read(func(d []byte) {
		binary.LittleEndian.PutUint64(d[1024+32:], 100)
		binary.LittleEndian.PutUint64(d[1024+40:], 1<<64-1)
		binary.LittleEndian.PutUint64(d[1024+128+32:], 200)
		binary.LittleEndian.PutUint64(d[1024+128+40:], 199)
		binary.LittleEndian.PutUint64(d[1024+256+32:], 1<<63)
		binary.LittleEndian.PutUint64(d[1024+256+40:], 1<<63+5)
		binary.LittleEndian.PutUint64(d[512+32:], 1<<64-1)
	})
	if err != nil {
		t.Fatal(err)
	}
	expectNote(t, table.Partitions[0].Notes, "past the end of the disk")
	expectNote(t, table.Partitions[1].Notes, "ends before it starts")
	expectNote(t, table.Partitions[2].Notes, "starts at sector 9223372036854775808")
	expectNote(t, table.Notes, "backup GPT should lie at sector")
}

// failingReader fails every read at or after limit.
type failingReader struct {
	data  []byte
	limit int64
}

func (f failingReader) ReadAt(p []byte, off int64) (int, error) {
	if off >= f.limit {
		return 0, syscall.EIO
	}
	return bytes.NewReader(f.data).ReadAt(p, off)
}

// TestReadErrors: a disk that cannot be read is told from one without a table.
func TestReadErrors(t *testing.T) {
	disk := gptDisk(t)
	for _, limit := range []int64{0, 512, 1024, int64(len(disk)) - 512} {
		_, err := partition.Read(failingReader{disk, limit}, int64(len(disk)))
		if !errors.Is(err, syscall.EIO) || errors.Is(err, partition.ErrNone) || errors.Is(err, partition.ErrDamaged) {
			t.Errorf("reads fail from %d on: %v, want %v", limit, err, syscall.EIO)
		}
	}
	_, err := partition.Read(bytes.NewReader(disk[:100]), int64(len(disk)))
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a short disk: %v, want %v", err, io.ErrUnexpectedEOF)
	}
}
