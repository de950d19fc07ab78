package blockdev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// What can be rebuilt, and from what:
//
//   - sums: from the data as it is, by the daemon, once the damaged file is gone;
//   - the presence map of an open layer whose journal goes back to the layer's
//     beginning: from the journal, once the damaged file is gone;
//   - the unused part of a header: it is zeros;
//   - what an operation left that was cut off: it is removed.
//
// All else would be guessing, and is refused.

// repair says what can be done about a finding in a layer's files.
func (c *checker) repair(f *PoolFinding) {
	p := c.p
	dir, base := path.Split(f.File)
	id, ok := parseID(path.Base(dir))
	r := p.cat.layer(id)
	if !ok || r == nil || path.Dir(path.Clean(dir)) != "layers" {
		f.Refused = "it cannot be rebuilt from anything else in the pool: put a copy of the pool in its place"
		return
	}
	used := int64(0)
	_, isJournal := parseJournalName(base)
	switch {
	case base == "sums":
		f.Repair = "the file is removed; the daemon makes sums anew, of the data as it is now"
		f.mend = func() error { return p.removeFile(f.File) }
		return
	case base == "presence":
		used = 100
	case isJournal:
		used = journalHeaderUsed
	}
	if f.OffsetBytes >= used && f.OffsetBytes < presenceHeaderSize && strings.HasPrefix(f.What, notZero) {
		f.Repair = "zeros are put there"
		f.mend = func() error { return p.zeroFile(f.File, used, presenceHeaderSize) }
		return
	}
	if base == "presence" && !r.Sealed && c.journalFromStart(r) {
		f.Repair = "the file is removed; the journal holds all that it held"
		f.mend = func() error { return p.removeFile(f.File) }
		return
	}
	f.Refused = fmt.Sprintf("it cannot be rebuilt from anything else in the pool: put a copy of the file in its place, or delete what stands on it (%s)", c.standing(id))
}

// journalFromStart tells whether the journal of an open layer is whole and goes
// back to the beginning of the layer.
func (c *checker) journalFromStart(r *layerRecord) bool {
	scan, err := scanJournal(c.p.fs, r.ID, 1, 1, c.p.bootID, false)
	return err == nil && scan.files[0].first == 1 && scan.apply(newExtentMap(), r.Blocks) == nil
}

// standing names what stands on a layer.
func (c *checker) standing(id uint32) string {
	snapshots, luns := c.p.standing(id)
	if len(snapshots)+len(luns) == 0 {
		return "nothing that has a name"
	}
	return strings.Join(append(snapshots, luns...), ", ")
}

func (p *Pool) removeFile(name string) error {
	if err := p.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return p.fs.SyncDir(path.Dir(name))
}

// zeroFile puts zeros into a part of a file.
func (p *Pool) zeroFile(name string, start, end int64) error {
	f, err := p.fs.Open(name, os.O_RDWR)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, end-start), start)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// leftovers finds the files and directories that nothing refers to.
func (c *checker) leftovers() ([]PoolFinding, error) {
	var out []PoolFinding
	for _, dir := range []string{"layers", "segments"} {
		names, err := c.p.fs.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			found, err := c.leftover(dir, n)
			if err != nil {
				return nil, err
			}
			out = append(out, found...)
		}
	}
	return out, nil
}

// leftover looks at one name below layers or segments.
func (c *checker) leftover(dir, name string) ([]PoolFinding, error) {
	p := c.p
	full := path.Join(dir, name)
	f := PoolFinding{File: full, OffsetBytes: -1, What: "nothing refers to it", Harmless: true}
	id, ok := parseID(name)
	if !ok {
		f.Refused = "it is none of the engine's files"
		return []PoolFinding{f}, nil
	}
	files, err := p.fs.ReadDir(full)
	if err != nil {
		return nil, err
	}
	known := p.cat.layers[id] != nil
	if dir == "segments" {
		_, known = c.owner[id]
		known = known || p.cat.reclaims[id] != nil
	}
	if !known {
		if dir == "segments" && len(files) > 0 {
			f.Refused = "it holds data, and the catalogue may be older than the pool"
			return []PoolFinding{f}, nil
		}
		f.Repair = "it is removed"
		f.mend = func() error { return removeDir(p.fs, full) }
		return []PoolFinding{f}, nil
	}
	var out []PoolFinding
	for _, n := range files {
		if !strings.HasSuffix(n, newSuffix) {
			continue
		}
		left := PoolFinding{File: path.Join(full, n), OffsetBytes: -1, What: "it was being written when the process ended", Harmless: true, Repair: "it is removed"}
		left.mend = func() error { return p.removeFile(left.File) }
		if due, err := c.dueSums(left.File, id); err != nil {
			return nil, err
		} else if due {
			left.Repair = "it takes the place of the sums before, as the next opening of the pool would see to"
			left.mend = func() error { return p.adoptSums(id) }
		}
		out = append(out, left)
	}
	return out, nil
}
