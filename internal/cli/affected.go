package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/rowan-storage/rowan/internal/appliance/remote"
	"github.com/rowan-storage/rowan/internal/httpapi/wire"
	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// affectedWithin is how long files are looked for unless something else is
// asked for.
const affectedWithin = time.Minute

// affected is what damage of a part of a LUN belongs to.
type affected struct {
	// Snapshot is the one that was looked into, as lun@name; "" for none.
	Snapshot  string         `json:"snapshot,omitempty"`
	Files     []affectedFile `json:"files"`
	MoreFiles int            `json:"more_files,omitempty"`
	// Structures are those of filesystems and partition tables.
	Structures []string `json:"structures"`
	// FreeSpaceOf names filesystems of which only free space is damaged.
	FreeSpaceOf []string `json:"free_space_of"`
	// Notes are sentences that say what could not be found out.
	Notes []string `json:"notes"`
}

// affectedFile is a file that is damaged.
type affectedFile struct {
	Path string `json:"path"` // as rowan files takes it after the colon
	// Inode is the file's number where no name was found, and Path that of the
	// filesystem.
	Inode uint64 `json:"inode,omitempty"`
	// Part is what of it is damaged: content, directory, unwritten, attributes,
	// block map or inode.
	Part string `json:"part"`
}

// affected looks for what the findings of a scrub belong to, in the newest
// snapshot that shows each, for so long at most. Where a finding is not of a
// part of a LUN, or nothing is to be looked for, it is nil.
func (a *app) affected(ctx context.Context, s wire.Scrub, within time.Duration) []*affected {
	out := make([]*affected, len(s.Findings))
	ranges, of := map[string][]tree.Range{}, map[string][]int{}
	var order []string
	if within <= 0 || len(s.Findings) == 0 {
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	list, err := a.client().Snapshots(ctx, "")
	there := map[string]bool{}
	for _, w := range list {
		there[w.Ref()] = true
	}
	for i, f := range s.Findings {
		if f.LengthBytes == 0 {
			continue
		}
		out[i] = &affected{Files: []affectedFile{}, Structures: []string{}, FreeSpaceOf: []string{}, Notes: []string{}}
		name := newest(f.Snapshots, there, ref{s.LUN, s.Snapshot}.String())
		switch {
		case err != nil:
			out[i].fail(ctx, "The snapshots", err)
			continue
		case name == "":
			out[i].Notes = append(out[i].Notes, "Files were not looked for: there is no snapshot that shows it.")
			continue
		}
		if ranges[name] == nil {
			order = append(order, name)
		}
		out[i].Snapshot = name
		ranges[name] = append(ranges[name], tree.Range{OffsetBytes: f.OffsetBytes, LengthBytes: f.LengthBytes})
		of[name] = append(of[name], i)
	}
	defer a.progress(func() string { return "looking for the files that are affected" })()
	root := snapfs.New(remote.New(a.client(), browseConnections).Source(), snapfs.Options{})
	defer root.Close()
	// A read under way cannot be told to end by a context.
	defer context.AfterFunc(ctx, func() { _ = root.Close() })()
	for _, name := range order {
		lun, snapshot, _ := strings.Cut(name, "@")
		located, err := root.Locate(ctx, lun, snapshot, ranges[name])
		for k, i := range of[name] {
			if err != nil {
				out[i].fail(ctx, name, err)
			} else {
				out[i].take(located[k])
			}
		}
	}
	return out
}

// newest is the last of the snapshots that there still are, or the one that was
// asked for if it is among them.
func newest(snapshots []string, there map[string]bool, wanted string) string {
	name := ""
	for _, s := range snapshots {
		if there[s] {
			name = s
		}
		if name == wanted && name != "" {
			break
		}
	}
	return name
}

func (f *affected) fail(ctx context.Context, what string, err error) {
	note := fmt.Sprintf("%s could not be searched for files: %v.", what, snapshotError(err))
	if ctx.Err() != nil {
		note = "Not searched: the time was over; --files-within gives it more."
	}
	f.Notes = append(f.Notes, note)
}

// snapshotError is what is wrong with a snapshot, without what everybody knows.
func snapshotError(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	if e, ok := errors.AsType[*snapfs.Error](err); ok && e.Cause != nil {
		err = e.Cause
	}
	return err
}

func (f *affected) take(l snapfs.Located) {
	for _, file := range l.Files {
		one := affectedFile{Path: file.Path, Part: file.Part}
		if !file.Named {
			one.Inode = uint64(file.Ino)
		}
		if file.Directory && file.Part == tree.Content {
			one.Part = "directory"
		}
		f.Files = append(f.Files, one)
	}
	f.MoreFiles = l.MoreFiles
	f.Structures = append(f.Structures, l.Structures...)
	f.FreeSpaceOf = append(f.FreeSpaceOf, l.Free...)
	f.Notes = append(f.Notes, l.Notes...)
}

// lines says it to a person. There are none for nil.
func (f *affected) lines() []string {
	if f == nil {
		return nil
	}
	var lines []string
	for _, file := range f.Files {
		lines = append(lines, f.Snapshot+":"+file.text())
	}
	if f.MoreFiles > 0 {
		lines = append(lines, fmt.Sprintf("and %d more files", f.MoreFiles))
	}
	for _, s := range f.Structures {
		lines = append(lines, f.Snapshot+": "+s)
	}
	for _, area := range f.FreeSpaceOf {
		text := "free space of " + area
		if len(f.Files)+len(f.Structures) == 0 {
			text += ", no file is affected"
		}
		lines = append(lines, f.Snapshot+": "+text)
	}
	return append(lines, f.Notes...)
}

func (f affectedFile) text() string {
	text := f.Path
	if f.Inode != 0 {
		text += fmt.Sprintf(", inode %d, of which no name was found", f.Inode)
	}
	switch f.Part {
	case "directory":
		text += " (directory: names in it)"
	case tree.Unwritten:
		text += " (space not yet written to: nothing is lost)"
	case tree.Attributes:
		text += " (extended attributes)"
	case tree.BlockMap:
		text += " (where its content lies)"
	case tree.Inode:
		text += " (its inode: all of it)"
	}
	return text
}
