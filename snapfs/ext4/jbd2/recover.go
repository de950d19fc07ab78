package jbd2

import (
	"cmp"
	"context"
	"fmt"
	"slices"
)

// A Block is one block that recovery would write.
type Block struct {
	Target  uint64 // block of the filesystem
	Source  uint32 // block of the journal that holds its content
	Escaped bool   // its first four bytes are to be c0 3b 39 98
}

// A Recovery is the outcome of reading a log.
type Recovery struct {
	// Blocks, in the order of Target, each of which occurs once.
	Blocks []Block
	// Transactions is how many were found complete, and are in Blocks.
	Transactions int
	// Next is the number of the transaction that would have come next.
	Next TID
	// Damage wraps ErrCorrupt and says why the recovery ended before the log
	// did; nil if it came to the end.
	Damage error
}

// Recover reads the log. limit is the number of blocks of the device that the
// filesystem is on: a log that writes beyond it is damaged. An error means that
// the journal could not be read, that the log is longer than any is
// ([ErrUnsupported]), or that ctx was done; damage is no error but is told in the
// result.
func (j *Journal) Recover(ctx context.Context, limit uint64) (*Recovery, error) {
	if j.Clean() {
		return &Recovery{Next: j.sequence}, nil
	}
	s := newScan(j)
	if err := s.run(ctx); err != nil {
		return nil, err
	}
	rec := &Recovery{Next: s.tid, Damage: s.damage}
	if i := slices.IndexFunc(s.records, func(r record) bool { return r.target >= limit }); i >= 0 {
		r := s.records[i]
		s.cut(rec, r.tid, corruptf("transaction %d: block %d is beyond the end of the device", r.tid, r.target))
	}
	if err := j.replay(ctx, s, rec); err != nil {
		return nil, err
	}
	rec.Transactions = int(rec.Next - j.sequence)
	return rec, nil
}

// cut ends the recovery before transaction tid.
func (s *scan) cut(rec *Recovery, tid TID, why error) {
	rec.Next, rec.Damage = tid, why
	if i := slices.IndexFunc(s.records, func(r record) bool { return !tid.After(r.tid) }); i >= 0 {
		s.records = s.records[:i]
	}
	if i := slices.IndexFunc(s.revokes, func(r revokeBlock) bool { return !tid.After(r.tid) }); i >= 0 {
		s.revokes = s.revokes[:i]
	}
}

// replay turns the records of s into the blocks of rec.
//
// A block with a wrong checksum does not matter once it is revoked. If one is
// left that does, the recovery ends before the first transaction with any such
// block.
func (j *Journal) replay(ctx context.Context, s *scan, rec *Recovery) error {
	firstBad := slices.IndexFunc(s.records, func(r record) bool { return r.bad })
	var bad record
	if firstBad >= 0 {
		bad = s.records[firstBad]
	}
	blocks, sound, err := j.apply(ctx, s)
	if err != nil {
		return err
	}
	if !sound {
		s.cut(rec, bad.tid, corruptf("transaction %d: block %d of the journal, for block %d: wrong checksum",
			bad.tid, bad.source, bad.target))
		if blocks, _, err = j.apply(ctx, s); err != nil {
			return err
		}
	}
	rec.Blocks = blocks
	return nil
}

// apply works out what is left to be written once everything revoked is taken
// away. It is not sound if a block with a wrong checksum is left, be it one
// that a later transaction writes again.
func (j *Journal) apply(ctx context.Context, s *scan) (blocks []Block, sound bool, err error) {
	records := slices.Clone(s.records)
	slices.SortStableFunc(records, func(a, b record) int { return cmp.Compare(a.target, b.target) })
	revoked, err := j.revocations(ctx, s, records)
	if err != nil {
		return nil, false, err
	}
	sound = true
	for i := 0; i < len(records); {
		last := -1
		target := records[i].target
		tid, isRevoked := revoked[target]
		for ; i < len(records) && records[i].target == target; i++ {
			if isRevoked && !records[i].tid.After(tid) {
				continue
			}
			last = i
			sound = sound && !records[i].bad
		}
		if last >= 0 {
			blocks = append(blocks, Block{target, records[last].source, records[last].escaped})
		}
	}
	return blocks, sound, nil
}

// revocations gives the last transaction that revokes a block, for the blocks
// that records, sorted by target, would write.
func (j *Journal) revocations(ctx context.Context, s *scan, records []record) (map[uint64]TID, error) {
	revoked := make(map[uint64]TID)
	block := make([]byte, j.blockSize)
	for _, rb := range s.revokes {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("jbd2: reading the log: %w", err)
		}
		if err := j.readBlocks(block, rb.block); err != nil {
			return nil, err
		}
		targets, err := j.revoked(block)
		if err != nil {
			return nil, fmt.Errorf("transaction %d: %w", rb.tid, err)
		}
		for _, target := range targets {
			_, found := slices.BinarySearchFunc(records, target, func(r record, t uint64) int {
				return cmp.Compare(r.target, t)
			})
			if last, seen := revoked[target]; found && (!seen || rb.tid.After(last)) {
				revoked[target] = rb.tid
			}
		}
	}
	return revoked, nil
}
