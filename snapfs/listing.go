package snapfs

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rowan-storage/rowan/snapfs/tree"
)

// latestName is the symbolic link to the newest snapshot of a LUN. A snapshot
// of that name takes its place.
const latestName = "latest"

// rootDir is the directory of the LUNs.
type rootDir struct{ root *Root }

// lunDir is the directory of the snapshots of a LUN.
type lunDir struct {
	root *Root
	id   tree.Ino
	name string

	// Guarded by root.mu.
	snapshots []*snapshotDir // oldest first
	latest    *latestLink    // nil if there are no snapshots
	listed    time.Time      // when snapshots was read
}

// latestLink is the link to the newest snapshot. For another target there is
// another link with another number, so that a kept target is never wrong.
type latestLink struct {
	root   *Root
	id     tree.Ino
	target string
	made   time.Time
}

func (d *rootDir) attr(context.Context) (tree.Attr, error) {
	return d.root.madeAttr(RootIno, tree.Directory, 0), nil
}

func (d *rootDir) readDir(ctx context.Context) ([]tree.DirEntry, error) {
	if err := d.root.listLUNs(ctx); err != nil {
		return nil, err
	}
	d.root.mu.Lock()
	defer d.root.mu.Unlock()
	entries := make([]tree.DirEntry, 0, len(d.root.luns))
	for name, l := range d.root.luns {
		entries = append(entries, tree.DirEntry{Name: name, Ino: l.id, Type: tree.Directory})
	}
	slices.SortFunc(entries, func(a, b tree.DirEntry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

func (d *rootDir) lookup(ctx context.Context, name string) (tree.Ino, error) {
	if err := d.root.listLUNs(ctx); err != nil {
		return 0, err
	}
	d.root.mu.Lock()
	defer d.root.mu.Unlock()
	if l := d.root.luns[name]; l != nil {
		return l.id, nil
	}
	return 0, notFound(name)
}

// listLUNs reads the list of LUNs, unless that was done just now.
func (r *Root) listLUNs(ctx context.Context) error {
	r.mu.Lock()
	fresh := time.Since(r.listed) < r.opts.ListingAge
	r.mu.Unlock()
	if fresh {
		return nil
	}
	return share(ctx, &r.flight, "luns", func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.opts.SourceTimeout)
		defer cancel()
		names, err := r.src.LUNs(ctx)
		if err != nil {
			return &Error{Object: "the list of LUNs", Class: ErrUnreachable, Cause: err}
		}
		r.setLUNs(names)
		return nil
	})
}

// setLUNs makes names the list of LUNs: those that were known stay.
func (r *Root) setLUNs(names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.luns
	r.luns = make(map[string]*lunDir, len(names))
	for _, name := range names {
		if !fileName(name) {
			r.log.Warn("a LUN has no name for a directory", "lun", name)
			continue
		}
		l := known[name]
		if l == nil {
			l = &lunDir{root: r, name: name}
			l.id = r.add(l)
		}
		r.luns[name] = l
		delete(known, name)
	}
	for _, l := range known {
		l.drop()
	}
	r.listed = time.Now()
}

// drop forgets a LUN that is gone. The caller holds root.mu.
func (d *lunDir) drop() {
	for _, s := range d.snapshots {
		s.drop()
	}
	if d.latest != nil {
		delete(d.root.nodes, d.latest.id)
	}
	d.snapshots, d.latest = nil, nil
	delete(d.root.nodes, d.id)
}

func (d *lunDir) attr(context.Context) (tree.Attr, error) {
	a := d.root.madeAttr(d.id, tree.Directory, 0)
	d.root.mu.Lock()
	defer d.root.mu.Unlock()
	if n := len(d.snapshots); n > 0 {
		a.Mtime = d.snapshots[n-1].meta.Created
		a.Ctime = a.Mtime
	}
	return a, nil
}

func (d *lunDir) readDir(ctx context.Context) ([]tree.DirEntry, error) {
	if err := d.list(ctx); err != nil {
		return nil, err
	}
	d.root.mu.Lock()
	defer d.root.mu.Unlock()
	entries := make([]tree.DirEntry, 0, len(d.snapshots)+1)
	for _, s := range d.snapshots {
		entries = append(entries, tree.DirEntry{Name: s.meta.Name, Ino: s.id, Type: tree.Directory})
	}
	if d.latest != nil {
		entries = append(entries, tree.DirEntry{Name: latestName, Ino: d.latest.id, Type: tree.Symlink})
	}
	return entries, nil
}

func (d *lunDir) lookup(ctx context.Context, name string) (tree.Ino, error) {
	if err := d.list(ctx); err != nil {
		return 0, err
	}
	d.root.mu.Lock()
	defer d.root.mu.Unlock()
	for _, s := range d.snapshots {
		if s.meta.Name == name {
			return s.id, nil
		}
	}
	if name == latestName && d.latest != nil {
		return d.latest.id, nil
	}
	return 0, notFound(name)
}

// list reads the list of snapshots, unless that was done just now.
func (d *lunDir) list(ctx context.Context) error {
	d.root.mu.Lock()
	fresh := time.Since(d.listed) < d.root.opts.ListingAge
	d.root.mu.Unlock()
	if fresh {
		return nil
	}
	return share(ctx, &d.root.flight, "snapshots of "+d.name, func() error {
		_, err := d.refresh(ctx)
		return err
	})
}

// refresh reads the list of snapshots now.
func (d *lunDir) refresh(ctx context.Context) ([]Snapshot, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.root.opts.SourceTimeout)
	defer cancel()
	list, err := d.root.src.Snapshots(ctx, d.name)
	if err != nil {
		class := ErrUnreachable
		if Errno(err) == syscall.ENOENT {
			class = ErrGone
		}
		return nil, &Error{Object: "the snapshots of " + d.name, Class: class, Cause: err}
	}
	d.setSnapshots(list)
	return list, nil
}

// setSnapshots makes list the list of snapshots: those that were known by their
// ID stay, also under another name.
func (d *lunDir) setSnapshots(list []Snapshot) {
	r := d.root
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.nodes[d.id] != d {
		return // dropped meanwhile
	}
	known := map[uint64]*snapshotDir{}
	for _, s := range d.snapshots {
		known[s.meta.ID] = s
	}
	d.snapshots = nil
	names := map[string]bool{}
	for _, meta := range list {
		if !fileName(meta.Name) || names[meta.Name] || meta.SizeBytes < 0 {
			r.log.Warn("a snapshot cannot be shown", "lun", d.name, "snapshot", meta.Name)
			continue
		}
		names[meta.Name] = true
		s := known[meta.ID]
		if s != nil && s.meta.SizeBytes != meta.SizeBytes {
			s = nil
		}
		if s == nil {
			s = d.newSnapshot(meta)
		} else {
			delete(known, meta.ID)
		}
		s.describe(meta)
		d.snapshots = append(d.snapshots, s)
	}
	for _, s := range known {
		s.drop()
	}
	d.setLatest(names[latestName])
	d.listed = time.Now()
}

// setLatest points the link to the newest snapshot. The caller holds root.mu.
func (d *lunDir) setLatest(taken bool) {
	r := d.root
	target := ""
	if n := len(d.snapshots); n > 0 && !taken {
		target = d.snapshots[n-1].meta.Name
	}
	if d.latest != nil && d.latest.target == target {
		return
	}
	if d.latest != nil {
		delete(r.nodes, d.latest.id)
		d.latest = nil
	}
	if target != "" {
		d.latest = &latestLink{root: r, target: target, made: d.snapshots[len(d.snapshots)-1].meta.Created}
		d.latest.id = r.add(d.latest)
	}
}

func (l *latestLink) attr(context.Context) (tree.Attr, error) {
	a := l.root.madeAttr(l.id, tree.Symlink, int64(len(l.target)))
	a.Mtime, a.Ctime = l.made, l.made
	return a, nil
}

func (l *latestLink) readlink(context.Context) (string, error) { return l.target, nil }

// metaKey tells two descriptions of a snapshot apart.
func metaKey(meta Snapshot) string {
	b, err := json.Marshal(meta)
	if err != nil {
		return fmt.Sprintf("%+v", meta)
	}
	return string(b)
}

// fileName tells whether a name can be that of a file.
func fileName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= 255 && !strings.ContainsAny(name, "/\x00")
}

func notFound(name string) error {
	return &fs.PathError{Op: "lookup", Path: name, Err: syscall.ENOENT}
}
