package partition

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Scheme is the kind of a partition table.
type Scheme string

// The kinds of partition table.
const (
	MBR Scheme = "mbr"
	GPT Scheme = "gpt"
)

// Bounds on what is taken from an image.
const (
	maxPartitions = 256 // as many as Linux shows
	maxNotes      = 32
)

// ErrNone is returned where the image holds no partition table.
var ErrNone = errors.New("partition: no partition table")

// ErrDamaged is returned where the image holds a partition table of which no
// copy can be believed.
var ErrDamaged = errors.New("partition: the partition table is damaged")

// Table is a partition table.
type Table struct {
	Scheme      Scheme
	SectorBytes int    // the unit of the table: 512 or 4096
	ID          string // the disk's GUID, or the disk signature of an MBR
	Partitions  []Partition
	// Notes are sentences for the administrator about the table as a whole.
	Notes []string
}

// Partition is one entry that is in use.
type Partition struct {
	Number     int // as Linux numbers it: logical ones from 5
	StartBytes int64
	// SizeBytes is what of the partition lies on the disk: less than the
	// entry says if it reaches past the end, 0 if it starts there.
	SizeBytes int64
	Type      string // "0x83", or a GUID in capitals
	TypeName  string // in words, "" if the type is not known
	Name      string // of a GPT entry, "" else
	ID        string // of a GPT entry, "" else
	Bootable  bool
	// Extended marks the container of logical partitions. It holds no
	// content of its own.
	Extended bool
	// Notes are sentences for the administrator about this entry.
	Notes []string
}

// Read finds the partition table of an image of sizeBytes. It returns ErrNone
// if there is none, an error that wraps ErrDamaged if there is one that cannot
// be used, and errors of r as they come, wrapped.
//
// A GPT counts if the master boot record protects it (UEFI 2.10, 5.2.3), also
// beside other entries (a hybrid MBR), or if there is no master boot record.
func Read(r io.ReaderAt, sizeBytes int64) (*Table, error) {
	sector, err := readRange(r, sizeBytes, 0, 512)
	if err != nil || sector == nil {
		return nil, orNone(err)
	}
	if VolumeBootSector(sector) {
		return nil, ErrNone
	}
	m := parseMBR(sector)
	if m == nil || m.protective {
		t, err := readGPT(r, sizeBytes, m)
		if err == nil || !errors.Is(err, ErrNone) && !errors.Is(err, ErrDamaged) {
			return t, err
		}
		if m == nil || !m.hybrid {
			return nil, err
		}
		t, mbrErr := readMBR(r, sizeBytes, m, 512)
		if mbrErr != nil {
			return nil, mbrErr
		}
		t.note("The GPT that the master boot record protects cannot be used (%v): the entries of the master boot record are shown.", err)
		return t, nil
	}
	return readMBR(r, sizeBytes, m, 512)
}

// ReadMBR reads the master boot record of an image and takes its numbers for
// sectors of sectorBytes (512 or 4096), which the record itself does not say.
// It returns ErrNone if there is none.
func ReadMBR(r io.ReaderAt, sizeBytes int64, sectorBytes int) (*Table, error) {
	sector, err := readRange(r, sizeBytes, 0, 512)
	if err != nil || sector == nil {
		return nil, orNone(err)
	}
	m := parseMBR(sector)
	if m == nil || m.protective && !m.hybrid || VolumeBootSector(sector) {
		return nil, ErrNone
	}
	return readMBR(r, sizeBytes, m, int64(sectorBytes))
}

// RecoverGPT looks for a backup GPT at the end of an image on which nothing
// else was found: its beginning may have been overwritten. It returns ErrNone
// if there is none.
func RecoverGPT(r io.ReaderAt, sizeBytes int64) (*Table, error) {
	for _, sectorBytes := range []int64{512, 4096} {
		h, err := readHeader(r, sizeBytes, sectorBytes, sizeBytes/sectorBytes-1)
		if err != nil {
			if errors.Is(err, ErrNone) || errors.Is(err, ErrDamaged) {
				continue
			}
			return nil, err
		}
		t := h.table(sizeBytes)
		t.note("The beginning of the disk holds no partition table: the backup GPT at its end was used.")
		return t, nil
	}
	return nil, ErrNone
}

func (t *Table) note(format string, args ...any) {
	t.Notes = appendNote(t.Notes, format, args...)
}

func (p *Partition) note(format string, args ...any) {
	p.Notes = appendNote(p.Notes, format, args...)
}

func appendNote(notes []string, format string, args ...any) []string {
	if len(notes) >= maxNotes {
		return notes
	}
	return append(notes, fmt.Sprintf(format, args...))
}

// place sets where the partition lies from numbers of sectors, and notes what
// of it is not on the disk.
func (p *Partition) place(start, count uint64, sectorBytes, sizeBytes int64) {
	sectors := uint64(sizeBytes / sectorBytes)
	if start >= sectors {
		p.StartBytes, p.SizeBytes = sizeBytes, 0
		p.note("Partition %d starts at sector %d, past the end of the disk (%d sectors).", p.Number, start, sectors)
		return
	}
	p.StartBytes = int64(start) * sectorBytes
	if left := sectors - start; count > left {
		p.note("Partition %d reaches %d sectors past the end of the disk.", p.Number, count-left)
		count = left
	}
	p.SizeBytes = int64(count) * sectorBytes
}

// noteOverlaps reports entries that share sectors. Logical partitions lie in
// their container and do not count as overlapping it.
func (t *Table) noteOverlaps() {
	var ps []*Partition
	for i := range t.Partitions {
		if p := &t.Partitions[i]; !p.Extended && p.SizeBytes > 0 {
			ps = append(ps, p)
		}
	}
	slices.SortFunc(ps, func(a, b *Partition) int { return cmp.Compare(a.StartBytes, b.StartBytes) })
	for i := 1; i < len(ps); i++ {
		// The one that reaches furthest so far need not be the one before.
		furthest := ps[i-1]
		if ps[i].StartBytes < furthest.StartBytes+furthest.SizeBytes {
			t.note("Partitions %d and %d overlap.", furthest.Number, ps[i].Number)
		}
		if furthest.StartBytes+furthest.SizeBytes > ps[i].StartBytes+ps[i].SizeBytes {
			ps[i] = furthest
		}
	}
}

// readRange reads n bytes at off. It returns nil without an error if the range
// does not lie on the disk.
func readRange(r io.ReaderAt, sizeBytes, off, n int64) ([]byte, error) {
	if off < 0 || n <= 0 || sizeBytes < n || off > sizeBytes-n {
		return nil, nil
	}
	p := make([]byte, n)
	if m, err := r.ReadAt(p, off); m < len(p) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("partition: read %d bytes at %d: %w", n, off, err)
	}
	return p, nil
}

func orNone(err error) error {
	if err != nil {
		return err
	}
	return ErrNone
}
