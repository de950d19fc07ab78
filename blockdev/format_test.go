package blockdev

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// layerFS returns a directory with the folder of layer 1.
func layerFS(t testing.TB) (blockfile.FS, string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, layerDir(1)), 0o700); err != nil {
		t.Fatal(err)
	}
	return blockfile.OS(dir), dir
}

func TestPresenceRoundTrip(t *testing.T) {
	fsys, _ := layerFS(t)
	rng := rand.New(rand.NewPCG(3, 0))
	const blocks = 40*leafBlocks + 100
	m := newExtentMap()
	for range 400 {
		n := uint64(1 + rng.IntN(900))
		m.set(uint64(rng.IntN(blocks-900)), n, place(rng.IntN(5)))
	}
	for b := uint64(0); b < leafBlocks; b++ { // a leaf for encodingPlaces
		m.set(7*leafBlocks+b, 1, place(2+b%3))
	}
	p := &Pool{fs: fsys}
	h := presenceHeader{layer: 1, blocks: blocks, journalFrom: 9, nextSeq: 77}
	if err := p.writePresence(h, m, newExtentMap(), func(at place) bool { return at != nowhere }); err != nil {
		t.Fatal(err)
	}
	got := newExtentMap()
	if err := p.overlayPresence(got, 1); err != nil {
		t.Fatal(err)
	}
	wantRuns, err := m.runs(nil, 0, blocks)
	must(t, err)
	gotRuns, err := got.runs(nil, 0, blocks)
	if must(t, err); !slices.Equal(gotRuns, wantRuns) {
		t.Errorf("read %v, want %v", gotRuns, wantRuns)
	}
	r, err := openPresence(fsys, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	if r.header.journalFrom != 9 || r.header.nextSeq != 77 || r.header.sealed || r.header.dataBlocks != m.dataBlocks() {
		t.Errorf("header %+v", r.header)
	}
}

// TestPresenceDamage flips each byte in turn: all of them are noticed, with
// file and offset, or do not count.
func TestPresenceDamage(t *testing.T) {
	fsys, dir := layerFS(t)
	m := newExtentMap()
	m.set(3, 5, dataPlace(1))
	m.set(leafBlocks, leafBlocks, zeroPlace(1))
	for b := uint64(0); b < leafBlocks; b += 2 {
		m.set(2*leafBlocks+b, 1, dataPlace(1))
	}
	p := &Pool{fs: fsys}
	if err := p.writePresence(presenceHeader{layer: 1, blocks: 4 * leafBlocks, sealed: true}, m, newExtentMap(), func(at place) bool { return at != nowhere }); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, presenceName(1))
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		if i >= 100 && i < presenceHeaderSize {
			continue // not in use
		}
		bad := slices.Clone(good)
		bad[i] ^= 0x10
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		err := p.overlayPresence(newExtentMap(), 1)
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), presenceName(1)) || !strings.Contains(err.Error(), "offset") {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	for n := range good {
		if err := os.WriteFile(file, good[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := p.overlayPresence(newExtentMap(), 1); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
}

func newTestJournal(t *testing.T, fsys blockfile.FS, boot string) *journal {
	t.Helper()
	j, err := createJournal(fsys, 1, boot, 1, 1, minJournalBytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.close() })
	return j
}

func add(t *testing.T, j *journal, block uint64) {
	t.Helper()
	if !j.reserve(1) {
		if err := j.extend(minJournalBytes); err != nil || !j.reserve(1) {
			t.Fatal("no room after extend", err)
		}
	}
	if err := j.append(record{kind: recordData, block: block, count: 1, origin: 1}); err != nil {
		t.Fatal(err)
	}
}

func scanned(t *testing.T, fsys blockfile.FS, boot string, onlyCommitted bool) (uint64, error) {
	t.Helper()
	s, err := scanJournal(fsys, 1, 1, 1, boot, onlyCommitted)
	if err != nil {
		return 0, err
	}
	m := newExtentMap()
	if err := s.apply(m, 1<<20); err != nil {
		return 0, err
	}
	return m.dataBlocks(), nil
}

func TestJournalBelief(t *testing.T) {
	fsys, _ := layerFS(t)
	j := newTestJournal(t, fsys, "boot-a")
	for i := range uint64(600) { // over several files
		add(t, j, i)
		if i == 399 {
			if err := j.commit(j.lastSeq()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		boot          string
		onlyCommitted bool
		want          uint64
	}{{"boot-a", false, 600}, {"boot-b", false, 400}, {"boot-a", true, 400}} {
		if got, err := scanned(t, fsys, tt.boot, tt.onlyCommitted); err != nil || got != tt.want {
			t.Errorf("boot %s, only committed %v: %d records, %v; want %d", tt.boot, tt.onlyCommitted, got, err, tt.want)
		}
	}
}

// TestJournalCommitCoversOnlyWhatItSays: records that came in while a flush
// was under way are not believed though they stand before its commit record.
func TestJournalCommitCoversOnlyWhatItSays(t *testing.T) {
	fsys, _ := layerFS(t)
	j := newTestJournal(t, fsys, "a")
	add(t, j, 1)
	seq := j.lastSeq()
	add(t, j, 2)
	if err := j.commit(seq); err != nil {
		t.Fatal(err)
	}
	if got, err := scanned(t, fsys, "b", false); err != nil || got != 1 {
		t.Errorf("%d records, %v; want 1", got, err)
	}
	if err := j.commit(j.lastSeq()); err != nil {
		t.Fatal(err)
	}
	if got, err := scanned(t, fsys, "b", false); err != nil || got != 2 {
		t.Errorf("%d records, %v; want 2", got, err)
	}
}

func TestJournalDamage(t *testing.T) {
	fsys, dir := layerFS(t)
	j := newTestJournal(t, fsys, "a")
	for i := range uint64(30) {
		add(t, j, i)
		if i%10 == 9 {
			if err := j.commit(j.lastSeq()); err != nil {
				t.Fatal(err)
			}
		}
	}
	file := filepath.Join(dir, journalName(1, 1))
	flip := func(off int64) {
		t.Helper()
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b[off] ^= 1
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name string
		off  int64
		boot string
		want error
	}{
		{"header", 20, "a", ErrCorrupt},
		{"a record before good ones, same boot", journalHeaderSize + 20*recordSize, "a", ErrCorrupt},
		{"a record before two commits, after a power cut", journalHeaderSize + 5*recordSize, "b", ErrCorrupt},
		{"a record before one commit, after a power cut", journalHeaderSize + 25*recordSize, "b", ErrCorrupt},
		{"the last record, same boot", journalHeaderSize + 32*recordSize, "a", ErrCorrupt},
		{"the last record, after a power cut", journalHeaderSize + 32*recordSize, "b", ErrCorrupt},
	} {
		flip(tt.off)
		if _, err := scanned(t, fsys, tt.boot, false); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		flip(tt.off)
	}
}

func FuzzJournal(f *testing.F) {
	h := journalHeader{1, 1, minJournalBytes, "a"}
	b := append(h.encode(), make([]byte, minJournalBytes-journalHeaderSize)...)
	for i := range 5 {
		record{kind: recordData, block: uint64(i), count: 3, origin: 1, seq: uint64(i + 1)}.encode(b[journalHeaderSize+i*recordSize:], h.salt())
	}
	f.Add(b)
	f.Add(b[:100])
	f.Fuzz(func(t *testing.T, b []byte) {
		fsys, dir := layerFS(t)
		if err := os.WriteFile(filepath.Join(dir, journalName(1, 1)), b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := scanJournal(fsys, 1, 1, 1, "a", false)
		if err == nil {
			err = s.apply(newExtentMap(), 100)
		}
		if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("error without a class: %v", err)
		}
	})
}

func FuzzPresence(f *testing.F) {
	fsys, dir := layerFS(f)
	m := newExtentMap()
	m.set(3, 5, dataPlace(1))
	m.set(leafBlocks, leafBlocks, zeroPlace(1))
	p := &Pool{fs: fsys}
	if err := p.writePresence(presenceHeader{layer: 1, blocks: 4 * leafBlocks}, m, newExtentMap(), func(at place) bool { return at != nowhere }); err != nil {
		f.Fatal(err)
	}
	file := filepath.Join(dir, presenceName(1))
	b, err := os.ReadFile(file)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= presenceHeaderSize { // reach past the checksums
			fixPresence(b)
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := p.overlayPresence(newExtentMap(), 1); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("error without a class: %v", err)
		}
	})
}

// fixPresence puts right checksums into a presence map.
func fixPresence(b []byte) {
	le := binary.LittleEndian
	off, n := le.Uint64(b[64:]), le.Uint64(b[72:])
	if off <= uint64(len(b)) && n <= (uint64(len(b))-off)/presenceEntrySize {
		le.PutUint32(b[20:], crcOf(b[off:off+n*presenceEntrySize]))
	}
	le.PutUint32(b[96:], crcOf(b[:96]))
}

func FuzzCatalogueValue(f *testing.F) {
	v, err := encodeValue(bucketLUNs, catalogueKey(1), lunRecord{ID: 1, Name: "a"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(v)
	f.Add([]byte(recordMagic))
	f.Fuzz(func(t *testing.T, v []byte) {
		var r lunRecord
		if err := decodeValue(bucketLUNs, catalogueKey(1), v, &r); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("error without a class: %v", err)
		}
	})
}
