package blockdev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"unsafe"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// scrubRun reads layers for a scrub, past the page cache where that is
// possible: what is wanted is what the disk holds.
type scrubRun struct {
	p    *Pool
	pace pace
	buf  []byte // aligned to a block
	// read is told after each leaf; nil for nobody.
	read func(r scrubRecord)

	// file is the segment that was last read.
	key  segmentKey
	file blockfile.File
}

func newScrubRun(p *Pool) *scrubRun {
	r := &scrubRun{p: p, buf: alignedBlocks(sumRead)}
	r.pace.bytesPerSecond = p.backgroundRate
	return r
}

// alignedBlocks returns n bytes that begin at a multiple of BlockSize.
func alignedBlocks(n int) []byte {
	b := make([]byte, n+BlockSize)
	skip := (BlockSize - int(uintptr(unsafe.Pointer(&b[0]))%BlockSize)) % BlockSize
	return b[skip : skip+n]
}

func (r *scrubRun) close() {
	if r.file != nil {
		r.file.Close()
		r.file = nil
	}
}

// layer reads a layer from the leaf on that the record names. The error is that
// of ctx.
func (r *scrubRun) layer(ctx context.Context, id uint32) error {
	p := r.p
	defer r.close()
	pr, err := openPresence(p.fs, id)
	if err != nil {
		p.findFile(id, presenceName(id), err)
		return ctx.Err()
	}
	defer pr.close()
	sr, err := openSums(p.fs, id)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.findFile(id, sumsName(id), err)
	}
	if err == nil {
		defer sr.close()
	}
	from := p.scrubbing.edit(func(*scrubRecord) {}).Leaf
	var vals [leafBlocks]place
	for n := range int(pr.header.indexCount) {
		index, err := pr.leaf(n, &vals)
		if err != nil {
			p.findFile(id, presenceName(id), err)
			return ctx.Err()
		}
		if index < from {
			continue
		}
		if p.cat.layer(id) == nil {
			return ctx.Err() // what is left of it is read where it went
		}
		sums := noSums
		if sr != nil {
			l, err := sr.find(index)
			if err != nil {
				p.findFile(id, sumsName(id), err)
			} else if l != nil {
				sums = l
			}
		}
		if err := r.leaf(ctx, id, index, &vals, sums); err != nil {
			return err
		}
		record := p.scrubbing.edit(func(s *scrubRecord) { s.Leaf = index + 1 })
		if r.read != nil {
			r.read(record)
		}
	}
	return ctx.Err()
}

// leaf reads the data blocks of a leaf. The error is that of ctx.
func (r *scrubRun) leaf(ctx context.Context, id uint32, index uint64, vals *[leafBlocks]place, sums *sumLeaf) error {
	var read, unsummed int64
	var bad []badBlock
	for i := 0; i < leafBlocks; {
		j := i + 1
		if vals[i].isData() {
			for j < leafBlocks && vals[j] == vals[i] && (j-i)*BlockSize < len(r.buf) {
				j++
			}
			b := r.buf[:(j-i)*BlockSize]
			if err := r.pace.wait(ctx, int64(len(b))); err != nil {
				return err
			}
			block := index*leafBlocks + uint64(i)
			bad = r.run(bad, vals[i], b, block, sums)
			read += int64(len(b))
			for k := i; k < j; k++ {
				if sums.places[k] != vals[k] {
					unsummed += BlockSize
				}
			}
		}
		i = j
	}
	r.p.findBlocks(id, bad)
	r.p.scrubbing.edit(func(s *scrubRecord) {
		s.DoneBytes += read
		s.UnsummedBytes += unsummed
		if unsummed > 0 && !slices.Contains(s.Unsummed, id) {
			s.Unsummed = append(s.Unsummed, id)
		}
	})
	return nil
}

// run reads blocks of a leaf that share a place, compares them with their sums,
// and adds to bad those that are not what they should be.
func (r *scrubRun) run(bad []badBlock, at place, b []byte, block uint64, sums *sumLeaf) []badBlock {
	err := r.blocks(at, b, block)
	if err != nil && len(b) > BlockSize { // find out which
		for i := 0; i < len(b); i += BlockSize {
			bad = r.run(bad, at, b[i:i+BlockSize], block+uint64(i/BlockSize), sums)
		}
		return bad
	}
	if err != nil {
		return append(bad, badBlock{at: at, block: block, what: err.Error()})
	}
	for len(b) > 0 {
		wrong, ok := errors.AsType[*badSum](sums.verify(at, b, block))
		if !ok {
			break
		}
		bad = append(bad, badBlock{at: at, block: wrong.block, what: "wrong checksum"})
		b, block = b[(wrong.block+1-block)*BlockSize:], wrong.block+1
	}
	return bad
}

// blocks reads blocks that share a place from the disk.
func (r *scrubRun) blocks(at place, b []byte, block uint64) error {
	p := r.p
	for len(b) > 0 {
		shardBlocks := uint64(p.shardBytes / BlockSize)
		n := min(int64(len(b)), int64(shardBlocks-block%shardBlocks)*BlockSize)
		if err := r.open(segmentKey{at.origin(), uint32(block / shardBlocks)}); err != nil {
			return err
		}
		off := int64(block%shardBlocks) * BlockSize
		k, err := r.file.ReadAt(b[:n], off)
		if int64(k) != n {
			if err == nil || errors.Is(err, io.EOF) {
				err = fmt.Errorf("the file ends before offset %d", off+n)
			}
			return err
		}
		b, block = b[n:], block+uint64(n/BlockSize)
	}
	return nil
}

// open makes a segment the one that is read.
func (r *scrubRun) open(key segmentKey) error {
	if r.file != nil && r.key == key {
		return nil
	}
	r.close()
	name := segmentName(key.origin, key.shard)
	var err error
	if d, ok := r.p.fs.(blockfile.DirectOpener); ok {
		r.file, err = d.OpenDirect(name)
	} else {
		r.file, err = r.p.fs.Open(name, os.O_RDONLY)
	}
	if err != nil {
		r.file = nil
	}
	r.key = key
	return err
}
