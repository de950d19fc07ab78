package snapfs

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/rowan-storage/rowan/snapfs/tree"
)

// Contents is what info.json says: what a snapshot is and what was found in it.
type Contents struct {
	LUN         string         `json:"lun"`
	Snapshot    string         `json:"snapshot"`
	ID          uint64         `json:"id"`
	Created     time.Time      `json:"created"`
	SizeBytes   int64          `json:"size_bytes"`
	Consistency string         `json:"consistency,omitempty"`
	Details     map[string]any `json:"details,omitempty"` // Snapshot.Info
	Table       *TableInfo     `json:"partition_table,omitempty"`
	Areas       []AreaInfo     `json:"areas"`
	// Notes are sentences for the administrator about the disk.
	Notes []string `json:"notes,omitempty"`
}

// TableInfo describes a partition table.
type TableInfo struct {
	Scheme      string `json:"scheme"` // "gpt", "mbr"
	SectorBytes int    `json:"sector_bytes"`
	ID          string `json:"id"`
}

// AreaInfo describes a partition, or what fills the whole disk.
type AreaInfo struct {
	Directory     string `json:"directory"`
	Number        int    `json:"number,omitempty"` // of the partition
	StartBytes    int64  `json:"start_bytes"`
	SizeBytes     int64  `json:"size_bytes"`
	PartitionType string `json:"partition_type,omitempty"`
	TypeName      string `json:"partition_type_name,omitempty"`
	PartitionName string `json:"partition_name,omitempty"`
	PartitionID   string `json:"partition_id,omitempty"`
	Content       string `json:"content"` // "ext4", "luks", "unknown", …
	Label         string `json:"label,omitempty"`
	UUID          string `json:"uuid,omitempty"`
	Readable      bool   `json:"readable"`
	Reason        string `json:"reason,omitempty"` // why not
	UsedBytes     int64  `json:"used_bytes,omitempty"`
	// Notes are sentences for the administrator, such as what a journal
	// needed.
	Notes []string `json:"notes,omitempty"`
}

// infoFile is info.json for one description of the snapshot. If the description
// changes, or what was found inside, there is another infoFile with another
// number, so that a kept content is never wrong.
type infoFile struct {
	snap *snapshotDir
	id   tree.Ino
	meta Snapshot
	text atomic.Pointer[string] // nil until it was made
}

func (f *infoFile) attr(ctx context.Context) (tree.Attr, error) {
	text, err := f.content(ctx)
	if err != nil {
		return tree.Attr{}, err
	}
	a := f.snap.root.madeAttr(f.id, tree.Regular, int64(len(text)))
	a.Mtime, a.Ctime = f.meta.Created, f.meta.Created
	return a, nil
}

func (f *infoFile) open(ctx context.Context) (*File, error) {
	text, err := f.content(ctx)
	if err != nil {
		return nil, err
	}
	return textFile(text), nil
}

// content makes the text, once.
func (f *infoFile) content(ctx context.Context) (string, error) {
	if text := f.text.Load(); text != nil {
		return *text, nil
	}
	_, err, _ := f.snap.root.flight.Do(fmt.Sprintf("info %d", f.id), func() (any, error) {
		c, err := f.snap.contents(ctx, f.meta)
		if err != nil {
			return nil, err
		}
		b, err := json.MarshalIndent(c, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("snapfs: info.json of %s: %w", f.snap.object(), err)
		}
		text := string(b) + "\n"
		f.text.Store(&text)
		return nil, nil
	})
	if err != nil {
		return "", err
	}
	return *f.text.Load(), nil
}

// contents opens every filesystem of the snapshot and describes what there is.
func (s *snapshotDir) contents(ctx context.Context, meta Snapshot) (Contents, error) {
	l, err := s.layout(ctx)
	if err != nil {
		return Contents{}, err
	}
	c := Contents{
		LUN: s.lun.name, Snapshot: meta.Name, ID: meta.ID, Created: meta.Created, SizeBytes: meta.SizeBytes,
		Consistency: meta.Consistency, Details: meta.Info, Areas: []AreaInfo{}, Notes: l.notes,
	}
	if l.table != nil {
		c.Table = &TableInfo{Scheme: string(l.table.Scheme), SectorBytes: l.table.SectorBytes, ID: l.table.ID}
		c.Notes = append(c.Notes, l.table.Notes...)
	}
	for _, a := range l.areas {
		info, err := a.describe(ctx)
		if err != nil {
			return Contents{}, err
		}
		c.Areas = append(c.Areas, info)
	}
	return c, nil
}

// describe opens the filesystem of an area and describes it.
func (a *area) describe(ctx context.Context) (AreaInfo, error) {
	info := AreaInfo{
		Directory: a.name, StartBytes: a.off, SizeBytes: a.sizeBytes,
		Content: a.found.kind, Label: a.found.label, UUID: a.found.uuid, Notes: a.found.notes,
	}
	if p := a.part; p != nil {
		info.Number, info.PartitionType, info.TypeName = p.Number, p.Type, p.TypeName
		info.PartitionName, info.PartitionID = p.Name, p.ID
		info.Notes = append(info.Notes[:len(info.Notes):len(info.Notes)], p.Notes...)
	}
	v, why, err := a.volume(ctx)
	switch {
	case err != nil:
		return AreaInfo{}, err
	case v == nil:
		info.Reason = why
	default:
		info.Readable = true
		info.Content, info.UsedBytes = v.info.Type, v.info.UsedBytes
		info.Notes = append(info.Notes[:len(info.Notes):len(info.Notes)], v.info.Notes...)
	}
	return info, nil
}
