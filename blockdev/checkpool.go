package blockdev

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// CheckOptions says how far CheckPool goes.
type CheckOptions struct {
	// Repair mends what can be rebuilt: see PoolFinding.Repair.
	Repair bool
	// Progress is told now and then how much data was read; nil for nobody.
	Progress func(doneBytes, totalBytes int64)
}

// PoolFinding is something that CheckPool found.
type PoolFinding struct {
	File string `json:"file"` // relative to the pool, or what of it, such as "LUN web"
	// OffsetBytes is where in the file, -1 where there is no one place.
	OffsetBytes int64  `json:"offset_bytes"`
	What        string `json:"what"`
	// Snapshots show what is damaged, as lun@name.
	Snapshots []string `json:"snapshots,omitempty"`
	// Harmless: no damage, such as a file that was left over.
	Harmless bool `json:"harmless,omitempty"`
	// Repair says what repairing does about it, "" if it can do nothing, and
	// Refused why not.
	Repair   string `json:"repair,omitempty"`
	Refused  string `json:"refused,omitempty"`
	Repaired bool   `json:"repaired,omitempty"`

	mend func() error
}

// CheckPool verifies a pool that no process has open: every record and file of
// it, and all data that has sums. It changes nothing but what Repair asks for.
// The error says why it could not look; ErrInUse if a process has the pool
// open.
func CheckPool(ctx context.Context, dir string, o CheckOptions) ([]PoolFinding, error) {
	if _, err := os.Stat(path.Join(dir, poolFile)); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(path.Join(dir, catalogueFile)); err != nil {
			return nil, errorf(ErrNotFound, "pool "+dir, "the directory holds none")
		}
	}
	bootID, err := kernelBootID()
	if err != nil {
		return nil, err
	}
	fsys := blockfile.OS(dir)
	lock, err := lockPool(fsys, dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	found, err := inspect(ctx, fsys, bootID, o.Progress)
	if err != nil || !o.Repair {
		return found, err
	}
	for i := range found {
		f := &found[i]
		if f.mend == nil {
			continue
		}
		if err := f.mend(); err != nil {
			f.Refused = err.Error()
			continue
		}
		f.Repaired = true
	}
	return found, nil
}

// inspect looks at all of a pool. The lock is held.
func inspect(ctx context.Context, fsys blockfile.FS, bootID string, progress func(done, total int64)) ([]PoolFinding, error) {
	p := &Pool{
		fs: fsys, bootID: bootID, log: slog.New(slog.DiscardHandler),
		views: make(map[uint32]*view), sums: newSumsCache(), backgroundRate: -1,
	}
	err := p.readHeader()
	if errors.Is(err, fs.ErrNotExist) {
		err = errorf(ErrCorrupt, poolFile, "the file is missing")
	}
	if err != nil {
		return wholePool(err)
	}
	names, err := fsys.ReadDir(".")
	if err != nil {
		return nil, err
	}
	if !slices.Contains(names, catalogueFile) {
		return wholePool(errorf(ErrCorrupt, catalogueFile, "the file is missing"))
	}
	p.cat, err = openCatalogue(fsys)
	if err != nil {
		return wholePool(err)
	}
	defer p.cat.table.Close()
	c := newChecker(p)
	c.pool()
	out := c.classify()
	data, err := c.readAll(ctx, progress)
	if err != nil {
		return nil, err
	}
	out = append(out, data...)
	left, err := c.leftovers()
	if err != nil {
		return nil, err
	}
	return unique(append(out, left...)), nil
}

// wholePool makes the one finding of a pool that cannot be looked into.
func wholePool(err error) ([]PoolFinding, error) {
	if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrInvalid) {
		return nil, err
	}
	f := findingOf(err)
	f.File = path.Base(f.File)
	f.Refused = "the pool cannot be opened without it, and nothing else holds what it held: put a copy of the file in its place"
	return []PoolFinding{f}, nil
}

// unique drops findings that were made twice, and sorts them by file.
func unique(found []PoolFinding) []PoolFinding {
	slices.SortStableFunc(found, func(a, b PoolFinding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.OffsetBytes, b.OffsetBytes), cmp.Compare(a.What, b.What))
	})
	return slices.CompactFunc(found, func(a, b PoolFinding) bool {
		return a.File == b.File && a.OffsetBytes == b.OffsetBytes && a.What == b.What
	})
}

// findingOf takes an error of the engine apart.
func findingOf(err error) PoolFinding {
	f := PoolFinding{OffsetBytes: -1, What: err.Error()}
	if e, ok := errors.AsType[*Error](err); ok {
		f.File, f.What = e.Object, e.Detail
		if f.What == "" && e.Cause != nil {
			f.What = e.Cause.Error()
		} else if e.Cause != nil {
			f.What += ": " + e.Cause.Error()
		}
	}
	if rest, ok := strings.CutPrefix(f.What, "offset "); ok {
		number, what, ok := strings.Cut(rest, ": ")
		if n, err := strconv.ParseInt(number, 10, 64); ok && err == nil {
			f.OffsetBytes, f.What = n, what
		}
	}
	return f
}

// classify turns what was found into findings, with what can be done.
func (c *checker) classify() []PoolFinding {
	var out []PoolFinding
	for _, err := range c.errs {
		f := findingOf(err)
		c.repair(&f)
		out = append(out, f)
	}
	return out
}

// readAll reads the data of all sealed layers, as a scrub does.
func (c *checker) readAll(ctx context.Context, progress func(done, total int64)) ([]PoolFinding, error) {
	p := c.p
	p.scrubbing.record = scrubRecord{Limit: p.cat.pool.NextLayer}
	run := newScrubRun(p)
	defer run.close()
	ids := p.scrubLayers(&p.scrubbing.record)
	var total int64
	for _, id := range ids {
		if pr, err := openPresence(p.fs, id); err == nil { // else it was found
			total += int64(pr.header.dataBlocks) * BlockSize
			pr.close()
		}
	}
	run.read = func(r scrubRecord) {
		if progress != nil {
			progress(r.DoneBytes, total)
		}
	}
	for _, id := range ids {
		p.scrubbing.record.Leaf = 0
		if err := run.layer(ctx, id); err != nil {
			return nil, err
		}
	}
	var out []PoolFinding
	for _, s := range p.scrubbing.record.Findings {
		if s.LengthBytes == 0 {
			continue // the check of the files found it as well
		}
		f := PoolFinding{File: s.File, OffsetBytes: s.FileOffsetBytes, Snapshots: s.Snapshots}
		f.What = fmt.Sprintf("%s of %d bytes, which lie at offset %d of the LUN", s.What, s.LengthBytes, s.OffsetBytes)
		f.Refused = "there is no other copy: what is not needed any more goes with its snapshots, the rest can be read around it"
		out = append(out, f)
	}
	if n := p.scrubbing.record.MoreFindings; n > 0 {
		out = append(out, PoolFinding{File: "segments", OffsetBytes: -1, What: fmt.Sprintf("%d more blocks are damaged", n), Refused: "there is no other copy"})
	}
	return out, nil
}
