package ext4

import (
	"errors"

	"github.com/rowan-storage/rowan/snapfs/ext4/crc32c"
)

// With the feature fast_commit, an fsync(2) may write to a part of the journal
// that is set aside for it, instead of committing a transaction. What is there
// counts if it follows the last transaction in the log. It is a row of tags,
// little endian, struct ext4_fc_tl,
//
//	0x0  fc_tag  2 bytes
//	0x2  fc_len  2 bytes: length of the value that follows
//
// none of which crosses the end of a block. The values are
//
//	HEAD       fc_features, fc_tid: number of the transaction that comes next
//	INODE      fc_ino, then the inode, at least its first 128 bytes
//	ADD_RANGE  fc_ino, then an extent of 12 bytes
//	DEL_RANGE  fc_ino, fc_lblk, fc_len: blocks of the file
//	CREAT, LINK, UNLINK
//	           fc_parent_ino, fc_ino, then the name
//	PAD        nothing, up to the end of the block
//	TAIL       fc_tid, fc_crc: CRC-32C, from 0, of all since the last TAIL; then
//	           nothing, up to the end of the block
//
// A HEAD starts the row and a TAIL ends each commit in it. A commit without a
// TAIL that holds was cut off by the crash.
const (
	fcAddRange = 1
	fcDelRange = 2
	fcCreate   = 3
	fcLink     = 4
	fcUnlink   = 5
	fcInode    = 6
	fcPad      = 7
	fcTail     = 8
	fcHead     = 9

	fcTagSize    = 4
	fcDentrySize = 8
)

// fcTag is a decoded tag.
type fcTag struct {
	typ   uint16
	value []byte
	raw   []byte // with its header
}

// nextFCTag decodes the tag at the start of b, the rest of a block.
func nextFCTag(b []byte) (t fcTag, ok bool) {
	if len(b) < fcTagSize {
		return fcTag{}, false
	}
	end := fcTagSize + int(le16(b[2:]))
	if end > len(b) {
		return fcTag{}, false
	}
	return fcTag{le16(b), b[fcTagSize:end], b[:end]}, true
}

// validLen says whether the value of a tag can be as long as it is.
func (t fcTag) validLen(inodeSize int64) bool {
	n := len(t.value)
	switch t.typ {
	case fcAddRange:
		return n == 4+extentEntrySize
	case fcDelRange:
		return n == 12
	case fcCreate, fcLink, fcUnlink:
		return n > fcDentrySize && n <= fcDentrySize+255
	case fcInode:
		return n >= 4+oldInodeSize && n <= 4+int(inodeSize)
	case fcTail, fcHead:
		return n >= 8
	}
	return t.typ == fcPad
}

// replayFastCommits makes patches of the fast commits.
func (f *FS) replayFastCommits(fc *fastCommits) error {
	blocks, err := f.readFastCommits(fc)
	if err != nil {
		return err
	}
	return f.applyFastCommits(blocks)
}

// applyFastCommits makes patches of complete fast commits. Where they are
// damaged, or ask for more than a filesystem in use would, they end.
func (f *FS) applyFastCommits(blocks [][]byte) error {
	f.patches = make(map[uint32]*patch)
	r := newFCReplay(f)
	defer r.settle()
	for i, b := range blocks {
		err := r.block(b)
		if errors.Is(err, ErrCorrupt) {
			f.note("The journal's fast commits are damaged and were applied in part (block %d: %v): "+
				"what was changed last may be missing or inconsistent.", i, err)
			return nil
		}
		if err != nil {
			return err
		}
	}
	if r.commits > 0 {
		f.note("On top of that, what fsync wrote since the last transaction was applied: %s.", count(r.commits, "fast commit"))
	}
	return nil
}

// readFastCommits reads the blocks of all commits that are complete.
func (f *FS) readFastCommits(fc *fastCommits) ([][]byte, error) {
	bs := f.sb.blockSize
	s := fcScan{next: uint32(fc.next), inodeSize: f.sb.inodeSize}
	var blocks [][]byte
	complete := 0
	for i := range fc.n {
		if int64(i)*bs >= maxFastCommitBytes {
			return nil, unsupportedf("more than %d bytes of fast commits", maxFastCommitBytes)
		}
		b := make([]byte, bs)
		if _, err := fc.file.ReadAt(b, int64(fc.first+i)*bs); err != nil {
			return nil, err
		}
		tail, more, err := s.block(b, i == 0)
		if err != nil {
			return nil, err
		}
		blocks = append(blocks, b)
		if tail {
			complete = len(blocks)
		}
		if !more {
			break
		}
	}
	return blocks[:complete], nil
}

// fcScan looks for the end of the fast commits.
type fcScan struct {
	next      uint32
	inodeSize int64
	crc       uint32
}

// block goes over one block. tail says that it ends a complete commit, more
// that the next block may belong to the commits as well.
func (s *fcScan) block(b []byte, first bool) (tail, more bool, err error) {
	if t, ok := nextFCTag(b); first && (!ok || t.typ != fcHead) {
		return false, false, nil
	}
	for len(b) >= fcTagSize {
		t, ok := nextFCTag(b)
		if !ok || !t.validLen(s.inodeSize) {
			return false, false, nil
		}
		switch t.typ {
		case fcHead:
			if features := le32(t.value); features != 0 {
				return false, false, unsupportedf("fast commits with features %#x", features)
			}
			if le32(t.value[4:]) != s.next {
				return false, false, nil
			}
		case fcTail:
			crc := crc32c.Update(s.crc, t.raw[:fcTagSize+4])
			s.crc = 0
			ok := le32(t.value) == s.next && le32(t.value[4:]) == crc
			return ok, ok, nil
		}
		s.crc = crc32c.Update(s.crc, t.raw)
		b = b[len(t.raw):]
	}
	return false, true, nil
}
