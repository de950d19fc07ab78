package snapfs

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"unicode"

	"github.com/rowan-storage/rowan/snapfs/partition"
)

// layout is what an image holds: areas of which each is a directory.
type layout struct {
	table *partition.Table // nil if there is none
	areas []*area
	// notes are sentences for the administrator about the disk.
	notes []string
}

// bareName is the directory of what fills the whole disk.
const bareName = "fs"

// survey finds out what the image holds. It fails only if the image cannot be
// read: a panic while it looks makes the image a damaged one.
func (s *snapshotDir) survey() (l *layout, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.root.panicked(s.object(), p, debug.Stack())
			l, err = s.bare(finding{kind: "damaged", title: "Disk", why: "damaged: looking for partitions and filesystems failed; its bytes are in disk.raw"}), nil
		}
	}()
	w := &window{im: s.im, sizeBytes: s.im.sizeBytes}
	table, tableErr := partition.Read(w, w.sizeBytes)
	switch {
	case tableErr == nil:
		return s.tableLayout(w, table)
	case errors.Is(tableErr, partition.ErrNone):
		return s.bareLayout(w)
	case errors.Is(tableErr, partition.ErrDamaged):
		return s.damagedLayout(w, tableErr)
	}
	return nil, tableErr
}

// bare is the layout of a disk that one thing fills.
func (s *snapshotDir) bare(f finding) *layout {
	return &layout{areas: []*area{s.newArea(bareName, f, nil)}, notes: f.notes}
}

// bareLayout is the layout of a disk without a partition table.
func (s *snapshotDir) bareLayout(w *window) (*layout, error) {
	f, ok, err := detect(w, w.sizeBytes, nil)
	if err != nil {
		return nil, err
	}
	if !ok {
		table, err := partition.RecoverGPT(w, w.sizeBytes)
		if err == nil {
			areas, _, err := s.partitions(w, table)
			return &layout{table: table, areas: areas}, err
		}
		if !errors.Is(err, partition.ErrNone) {
			return nil, err
		}
	}
	return s.bare(f), nil
}

// damagedLayout is the layout of a disk whose partition table cannot be used. A
// filesystem on the bare disk is shown nevertheless.
func (s *snapshotDir) damagedLayout(w *window, damage error) (*layout, error) {
	f, ok, err := detect(w, w.sizeBytes, nil)
	if err != nil {
		return nil, err
	}
	text := strings.TrimPrefix(damage.Error(), "partition: ")
	if !ok {
		f = finding{kind: "damaged", title: "Disk", why: text + "; its bytes are in disk.raw"}
	}
	l := s.bare(f)
	l.notes = append(l.notes, "Disk: "+text+".")
	return l, nil
}

// tableLayout is the layout of a disk with a partition table. A master boot
// record may stand beside a filesystem on the bare disk, one of them left from
// former times, and does not say how long its sectors are: what is found in the
// partitions decides.
func (s *snapshotDir) tableLayout(w *window, table *partition.Table) (*layout, error) {
	areas, recognised, err := s.partitions(w, table)
	if err != nil {
		return nil, err
	}
	l := &layout{table: table, areas: areas}
	if table.Scheme != partition.MBR {
		return l, nil
	}
	if !recognised {
		long, err := partition.ReadMBR(w, w.sizeBytes, 4096)
		if err != nil {
			return nil, err
		}
		areas, recognised, err = s.partitions(w, long)
		if err != nil {
			return nil, err
		}
		if recognised {
			l.table, l.areas = long, areas
		}
	}
	f, ok, err := detect(w, w.sizeBytes, nil)
	switch {
	case err != nil:
		return nil, err
	case ok && !recognised:
		l := s.bare(f)
		l.notes = append(l.notes, "The disk holds a master boot record too, but nothing was recognised in its partitions.")
		return l, nil
	case ok:
		l.notes = append(l.notes, fmt.Sprintf("The disk holds the signature of something else too (%s), left from before it was partitioned: the partitions are shown.", f.title))
	}
	return l, nil
}

// partitions makes the areas of a table, and tells whether anything was
// recognised in any of them.
func (s *snapshotDir) partitions(w *window, table *partition.Table) (areas []*area, recognised bool, err error) {
	for i := range table.Partitions {
		p := &table.Partitions[i]
		if p.Extended {
			continue
		}
		if p.SizeBytes == 0 {
			why := "no part of it lies on the disk"
			if len(p.Notes) > 0 {
				why = strings.TrimSuffix(p.Notes[0], ".")
			}
			areas = append(areas, s.newArea(areaName(p, "unreadable", ""), finding{kind: "unreadable", title: fmt.Sprintf("Partition %d", p.Number), why: why}, p))
			continue
		}
		f, ok, err := detect(&window{im: s.im, off: w.off + p.StartBytes, sizeBytes: p.SizeBytes}, p.SizeBytes, p)
		if err != nil {
			return nil, false, err
		}
		if _, byType := typed(p); ok && !byType {
			recognised = true
		}
		areas = append(areas, s.newArea(areaName(p, f.kind, f.label), f, p))
	}
	return areas, recognised || table.Scheme == partition.GPT, nil
}

// areaName is the directory of a partition: its number, what it holds, and its
// label.
func areaName(p *partition.Partition, kind, label string) string {
	name := fmt.Sprintf("p%d-%s", p.Number, kind)
	for _, l := range []string{label, p.Name} {
		if l = safeLabel(l); l != "" {
			return name + "-" + l
		}
	}
	return name
}

// maxLabelBytes bounds what of a label stands in a name.
const maxLabelBytes = 64

// safeLabel makes a label fit for a name that people type: letters, digits and
// a few marks stay, all else becomes one "_" each run.
func safeLabel(label string) string {
	var s strings.Builder
	gap := false
	for _, c := range label {
		keep := unicode.IsLetter(c) || unicode.IsDigit(c) || unicode.IsMark(c) || strings.ContainsRune("._+-", c)
		if !keep || c == unicode.ReplacementChar {
			gap = true
			continue
		}
		if gap && s.Len() > 0 {
			s.WriteByte('_')
		}
		gap = false
		if s.Len()+len(string(c)) > maxLabelBytes {
			break
		}
		s.WriteRune(c)
	}
	return strings.Trim(s.String(), "._-")
}
