package partition_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/rowan-storage/rowan/snapfs/partition"
)

// FuzzRead holds every reader of the package to its promises on any input: no
// panic, bounded results, partitions that lie on the disk. With seal the
// checksums of a GPT at sector 1 with four entries are made right, so that
// what they protect is reached.
func FuzzRead(f *testing.F) {
	f.Add([]byte{}, uint16(0), false)
	chain := make([]byte, 200*512)
	entry(chain, 0, 0x83, 1, 20)
	entry(chain, 1, 5, 30, 100)
	entry(chain[30*512:], 0, 0x83, 1, 9)
	entry(chain[30*512:], 1, 5, 10, 10)
	entry(chain[40*512:], 0, 0x83, 1, 9)
	entry(chain[40*512:], 1, 5, 0, 10)
	f.Add(chain, uint16(0), false)
	f.Add(smallGPT(), uint16(0), true)
	f.Add(smallGPT(), uint16(8), true)
	backup := smallGPT()
	clear(backup[512:1024])
	f.Add(backup, uint16(0), false)
	clear(backup[:1024])
	f.Add(backup, uint16(0), false)
	f.Fuzz(func(t *testing.T, data []byte, moreSectors uint16, seal bool) {
		if len(data) > mib {
			return
		}
		size := int64(len(data)) + int64(moreSectors)*512
		if seal && len(data) >= 2048 {
			data = bytes.Clone(data)
			sealGPT(data, 512, 1024, 4*128)
		}
		r := padded{data}
		check(t, size)(partition.Read(r, size))
		check(t, size)(partition.ReadMBR(r, size, 512))
		check(t, size)(partition.ReadMBR(r, size, 4096))
		check(t, size)(partition.RecoverGPT(r, size))
	})
}

// padded reads as its data and zeros after it.
type padded struct{ data []byte }

func (p padded) ReadAt(b []byte, off int64) (int, error) {
	clear(b)
	if off < int64(len(p.data)) {
		copy(b, p.data[off:])
	}
	return len(b), nil
}

func check(t *testing.T, size int64) func(*partition.Table, error) {
	return func(table *partition.Table, err error) {
		t.Helper()
		if err != nil {
			if !errors.Is(err, partition.ErrNone) && !errors.Is(err, partition.ErrDamaged) {
				t.Fatalf("error %v of a disk that can be read", err)
			}
			return
		}
		if len(table.Partitions) > 256+4 || len(table.Notes) > 32 {
			t.Fatalf("%d partitions, %d notes", len(table.Partitions), len(table.Notes))
		}
		numbers := map[int]bool{}
		for _, p := range table.Partitions {
			if p.StartBytes < 0 || p.SizeBytes < 0 || p.StartBytes > size-p.SizeBytes {
				t.Fatalf("partition %d lies at %d+%d on a disk of %d bytes", p.Number, p.StartBytes, p.SizeBytes, size)
			}
			if numbers[p.Number] {
				t.Fatalf("two partitions have the number %d", p.Number)
			}
			numbers[p.Number] = true
		}
	}
}

// smallGPT makes a disk of 100 sectors with a GPT of four entries and its
// backup.
func smallGPT() []byte {
	d := make([]byte, 100*512)
	entry(d, 0, 0xEE, 1, 99)
	header := func(at, other, entries uint64) {
		h := d[at*512:]
		copy(h, "EFI PART\x00\x00\x01\x00\x5c")
		for off, v := range map[int]uint64{24: at, 32: other, 40: 6, 48: 90, 72: entries} {
			h[off] = byte(v)
		}
		h[80], h[84] = 4, 128
		e := d[entries*512:]
		copy(e, "\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b")
		e[16], e[32], e[40] = 1, 10, 40
		copy(e[56:], "E\x00F\x00I\x00")
		sealGPT(d, int(at*512), int(entries*512), 4*128)
	}
	header(1, 99, 2)
	header(99, 1, 98)
	return d
}
