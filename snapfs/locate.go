package snapfs

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/rowan-storage/rowan/snapfs/partition"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// MaxLocated is how many files of each range Locate names.
const MaxLocated = 16

// Located is what a range of a snapshot's image belongs to.
type Located struct {
	// Files, at most MaxLocated, and how many more there are.
	Files     []LocatedFile
	MoreFiles int
	// Structures are of filesystems or the disk: "inode table of fs".
	Structures []string
	// Free names the areas of which the range holds free space: filesystems
	// where nothing else was found and the search was complete.
	Free []string
	// Notes are sentences that say why something may be missing.
	Notes []string
}

// LocatedFile is a file that a range holds a part of.
type LocatedFile struct {
	// Path is from the snapshot's directory on, "/fs/etc/fstab". Where no name
	// was found it is that of the area, and Ino says which file it is.
	Path string
	Ino  tree.Ino // in its filesystem
	// Named tells whether Path is that of the file.
	Named     bool
	Directory bool   // where that can be told
	Part      string // tree.Content and so on
}

// Locate tells which files parts of a snapshot's image belong to, or what else
// lies there: the range with index i of the answer is that of ranges. It does so
// also where these cannot be read. When ctx is done it tells what it found until
// then, and a note says so. The error is that the snapshot, or what says where
// its partitions are, cannot be read.
func (r *Root) Locate(ctx context.Context, lun, snapshot string, ranges []tree.Range) ([]Located, error) {
	ino, err := r.Walk(ctx, RootIno, lun+"/"+snapshot, false)
	if err != nil {
		return nil, err
	}
	n, err := r.node(ino)
	if err != nil {
		return nil, err
	}
	s, ok := n.(*snapshotDir)
	if !ok {
		return nil, notFound(snapshot)
	}
	l, err := s.layout(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.im.pin(ctx); err != nil {
		return nil, err
	}
	defer s.im.unpin()
	out := make([]Located, len(ranges))
	for i, w := range ranges {
		l.outside(s.im.sizeBytes, w, &out[i])
	}
	for _, a := range l.areas {
		a.locate(ctx, ranges, out)
	}
	return out, nil
}

// outside tells of what of a range lies in no area.
func (l *layout) outside(sizeBytes int64, w tree.Range, out *Located) {
	if l.table == nil {
		return
	}
	sector := int64(l.table.SectorBytes)
	head, tail := sector, int64(0)
	if l.table.Scheme == partition.GPT {
		head, tail = 34*sector, 33*sector
	}
	if overlap(w, 0, head) || overlap(w, sizeBytes-tail, tail) {
		out.add("partition table")
	}
	inside := int64(0)
	for _, a := range l.areas {
		if part := clip(w, a.off, a.sizeBytes); part.LengthBytes > 0 {
			inside += part.LengthBytes
		}
	}
	if inside < w.LengthBytes && len(out.Structures) == 0 {
		out.add("space outside of all partitions")
	}
}

func overlap(w tree.Range, off, n int64) bool { return clip(w, off, n).LengthBytes > 0 }

// clip is the part of a range in the n bytes from off on, from their beginning
// on. It has no length if there is none.
func clip(w tree.Range, off, n int64) tree.Range {
	start, end := max(w.OffsetBytes, off), min(w.OffsetBytes+w.LengthBytes, off+n)
	return tree.Range{OffsetBytes: start - off, LengthBytes: max(0, end-start)}
}

func (l *Located) add(structure string) {
	if !slices.Contains(l.Structures, structure) && len(l.Structures) < MaxLocated {
		l.Structures = append(l.Structures, structure)
	}
}

// locate tells of what of the ranges lies in the area.
func (a *area) locate(ctx context.Context, ranges []tree.Range, out []Located) {
	s := &search{area: a}
	for i, w := range ranges {
		if part := clip(w, a.off, a.sizeBytes); part.LengthBytes > 0 {
			s.ranges = append(s.ranges, part)
			s.out = append(s.out, &out[i])
		}
	}
	if len(s.ranges) == 0 {
		return
	}
	s.found, s.more = make([][]tree.Owner, len(s.ranges)), make([]map[tree.Ino]bool, len(s.ranges))
	v, why, err := a.volume(ctx)
	switch {
	case ctx.Err() != nil:
		note(s.out, notFurther)
	case err != nil:
		note(s.out, fmt.Sprintf("%s: its files cannot be told, since it cannot be opened: %v.", a.name, reason(err)))
	case v == nil:
		note(s.out, a.name+": "+why)
	default:
		s.run(ctx, v)
	}
}

const notFurther = "Not searched further: the time was over."

// reason is what a reader says of an error, without what everybody knows.
func reason(err error) string {
	var e *Error
	if errors.As(err, &e) && e.Cause != nil {
		err = e.Cause
	}
	return strings.TrimPrefix(err.Error(), "ext4: ")
}

// search looks for the owners of ranges of one area.
type search struct {
	area   *area
	ranges []tree.Range
	// Of each of ranges:
	out   []*Located
	found [][]tree.Owner      // files
	more  []map[tree.Ino]bool // the last that were found beyond those
}

// maxMore is of how many files beyond those it names a range remembers that it
// has counted them.
const maxMore = 1024

func note(to []*Located, text string) {
	for _, l := range to {
		if !slices.Contains(l.Notes, text) {
			l.Notes = append(l.Notes, text)
		}
	}
}

func (s *search) run(ctx context.Context, v *volume) {
	locator, ok := v.fs.(tree.Locator)
	if !ok {
		note(s.out, fmt.Sprintf("%s: its reader cannot tell which files lie where.", s.area.name))
		return
	}
	own := make([]int, len(s.ranges)) // how many structures there were before
	for i, l := range s.out {
		own[i] = len(l.Structures)
	}
	_, err := guard(v, func() (struct{}, error) {
		return struct{}{}, locator.Locate(ctx, s.ranges, s.take)
	})
	if err != nil {
		s.incomplete(ctx, err, "other files may be affected", s.out)
	}
	for i, l := range s.out {
		if err == nil && len(s.found[i]) == 0 && len(l.Structures) == own[i] {
			l.Free = append(l.Free, s.area.name)
		}
	}
	s.name(ctx, v)
}

// incomplete notes why not everything was found.
func (s *search) incomplete(ctx context.Context, err error, so string, to []*Located) {
	if ctx.Err() != nil {
		note(to, notFurther)
		return
	}
	note(to, fmt.Sprintf("%s: %s, since not all of it can be read: %v.", s.area.name, so, reason(err)))
}

// take notes one owner.
func (s *search) take(i int, o tree.Owner) {
	l := s.out[i]
	if o.Ino == 0 {
		l.add(o.Part + " of " + s.area.name)
		return
	}
	if slices.ContainsFunc(s.found[i], func(have tree.Owner) bool { return have.Ino == o.Ino }) {
		return
	}
	if len(s.found[i]) < MaxLocated {
		s.found[i] = append(s.found[i], o)
	} else if !s.more[i][o.Ino] {
		if s.more[i] == nil || len(s.more[i]) >= maxMore {
			s.more[i] = map[tree.Ino]bool{}
		}
		s.more[i][o.Ino] = true
		l.MoreFiles++
	}
}

// name finds names for the files that were found.
func (s *search) name(ctx context.Context, v *volume) {
	names := map[tree.Ino]string{}
	for _, owners := range s.found {
		for _, o := range owners {
			names[o.Ino] = ""
		}
	}
	err := findNames(ctx, v, names)
	var unnamed []*Located
	for i, owners := range s.found {
		for _, o := range owners {
			name := names[o.Ino]
			attr, _ := guard(v, func() (tree.Attr, error) { return v.fs.Stat(o.Ino) }) // it may be what is damaged
			s.out[i].Files = append(s.out[i].Files, LocatedFile{
				Path: path.Join("/", s.area.name, name), Ino: o.Ino, Named: name != "",
				Directory: attr.Type == tree.Directory, Part: o.Part,
			})
		}
		if slices.ContainsFunc(s.out[i].Files, func(f LocatedFile) bool { return !f.Named }) {
			unnamed = append(unnamed, s.out[i])
		}
	}
	if err != nil {
		s.incomplete(ctx, err, "names are missing", unnamed)
	}
}
