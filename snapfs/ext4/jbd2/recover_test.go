package jbd2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/rowan-storage/rowan/snapfs/ext4/crc32c"
)

// kinds are the formats of a log.
var kinds = []struct {
	name             string
	compat, incompat uint32
}{
	{"plain", 0, incompatRevoke},
	{"plain 64-bit", 0, incompatRevoke | incompat64Bit},
	{"v1", compatChecksum, incompatRevoke},
	{"v1 async 64-bit", compatChecksum, incompatRevoke | incompatAsyncCommit | incompat64Bit},
	{"v2", 0, incompatRevoke | incompatChecksumV2},
	{"v2 64-bit", 0, incompatRevoke | incompatChecksumV2 | incompat64Bit},
	{"v3", 0, incompatRevoke | incompatChecksumV3},
	{"v3 64-bit", 0, incompatRevoke | incompatChecksumV3 | incompat64Bit},
}

const testLimit = 1 << 40

func recoverJournal(t *testing.T, data []byte) *Recovery {
	t.Helper()
	j, err := Open(bytes.NewReader(data), 1024, uint32(len(data)/1024))
	if err != nil {
		t.Fatal(err)
	}
	rec, err := j.Recover(t.Context(), testLimit)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// contents gives what the recovery would write, by block.
func contents(data []byte, rec *Recovery) map[uint64][]byte {
	out := make(map[uint64][]byte)
	for _, b := range rec.Blocks {
		p := bytes.Clone(data[int(b.Source)*1024:][:1024])
		if b.Escaped {
			copy(p, []byte{0xc0, 0x3b, 0x39, 0x98})
		}
		out[b.Target] = p
	}
	return out
}

func equalContents(got, want map[uint64][]byte) error {
	for _, target := range slices.Sorted(maps.Keys(want)) {
		if !bytes.Equal(got[target], want[target]) {
			return fmt.Errorf("block %d: %x, expected %x", target, got[target][:min(16, len(got[target]))], want[target][:16])
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d blocks, expected %d", len(got), len(want))
	}
	return nil
}

// TestRecover builds random logs of every kind, which wrap around, and recovers
// them.
func TestRecover(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			for seed := range uint64(40) {
				rng := rand.New(rand.NewPCG(seed, 1))
				b := newBuilder(k.compat, k.incompat)
				b.pos = b.first + rng.Uint32N(b.end-b.first)
				start, tid := b.pos, b.tid
				want := make(map[uint64][]byte)
				n := randomLog(b, rng, want)
				rec := recoverJournal(t, b.finish(start, tid))
				if rec.Damage != nil || rec.Transactions != n || rec.Next != tid+TID(n) {
					t.Errorf("seed %d: %d transactions, next %d, damage %v; expected %d", seed, rec.Transactions, rec.Next, rec.Damage, n)
				}
				if err := equalContents(contents(b.data, rec), want); err != nil {
					t.Errorf("seed %d: %v", seed, err)
				}
			}
		})
	}
}

// randomLog writes a few transactions and, at the end, part of one. want is
// what recovery should make of them.
func randomLog(b *builder, rng *rand.Rand, want map[uint64][]byte) (transactions int) {
	for used := uint32(0); used < 40; transactions++ {
		var targets []uint64
		for range 1 + rng.IntN(8) {
			target := uint64(rng.IntN(20))
			if b.incompat&incompat64Bit != 0 {
				target |= 3 << 33
			}
			p := content(target, b.tid, b.blockSize)
			if rng.IntN(4) == 0 {
				copy(p, []byte{0xc0, 0x3b, 0x39, 0x98})
				target |= 1 << 62
			}
			targets = append(targets, target)
			want[target&^(1<<62)] = p
		}
		// A block written twice in a transaction has its last content; only the
		// last tag is kept, as the kernel writes each block once.
		slices.Reverse(targets)
		seen := make(map[uint64]bool)
		targets = slices.DeleteFunc(targets, func(t uint64) bool {
			t &^= 1 << 62
			defer func() { seen[t] = true }()
			return seen[t]
		})
		b.write(targets...)
		used += uint32(len(targets)) + 3
		if rng.IntN(2) == 0 {
			target := uint64(rng.IntN(20))
			if b.incompat&incompat64Bit != 0 {
				target |= 3 << 33
			}
			b.revoke(target)
			delete(want, target)
		}
		b.commit()
	}
	b.write(1, 2, 3) // not committed
	b.revoke(4, 5)
	return transactions
}

// TestRevokeOrder: a block that is revoked and then written again has its new
// content.
func TestRevokeOrder(t *testing.T) {
	b := newBuilder(0, incompatRevoke)
	start, tid := b.pos, b.tid
	b.write(10, 11)
	b.commit()
	b.revoke(10, 11)
	b.commit()
	b.write(11)
	b.commit()
	rec := recoverJournal(t, b.finish(start, tid))
	if err := equalContents(contents(b.data, rec), map[uint64][]byte{11: content(11, tid+2, 1024)}); err != nil {
		t.Error(err)
	}
}

// TestDamage damages a log of three transactions in one place.
func TestDamage(t *testing.T) {
	const v3 = incompatRevoke | incompatChecksumV3
	for _, c := range []struct {
		name             string
		compat, incompat uint32
		damage           func(b *builder)
		transactions     int
		problem          string
	}{
		// The log: 1 descriptor, 2 and 3 data, 4 commit; 5 descriptor, 6 and 7
		// data, 8 revoke, 9 commit; 10 descriptor, 11 data, 12 commit.
		{"data", 0, v3, flip(7, 500), 1, "block 7 of the journal, for block 21: wrong checksum"},
		{"data v2", 0, incompatRevoke | incompatChecksumV2, flip(6, 500), 1, "for block 20: wrong checksum"},
		{"data v1", compatChecksum, incompatRevoke, flip(6, 500), 1, "wrong checksum in its commit block"},
		{"data without checksum", 0, incompatRevoke, flip(6, 500), 3, ""},
		{"revoked data", 0, v3, flip(3, 500), 3, ""},
		{"descriptor", 0, v3, flip(5, 40), 1, "descriptor block"},
		{"descriptor's magic", 0, v3, flip(5, 1), 1, "does not continue the log, but transaction 101 was committed"},
		{"descriptor's magic, async", 0, v3 | incompatAsyncCommit, flip(5, 1), 1, "but transaction 102 was committed"},
		{"last descriptor's magic, async", 0, v3 | incompatAsyncCommit, flip(10, 1), 2, ""},
		{"zeroed descriptor", 0, v3, zero(5), 1, "does not continue the log"},
		{"zeroed descriptor, no checksum", 0, incompatRevoke, zero(5), 1, ""},
		{"revoke", 0, v3, flip(8, 100), 1, "revoke block"},
		{"revoke count", 0, incompatRevoke, func(b *builder) { put32(b.block(8)[revokeCount:], 5000) }, 1, "revoke block"},
		{"commit", 0, v3, flip(9, 900), 1, "wrong checksum in its commit block"},
		{"last commit, v1 async", compatChecksum, incompatRevoke | incompatAsyncCommit, flip(12, 17), 2, ""},
		{"middle commit, v1 async", compatChecksum, incompatRevoke | incompatAsyncCommit, flip(9, 17), 1, "wrong checksum in its commit block"},
		{"missing commit", 0, v3, zero(12), 2, ""},
		{"first descriptor", 0, v3, flip(1, 30), 0, "descriptor block"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBuilder(c.compat, c.incompat)
			start, tid := b.pos, b.tid
			b.write(10, 11)
			b.commit()
			b.write(20, 21)
			b.revoke(11)
			b.commit()
			b.write(30)
			b.commit()
			c.damage(b)
			rec := recoverJournal(t, b.finish(start, tid))
			if rec.Transactions != c.transactions {
				t.Errorf("%d transactions, expected %d", rec.Transactions, c.transactions)
			}
			switch {
			case c.problem == "" && rec.Damage != nil:
				t.Errorf("damage: %v", rec.Damage)
			case c.problem != "" && (!errors.Is(rec.Damage, ErrCorrupt) || !strings.Contains(rec.Damage.Error(), c.problem)):
				t.Errorf("damage: %v, expected %q", rec.Damage, c.problem)
			}
			want := map[uint64][]byte{}
			for i, targets := range [][]uint64{{10, 11}, {20, 21}, {30}} {
				for _, target := range targets {
					if i < c.transactions {
						want[target] = content(target, tid+TID(i), 1024)
					}
				}
			}
			if c.transactions > 1 {
				delete(want, 11)
			}
			got := contents(b.data, rec)
			if c.name == "data without checksum" {
				delete(want, 20)
				delete(got, 20)
			}
			if err := equalContents(got, want); err != nil {
				t.Error(err)
			}
		})
	}
}

func flip(block uint32, off int) func(*builder) {
	return func(b *builder) { b.block(block)[off] ^= 0x10 }
}

func zero(block uint32) func(*builder) {
	return func(b *builder) { clear(b.block(block)) }
}

// TestStale: what earlier laps around the ring left behind is not damage, even
// if it has the number of the next transaction.
func TestStale(t *testing.T) {
	b := newBuilder(0, incompatRevoke|incompatChecksumV3)
	start, tid := b.pos, b.tid
	b.write(10)
	b.commit()
	b.seconds -= 1000 // an earlier time
	b.write(20)
	b.block(4)[50] ^= 1 // descriptor of the stale transaction
	b.commit()
	rec := recoverJournal(t, b.finish(start, tid))
	if rec.Damage != nil || rec.Transactions != 1 {
		t.Errorf("%d transactions, damage %v", rec.Transactions, rec.Damage)
	}
}

// TestBounds: logs that lead out of the journal or the device, or in circles.
func TestBounds(t *testing.T) {
	b := newBuilder(0, incompatRevoke|incompat64Bit)
	start, tid := b.pos, b.tid
	b.write(10)
	b.commit()
	b.write(11, testLimit)
	b.commit()
	if rec := recoverJournal(t, b.finish(start, tid)); rec.Transactions != 1 || rec.Damage == nil || len(rec.Blocks) != 1 {
		t.Errorf("beyond the device: %+v", rec)
	}

	b = newBuilder(0, incompatRevoke) // revoke blocks all around the ring
	for i := b.first; i < b.end; i++ {
		p := b.next(typeRevoke)
		put32(p[revokeCount:], revokeRecords)
	}
	if rec := recoverJournal(t, b.finish(start, tid)); rec.Transactions != 0 || rec.Damage == nil {
		t.Errorf("circle: %+v", rec)
	}

	b = newBuilder(0, incompatRevoke) // a transaction longer than the ring
	b.write(make([]uint64, 61)...)
	b.write(make([]uint64, 30)...)
	if rec := recoverJournal(t, b.finish(start, tid)); rec.Transactions != 0 {
		t.Errorf("too long: %+v", rec)
	}
}

func TestOpen(t *testing.T) {
	const v3 = incompatChecksumV3
	for _, c := range []struct {
		name  string
		edit  func(p []byte)
		class error // nil: no error
		seal  bool
	}{
		{"sound", func(p []byte) {}, nil, false},
		{"magic", func(p []byte) { p[0] = 0 }, ErrCorrupt, true},
		{"type", func(p []byte) { p[7] = 2 }, ErrCorrupt, true},
		{"checksum", func(p []byte) { p[sbErrno] = 1 }, ErrCorrupt, false},
		{"checksum type", func(p []byte) { p[sbChecksumType] = 1 }, ErrUnsupported, true},
		{"unknown feature", func(p []byte) { p[sbIncompat+3] |= 0x40 }, ErrUnsupported, true},
		{"two checksums", func(p []byte) { p[sbIncompat+3] |= incompatChecksumV2 }, ErrCorrupt, true},
		{"v1 and v3", func(p []byte) { p[sbCompat+3] |= compatChecksum }, ErrCorrupt, true},
		{"block size", func(p []byte) { put32(p[sbBlockSize:], 4096) }, ErrCorrupt, true},
		{"too long", func(p []byte) { put32(p[sbMaxLen:], 65) }, ErrCorrupt, true},
		{"first", func(p []byte) { put32(p[sbFirst:], 64) }, ErrCorrupt, true},
		{"first 0", func(p []byte) { put32(p[sbFirst:], 0) }, ErrCorrupt, true},
		{"start", func(p []byte) { put32(p[sbStart:], 64) }, ErrCorrupt, true},
		{"fast commits", func(p []byte) { p[sbIncompat+3] |= incompatFastCommit }, ErrCorrupt, true},
	} {
		b := newBuilder(0, incompatRevoke|v3)
		data := b.finish(1, 100)
		c.edit(data)
		if c.seal {
			put32(data[sbChecksum:], crc32c.Without(^uint32(0), data[:superblockSize], sbChecksum, 4))
		}
		_, err := Open(bytes.NewReader(data), 1024, 64)
		if !errors.Is(err, c.class) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestClean: an empty log, and a version 1 superblock.
func TestClean(t *testing.T) {
	b := newBuilder(0, 0)
	data := b.finish(0, 100)
	put32(data[4:], typeSuperblockV1)
	put32(data[sbIncompat:], 0xffffffff) // has no meaning there
	put32(data[sbErrno:], ^uint32(4))    // -5
	j, err := Open(bytes.NewReader(data), 1024, 64)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := j.Recover(t.Context(), testLimit)
	if err != nil || !j.Clean() || len(rec.Blocks) != 0 || rec.Next != 100 || j.Errno() != 5 {
		t.Errorf("%+v, %v, clean %v, errno %d", rec, err, j.Clean(), j.Errno())
	}
	if _, n := j.FastCommits(); n != 0 {
		t.Errorf("%d blocks of fast commits", n)
	}
}

func TestFastCommitArea(t *testing.T) {
	b := newBuilder(0, incompatFastCommit)
	b.fcBlocks = 10
	j, err := Open(bytes.NewReader(b.finish(1, 100)), 1024, 64)
	if err != nil {
		t.Fatal(err)
	}
	// The block between the ring, which ends at 54, and the area is not used.
	if first, n := j.FastCommits(); first != 55 || n != 9 {
		t.Errorf("%d blocks from %d", n, first)
	}
}

// failingReader fails at and beyond an offset.
type failingReader struct {
	data []byte
	at   int64
	err  error
}

func (r failingReader) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > r.at {
		return 0, r.err
	}
	return copy(p, r.data[off:]), nil
}

// TestReadErrors: an error of the reader is none of the journal's.
func TestReadErrors(t *testing.T) {
	b := newBuilder(0, incompatRevoke|incompatChecksumV3)
	b.write(10, 11)
	b.commit()
	data := b.finish(1, 100)
	failure := errors.New("cable cut")
	for at := int64(0); at < 5*1024; at += 512 {
		for _, want := range []error{failure, io.EOF} {
			j, err := Open(failingReader{data, at, want}, 1024, 64)
			if err == nil {
				_, err = j.Recover(t.Context(), testLimit)
			}
			if want == io.EOF {
				want = io.ErrUnexpectedEOF
			}
			if !errors.Is(err, want) || errors.Is(err, ErrCorrupt) {
				t.Errorf("failing at %d: %v, expected %v", at, err, want)
			}
		}
	}
}

func TestChecksums(t *testing.T) {
	// From the catalogue of parametrised CRC algorithms: "123456789".
	p := []byte("123456789")
	if got := ^crc32BE(^uint32(0), p); got != 0xfc891918 {
		t.Errorf("CRC-32/BZIP2: %#x", got)
	}
	long := bytes.Repeat(p, 1000)
	if got, want := crc32BE(crc32BE(1, long[:777]), long[777:]), crc32BE(1, long); got != want {
		t.Errorf("continued: %#x, %#x", got, want)
	}
}

// FuzzRecover mutates a log. Whatever comes in, what comes out is bounded and in
// order.
func FuzzRecover(f *testing.F) {
	for _, k := range kinds {
		b := newBuilder(k.compat, k.incompat)
		randomLog(b, rand.New(rand.NewPCG(7, 7)), map[uint64][]byte{})
		f.Add(b.finish(1, 100))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		j, err := Open(bytes.NewReader(data), 1024, uint32(len(data)/1024))
		if err != nil {
			return
		}
		rec, err := j.Recover(t.Context(), 1<<20)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if len(rec.Blocks) > len(data)/1024 {
			t.Fatalf("%d blocks out of %d", len(rec.Blocks), len(data)/1024)
		}
		for i, b := range rec.Blocks {
			if b.Target >= 1<<20 || int(b.Source) >= len(data)/1024 || i > 0 && rec.Blocks[i-1].Target >= b.Target {
				t.Fatalf("block %d: %+v", i, b)
			}
		}
	})
}
