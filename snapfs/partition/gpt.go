package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf16"
)

// A GPT header (UEFI 2.10, 5.3.2), little-endian, at LBA 1 and at the last LBA:
//
//	0  8   "EFI PART"
//	8  4   revision
//	12 4   size of this header, 92 to the size of a sector
//	16 4   CRC-32 of the header, this field taken as 0
//	24 8   LBA of this header
//	32 8   LBA of the other header
//	40 8   first usable LBA
//	48 8   last usable LBA
//	56 16  disk GUID
//	72 8   LBA of the entries
//	80 4   number of entries
//	84 4   size of an entry, 128 times a power of two
//	88 4   CRC-32 of all entries
//
// An entry (5.3.3):
//
//	0  16  type GUID, 0 if unused
//	16 16  GUID of the partition
//	32 8   first LBA
//	40 8   last LBA, inclusive
//	48 8   attributes
//	56 72  name, UTF-16, ended by 0
const (
	gptMagic       = "EFI PART"
	gptHeaderBytes = 92
	gptEntryBytes  = 128
	// maxEntryBytes bounds the array of entries; the usual one has 16 KiB.
	maxEntryBytes = 1 << 20
)

// gptHeader is a header whose checksums hold, with its entries.
type gptHeader struct {
	sectorBytes int64
	alternate   uint64
	diskGUID    string
	entrySize   int
	entries     []byte
}

// readGPT reads the GPT of an image, from its primary header if that can be
// believed, else from the backup. m is the master boot record, nil if there is
// none.
func readGPT(r io.ReaderAt, sizeBytes int64, m *bootRecord) (*Table, error) {
	var damage error
	sizes := []int64{512, 4096}
	for i, sectorBytes := range sizes {
		h, err := readHeader(r, sizeBytes, sectorBytes, 1)
		switch {
		case err == nil:
			return primaryTable(r, sizeBytes, h, m)
		case errors.Is(err, ErrDamaged):
			damage = err
			sizes[0], sizes[i] = sizes[i], sizes[0] // look for its backup first
		case !errors.Is(err, ErrNone):
			return nil, err
		}
	}
	if damage == nil && m == nil {
		return nil, ErrNone
	}
	if damage == nil {
		damage = fmt.Errorf("%w: no GPT header at sector 1", ErrDamaged)
	}
	h, err := readBackup(r, sizeBytes, sizes, m)
	if err != nil {
		if errors.Is(err, ErrNone) || errors.Is(err, ErrDamaged) {
			return nil, fmt.Errorf("%w, and no backup can be used", damage)
		}
		return nil, err
	}
	t := h.table(sizeBytes)
	t.noteHybrid(m)
	t.note("The primary GPT is damaged (%v): the backup was used.", damage)
	return t, nil
}

// primaryTable makes the table of a good primary header and checks its backup.
func primaryTable(r io.ReaderAt, sizeBytes int64, h *gptHeader, m *bootRecord) (*Table, error) {
	t := h.table(sizeBytes)
	t.noteHybrid(m)
	if m == nil {
		t.note("The master boot record that should protect the GPT is missing.")
	}
	if h.alternate > uint64(sizeBytes/h.sectorBytes) {
		t.note("The backup GPT should lie at sector %d, past the end of the disk.", h.alternate)
		return t, nil
	}
	backup, err := readHeader(r, sizeBytes, h.sectorBytes, int64(h.alternate))
	switch {
	case err == nil && string(backup.entries) != string(h.entries):
		t.note("The backup GPT differs from the primary: the primary was used.")
	case errors.Is(err, ErrNone) || errors.Is(err, ErrDamaged):
		t.note("The backup GPT is missing or damaged.")
	case err != nil:
		return nil, err
	}
	return t, nil
}

// readBackup looks for the backup header at the last sector of the disk and,
// for a disk that has grown since, where the protective entry ends.
func readBackup(r io.ReaderAt, sizeBytes int64, sizes []int64, m *bootRecord) (*gptHeader, error) {
	for _, sectorBytes := range sizes {
		places := []int64{sizeBytes/sectorBytes - 1}
		if m != nil && m.gptSectors > 0 {
			places = append(places, int64(m.gptSectors)-1)
		}
		for _, lba := range places {
			h, err := readHeader(r, sizeBytes, sectorBytes, lba)
			if err == nil || !errors.Is(err, ErrNone) && !errors.Is(err, ErrDamaged) {
				return h, err
			}
		}
	}
	return nil, ErrNone
}

// readHeader reads and verifies the header at lba and its entries. It returns
// ErrNone if there is no header, an error that wraps ErrDamaged if there is one
// that cannot be believed.
func readHeader(r io.ReaderAt, sizeBytes, sectorBytes, lba int64) (*gptHeader, error) {
	if lba < 1 || lba > sizeBytes/sectorBytes {
		return nil, ErrNone
	}
	b, err := readRange(r, sizeBytes, lba*sectorBytes, sectorBytes)
	if err != nil || b == nil || string(b[:8]) != gptMagic {
		return nil, orNone(err)
	}
	headerBytes := binary.LittleEndian.Uint32(b[12:])
	if headerBytes < gptHeaderBytes || int64(headerBytes) > sectorBytes {
		return nil, fmt.Errorf("%w: its GPT header says that it has %d bytes", ErrDamaged, headerBytes)
	}
	sum := binary.LittleEndian.Uint32(b[16:])
	clear(b[16:20])
	if crc32.ChecksumIEEE(b[:headerBytes]) != sum {
		return nil, fmt.Errorf("%w: the checksum of its GPT header is wrong", ErrDamaged)
	}
	if at := binary.LittleEndian.Uint64(b[24:]); at != uint64(lba) {
		return nil, fmt.Errorf("%w: the GPT header at sector %d says that it is at %d", ErrDamaged, lba, at)
	}
	h := &gptHeader{
		sectorBytes: sectorBytes,
		alternate:   binary.LittleEndian.Uint64(b[32:]),
		diskGUID:    guid(b[56:72]),
	}
	return h, h.readEntries(r, sizeBytes, b)
}

func (h *gptHeader) readEntries(r io.ReaderAt, sizeBytes int64, header []byte) error {
	lba := binary.LittleEndian.Uint64(header[72:])
	count := binary.LittleEndian.Uint32(header[80:])
	size := binary.LittleEndian.Uint32(header[84:])
	if size < gptEntryBytes || size&(size-1) != 0 || uint64(count)*uint64(size) > maxEntryBytes {
		return fmt.Errorf("%w: %d GPT entries of %d bytes", ErrDamaged, count, size)
	}
	if count == 0 {
		return nil
	}
	if lba > uint64(sizeBytes/h.sectorBytes) {
		return fmt.Errorf("%w: its GPT entries lie past the end of the disk", ErrDamaged)
	}
	entries, err := readRange(r, sizeBytes, int64(lba)*h.sectorBytes, int64(count)*int64(size))
	if err != nil {
		return err
	}
	if entries == nil {
		return fmt.Errorf("%w: its GPT entries lie past the end of the disk", ErrDamaged)
	}
	if crc32.ChecksumIEEE(entries) != binary.LittleEndian.Uint32(header[88:]) {
		return fmt.Errorf("%w: the checksum of its GPT entries is wrong", ErrDamaged)
	}
	h.entrySize, h.entries = int(size), entries
	return nil
}

// table makes the table of the entries.
func (h *gptHeader) table(sizeBytes int64) *Table {
	t := &Table{Scheme: GPT, SectorBytes: int(h.sectorBytes), ID: h.diskGUID}
	for i := 0; i*h.entrySize < len(h.entries); i++ {
		e := h.entries[i*h.entrySize:][:gptEntryBytes]
		if [16]byte(e[:16]) == [16]byte{} {
			continue
		}
		if len(t.Partitions) == maxPartitions {
			t.note("More than %d partitions: the others are not shown.", maxPartitions)
			break
		}
		kind := guid(e[:16])
		p := Partition{
			Number:   i + 1,
			Type:     kind,
			TypeName: gptTypeName(kind),
			Name:     utf16Name(e[56:128]),
			ID:       guid(e[16:32]),
			Bootable: e[48]&4 != 0, // legacy BIOS bootable
		}
		first, last := binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
		if last < first {
			p.note("Partition %d ends before it starts.", p.Number)
			t.Partitions = append(t.Partitions, p)
			continue
		}
		count := last - first
		if count != 1<<64-1 {
			count++
		}
		p.place(first, count, h.sectorBytes, sizeBytes)
		t.Partitions = append(t.Partitions, p)
	}
	t.noteOverlaps()
	return t
}

func (t *Table) noteHybrid(m *bootRecord) {
	if m != nil && m.hybrid {
		t.note("The master boot record is a hybrid: it lists partitions beside the GPT, which counts.")
	}
}

// guid formats a GUID, whose first three fields are little-endian (RFC 9562,
// 4; UEFI 2.10, appendix A).
func guid(b []byte) string {
	return fmt.Sprintf("%08X-%04X-%04X-%04X-%012X",
		binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint16(b[4:]),
		binary.LittleEndian.Uint16(b[6:]), b[8:10], b[10:16])
}

func utf16Name(b []byte) string {
	units := make([]uint16, 0, len(b)/2)
	for ; len(b) >= 2; b = b[2:] {
		u := binary.LittleEndian.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return strings.TrimSpace(string(utf16.Decode(units)))
}
