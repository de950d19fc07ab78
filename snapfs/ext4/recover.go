package ext4

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/rowan-storage/rowan/snapfs/ext4/jbd2"
)

// fastCommits is where in the journal fast commits may be.
type fastCommits struct {
	file     *journalFile
	first, n uint32   // blocks of the journal
	next     jbd2.TID // what they have to follow
}

// recoverJournal lays over the image what a recovery would write, and reads the
// superblock again, which is usually among it. What it returns, if anything, is
// to be applied on top.
func (f *FS) recoverJournal(ctx context.Context) (*fastCommits, error) {
	sb := f.sb
	if sb.compat&compatHasJournal == 0 || sb.incompat&incompatRecover == 0 {
		return nil, nil
	}
	if sb.journalIno == 0 {
		return nil, unsupportedf("the journal is on another device and has to be replayed: " +
			"mount the filesystem, or run e2fsck, on a clone together with its journal")
	}
	fc, err := f.replayJournal(ctx)
	switch {
	case errors.Is(err, jbd2.ErrUnsupported):
		return nil, unsupportedf("the journal has to be replayed, and cannot be: %v", err)
	case errors.Is(err, jbd2.ErrCorrupt) || errors.Is(err, ErrCorrupt):
		f.note("The journal is damaged and was not applied (%v). The filesystem was in use when the image "+
			"was taken: what was changed last may be missing or inconsistent.", err)
		return nil, nil
	}
	return fc, err
}

func (f *FS) replayJournal(ctx context.Context) (*fastCommits, error) {
	file, err := f.journalFile()
	if err != nil {
		return nil, err
	}
	j, err := jbd2.Open(file, int(f.sb.blockSize), file.blocks)
	if err != nil {
		return nil, err
	}
	if errno := j.Errno(); errno != 0 {
		f.note("The journal was given up by the kernel because of error %d: the filesystem should be checked with e2fsck.", errno)
	}
	if j.Clean() {
		return nil, nil
	}
	rec, err := j.Recover(ctx, uint64(f.image.sizeBytes/f.sb.blockSize))
	if err != nil {
		return nil, err
	}
	if err := f.layOver(file.overlay(rec.Blocks)); err != nil {
		return nil, err
	}
	if rec.Damage != nil {
		f.note("The journal is damaged and was applied in part, %s (%v): what was changed last is missing.",
			count(rec.Transactions, "transaction"), rec.Damage)
		return nil, nil
	}
	f.note("The filesystem was in use when the image was taken; its journal was applied in memory: %s.",
		count(rec.Transactions, "transaction"))
	first, n := j.FastCommits()
	return &fastCommits{file, first, n, rec.Next}, nil
}

// layOver lays o over the image, and takes over the superblock that comes of it.
// With an error nothing has changed.
func (f *FS) layOver(o overlay) error {
	f.image.overlay = o
	sb, err := f.readSuperblock()
	switch {
	case errors.Is(err, ErrNotExt4):
		err = corruptSuperblock("the journal overwrites it with something else")
	case err == nil && sb.geometry() != f.sb.geometry():
		// The overlay counts in blocks of the geometry that there was.
		err = corruptSuperblock("the journal changes the geometry from %+v to %+v", f.sb.geometry(), sb.geometry())
	}
	if err != nil {
		f.image.overlay = nil
		return err
	}
	f.sb = sb
	f.dropCaches()
	return nil
}

// journalFile is the journal as it is in the image.
type journalFile struct {
	image  *image
	runs   []placedRun
	blocks uint32
}

var _ io.ReaderAt = (*journalFile)(nil)

// journalFile finds the journal. It has no holes.
func (f *FS) journalFile() (*journalFile, error) {
	in, err := f.inode(f.sb.journalIno)
	if err != nil {
		return nil, err
	}
	if in.typ() != modeRegular || in.links == 0 || in.has(flagInlineData) {
		return nil, in.corrupt("is not a journal")
	}
	end := fileBlock(in.size / f.sb.blockSize)
	if end > jbd2.MaxBlocks {
		return nil, in.corrupt("journal of %d blocks", end)
	}
	m, err := f.blockMap(in)
	if err != nil {
		return nil, err
	}
	runs, err := layOut(in, m, end)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(runs, func(r placedRun) bool { return r.start == 0 }); i >= 0 {
		return nil, in.corrupt("block %d of the journal is missing", runs[i].at)
	}
	return &journalFile{&f.image, runs, uint32(end)}, nil
}

// locate finds where block b of the journal is, and how many follow it there.
func (j *journalFile) locate(b fileBlock) run {
	i, found := slices.BinarySearchFunc(j.runs, b, func(r placedRun, b fileBlock) int { return cmp.Compare(r.at, b) })
	if !found {
		i--
	}
	r := j.runs[i]
	into := uint64(b - r.at)
	return run{r.start + fsBlock(into), r.count - into}
}

// ReadAt reads the journal without any overlay.
func (j *journalFile) ReadAt(p []byte, off int64) (int, error) {
	bs := j.image.blockSize
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at < 0 || at/bs >= int64(j.blocks) {
			return done, fmt.Errorf("ext4: reading the journal at byte %d: %w", at, io.ErrUnexpectedEOF)
		}
		r := j.locate(fileBlock(at / bs))
		n := min(int64(len(p)-done), clampMul(r.count, bs)-at%bs)
		if err := j.image.readRaw(p[done:done+int(n)], int64(r.start)*bs+at%bs); err != nil {
			return done, err
		}
		done += int(n)
	}
	return done, nil
}

// overlay turns blocks of the journal into places in the image.
func (j *journalFile) overlay(blocks []jbd2.Block) overlay {
	o := make(overlay, len(blocks))
	for i, b := range blocks {
		o[i] = newOverlayBlock(fsBlock(b.Target), j.locate(fileBlock(b.Source)).start, b.Escaped)
	}
	return o
}
