package partition

import (
	"encoding/binary"
	"fmt"
	"io"
)

// A master boot record, little-endian:
//
//	0   440  boot code
//	440 4    disk signature
//	446 64   four entries:
//	         0  1  80 active, 00 not
//	         1  3  first sector, as cylinder, head, sector (not used here)
//	         4  1  type
//	         5  3  last sector
//	         8  4  first sector
//	         12 4  number of sectors
//	510 2    55 AA
//
// An extended boot record has the same shape: its data entry counts from the
// record itself, its link to the next record from the start of the extended
// partition.
const (
	mbrSignature = 440
	mbrEntries   = 446
	mbrMagic     = 510
	firstLogical = 5
	// maxLogical bounds the chain of extended boot records.
	maxLogical = maxPartitions
)

// mbrEntry is one entry of a boot record.
type mbrEntry struct {
	status byte
	kind   byte
	start  uint32 // sectors
	count  uint32 // sectors
}

func (e mbrEntry) used() bool       { return e.kind != 0 && e.count != 0 }
func (e mbrEntry) protective() bool { return e.kind == 0xEE }
func (e mbrEntry) extended() bool   { return e.kind == 0x05 || e.kind == 0x0F || e.kind == 0x85 }

// bootRecord is a decoded master boot record.
type bootRecord struct {
	signature  uint32
	entries    [4]mbrEntry
	protective bool // one entry is of type EE
	hybrid     bool // and another is in use beside it
	// gptSectors is the number of sectors of the disk by the protective
	// entry, 0 if it does not say.
	gptSectors uint64
}

// parseMBR decodes a master boot record, or returns nil if the sector is none:
// it lacks the signature, an entry is neither active nor inactive, or no entry
// is in use.
func parseMBR(sector []byte) *bootRecord {
	entries, ok := parseEntries(sector)
	if !ok {
		return nil
	}
	m := &bootRecord{signature: binary.LittleEndian.Uint32(sector[mbrSignature:]), entries: entries}
	others := 0
	for _, e := range entries {
		if e.status&0x7F != 0 {
			return nil
		}
		switch {
		case e.protective():
			m.protective = true
			if e.start == 1 && e.count != 0xFFFFFFFF {
				m.gptSectors = 1 + uint64(e.count)
			}
		case e.used():
			others++
		}
	}
	if !m.protective && others == 0 {
		return nil
	}
	m.hybrid = m.protective && others > 0
	return m
}

func parseEntries(sector []byte) (entries [4]mbrEntry, ok bool) {
	if len(sector) < 512 || sector[mbrMagic] != 0x55 || sector[mbrMagic+1] != 0xAA {
		return entries, false
	}
	for i := range entries {
		b := sector[mbrEntries+16*i:]
		entries[i] = mbrEntry{
			status: b[0],
			kind:   b[4],
			start:  binary.LittleEndian.Uint32(b[8:]),
			count:  binary.LittleEndian.Uint32(b[12:]),
		}
	}
	return entries, true
}

// readMBR makes a table of a master boot record and the extended boot records
// that it leads to.
func readMBR(r io.ReaderAt, sizeBytes int64, m *bootRecord, sectorBytes int64) (*Table, error) {
	t := &Table{Scheme: MBR, SectorBytes: int(sectorBytes), ID: fmt.Sprintf("%08x", m.signature)}
	for i, e := range m.entries {
		if !e.used() || e.protective() {
			continue
		}
		t.add(e, i+1, uint64(e.start), sizeBytes)
	}
	next := firstLogical
	for _, e := range m.entries {
		if !e.used() || !e.extended() {
			continue
		}
		c := chain{r: r, sizeBytes: sizeBytes, table: t, first: e, next: next}
		if err := c.follow(); err != nil {
			return nil, err
		}
		next = c.next
	}
	t.noteOverlaps()
	return t, nil
}

// add appends the entry as partition number, which starts at the given sector.
func (t *Table) add(e mbrEntry, number int, start uint64, sizeBytes int64) {
	p := Partition{
		Number:   number,
		Type:     fmt.Sprintf("0x%02x", e.kind),
		TypeName: mbrTypeName(e.kind),
		Bootable: e.status == 0x80,
		Extended: e.extended(),
	}
	p.place(start, uint64(e.count), int64(t.SectorBytes), sizeBytes)
	t.Partitions = append(t.Partitions, p)
}

// chain follows the extended boot records of one extended partition.
type chain struct {
	r         io.ReaderAt
	sizeBytes int64
	table     *Table
	first     mbrEntry // the extended partition, as the MBR has it
	next      int      // number of the next logical partition
}

func (c *chain) follow() error {
	t := c.table
	sectorBytes := int64(t.SectorBytes)
	seen := map[uint64]bool{}
	at := uint64(c.first.start)
	for range maxLogical {
		if seen[at] {
			t.note("The chain of logical partitions comes back to sector %d: it ends there.", at)
			return nil
		}
		seen[at] = true
		sector, err := readRange(c.r, c.sizeBytes, int64(at)*sectorBytes, 512)
		if err != nil {
			return err
		}
		entries, ok := parseEntries(sector)
		if !ok {
			t.note("The extended boot record at sector %d is missing or damaged: logical partitions from %d on cannot be seen.", at, c.next)
			return nil
		}
		c.addLogical(entries, at)
		link, ok := nextRecord(entries)
		if !ok {
			return nil
		}
		if uint64(link.start) >= uint64(c.first.count) {
			t.note("The chain of logical partitions leaves its extended partition: it ends before partition %d.", c.next)
			return nil
		}
		at = uint64(c.first.start) + uint64(link.start)
	}
	t.note("More than %d logical partitions: the others are not shown.", maxLogical)
	return nil
}

// addLogical adds what one extended boot record at sector at describes: its
// first two entries, and the other two, which may hold garbage, only if they
// lie inside the extended partition.
func (c *chain) addLogical(entries [4]mbrEntry, at uint64) {
	for i, e := range entries {
		if !e.used() || e.extended() {
			continue
		}
		end := at + uint64(e.start) + uint64(e.count)
		inside := end <= uint64(c.first.start)+uint64(c.first.count)
		if i >= 2 && !inside || len(c.table.Partitions) >= maxPartitions {
			continue
		}
		c.table.add(e, c.next, at+uint64(e.start), c.sizeBytes)
		if !inside {
			c.table.note("Logical partition %d reaches past the end of its extended partition.", c.next)
		}
		c.next++
	}
}

func nextRecord(entries [4]mbrEntry) (mbrEntry, bool) {
	for _, e := range entries {
		if e.used() && e.extended() {
			return e, true
		}
	}
	return mbrEntry{}, false
}
