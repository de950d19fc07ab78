package blockdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// The journal of a layer records the changes of its map since the last
// checkpoint. It is a chain of files, journal-<generation>, each laid out as
//
//	header, 4096 bytes, of which the first 84 are used, little endian
//	  0  8  magic "ROWANJNL"
//	  8  4  version, 1
//	 12  4  layer id
//	 16  8  generation
//	 24  8  length of the file in bytes
//	 32  8  zero
//	 40 40  boot id of the kernel that the file is written under, NUL padded
//	 80  4  CRC32C of bytes 0 to 79
//	record, 32 bytes, little endian
//	  0  4  CRC32C of the layer id, the generation and the boot id (4, 8 and
//	        40 bytes), then bytes 4 to 31
//	  4  1  kind: 1 data, 2 zero, 3 commit
//	  5  3  zero
//	  8  4  data, zero: number of blocks
//	 12  4  data, zero: origin
//	 16  8  data, zero: first block; commit: sequence number through which
//	        everything recorded is durable, data included
//	 24  8  sequence number, one more than that of the record before
//
// Sequence numbers go on from file to file. The records of a file end at the
// first one whose checksum or sequence number is wrong.
const (
	journalMagic      = "ROWANJNL"
	journalVersion    = 1
	journalHeaderSize = 4096
	journalHeaderUsed = 84
	recordSize        = 32
	bootIDSize        = 40

	minJournalBytes     = journalHeaderSize + 512*recordSize
	maxJournalFileBytes = 64 << 20
	// commitReserve is room that only commit records may take, so that a
	// flush succeeds where the disk is too full to extend the journal.
	commitReserve = 32
	// maxStepRecords is the most records that one step of a write needs.
	maxStepRecords = writeChunk/BlockSize/2 + 1
)

type recordKind uint8

const (
	recordData   recordKind = 1
	recordZero   recordKind = 2
	recordCommit recordKind = 3
)

type record struct {
	kind   recordKind
	count  uint32
	origin uint32
	block  uint64 // or the sequence number that a commit covers
	seq    uint64
}

func (r record) place() place {
	if r.kind == recordZero {
		return zeroPlace(r.origin)
	}
	return dataPlace(r.origin)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// salt starts the checksum of a file's records, so that those of another
// layer, generation or boot are not taken for its own.
func (h journalHeader) salt() uint32 {
	var b [12 + bootIDSize]byte
	binary.LittleEndian.PutUint32(b[:], h.layer)
	binary.LittleEndian.PutUint64(b[4:], h.generation)
	copy(b[12:], h.bootID)
	return crcOf(b[:])
}

// encode fills the first recordSize bytes of b.
func (r record) encode(b []byte, salt uint32) {
	b = b[:recordSize]
	clear(b)
	b[4] = byte(r.kind)
	binary.LittleEndian.PutUint32(b[8:], r.count)
	binary.LittleEndian.PutUint32(b[12:], r.origin)
	binary.LittleEndian.PutUint64(b[16:], r.block)
	binary.LittleEndian.PutUint64(b[24:], r.seq)
	binary.LittleEndian.PutUint32(b, crc32.Update(salt, castagnoli, b[4:]))
}

func decodeRecord(b []byte, salt uint32) (record, bool) {
	if binary.LittleEndian.Uint32(b) != crc32.Update(salt, castagnoli, b[4:recordSize]) {
		return record{}, false
	}
	return record{
		kind:   recordKind(b[4]),
		count:  binary.LittleEndian.Uint32(b[8:]),
		origin: binary.LittleEndian.Uint32(b[12:]),
		block:  binary.LittleEndian.Uint64(b[16:]),
		seq:    binary.LittleEndian.Uint64(b[24:]),
	}, true
}

type journalHeader struct {
	layer      uint32
	generation uint64
	length     int64
	bootID     string
}

func (h journalHeader) encode() []byte {
	b := make([]byte, journalHeaderSize)
	copy(b, journalMagic)
	binary.LittleEndian.PutUint32(b[8:], journalVersion)
	binary.LittleEndian.PutUint32(b[12:], h.layer)
	binary.LittleEndian.PutUint64(b[16:], h.generation)
	binary.LittleEndian.PutUint64(b[24:], uint64(h.length))
	copy(b[40:40+bootIDSize], h.bootID)
	binary.LittleEndian.PutUint32(b[80:], crcOf(b[:80]))
	return b
}

func decodeJournalHeader(b []byte) (journalHeader, error) {
	switch {
	case string(b[:8]) != journalMagic:
		return journalHeader{}, errors.New("no journal header")
	case binary.LittleEndian.Uint32(b[80:]) != crcOf(b[:80]):
		return journalHeader{}, errors.New("wrong checksum of the header")
	case binary.LittleEndian.Uint32(b[8:]) != journalVersion:
		return journalHeader{}, fmt.Errorf("version %d is not known", binary.LittleEndian.Uint32(b[8:]))
	}
	return journalHeader{
		layer:      binary.LittleEndian.Uint32(b[12:]),
		generation: binary.LittleEndian.Uint64(b[16:]),
		length:     int64(binary.LittleEndian.Uint64(b[24:])),
		bootID:     strings.TrimRight(string(b[40:40+bootIDSize]), "\x00"),
	}, nil
}

func layerDir(layer uint32) string { return fmt.Sprintf("layers/%08x", layer) }

func journalName(layer uint32, generation uint64) string {
	return path.Join(layerDir(layer), fmt.Sprintf("journal-%08x", generation))
}

// parseJournalName returns the generation of a file named by journalName.
func parseJournalName(base string) (generation uint64, ok bool) {
	hex, ok := strings.CutPrefix(base, "journal-")
	if !ok {
		return 0, false
	}
	generation, err := strconv.ParseUint(hex, 16, 64)
	return generation, err == nil
}

// journalFile is one file of a journal that is being written.
type journalFile struct {
	file       blockfile.File
	generation uint64
	salt       uint32
	length     int64
	tail       int64 // where the next record goes
	dirty      bool  // holds records that were not synced
}

// records is how many records the file still has room for.
func (f *journalFile) records() int64 { return (f.length - f.tail) / recordSize }

// errJournalFull says that no room could be reserved: extend the journal.
var errJournalFull = errors.New("blockdev: journal is full")

// journal is the open end of a layer's chain of journal files. Room is taken
// by reserve before anything is changed, so that append cannot run out of it.
type journal struct {
	fs     blockfile.FS
	layer  uint32
	bootID string

	room     atomic.Int64 // records that may still be reserved
	lowWater atomic.Int64

	extendMu sync.Mutex // held while a file is added
	syncMu   sync.Mutex // held while files are synced; taken before mu

	mu sync.Mutex
	// files are the live files: those before current are full, those after it
	// are prepared and empty.
	files     []*journalFile
	current   int
	nextSeq   uint64
	committed uint64 // everything through this sequence number is durable
	err       error  // what made the journal fail for good
}

// createJournal starts a chain with one file. The caller syncs the layer's
// directory.
func createJournal(fs blockfile.FS, layer uint32, bootID string, generation, nextSeq uint64, length int64) (*journal, error) {
	j := &journal{fs: fs, layer: layer, bootID: bootID, nextSeq: nextSeq, committed: nextSeq - 1}
	f, err := j.create(generation, length)
	if err != nil {
		return nil, err
	}
	j.files = []*journalFile{f}
	j.added(f)
	return j, nil
}

// create makes a file of the chain, written over with zeros from end to end
// and synced: syncing records later then changes no metadata of the
// filesystem below. The name is durable once the layer's directory is synced.
func (j *journal) create(generation uint64, length int64) (*journalFile, error) {
	length = max(length, minJournalBytes) / recordSize * recordSize
	name := journalName(j.layer, generation)
	f, err := j.fs.Open(name+newSuffix, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	header := journalHeader{j.layer, generation, length, j.bootID}
	err = f.Truncate(0) // what an interrupted attempt left
	if err == nil {
		err = writeZeros(f, journalHeaderSize, length-journalHeaderSize)
	}
	if err == nil {
		_, err = f.WriteAt(header.encode(), 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = j.fs.Rename(name+newSuffix, name)
	}
	if err != nil {
		err = errors.Join(err, f.Close())
		j.fs.Remove(name + newSuffix) // gives its space back; else the next opening does
		return nil, err
	}
	return &journalFile{file: f, generation: generation, salt: header.salt(), length: length, tail: journalHeaderSize}, nil
}

func writeZeros(f blockfile.File, off, n int64) error {
	zeros := make([]byte, min(n, 256<<10))
	for n > 0 {
		k, err := f.WriteAt(zeros[:min(n, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off, n = off+int64(k), n-int64(k)
	}
	return nil
}

// extend adds a prepared file to the chain.
func (j *journal) extend(length int64) error {
	j.extendMu.Lock()
	defer j.extendMu.Unlock()
	j.mu.Lock()
	generation, err := j.files[len(j.files)-1].generation+1, j.err
	j.mu.Unlock()
	if err != nil {
		return err
	}
	f, err := j.create(generation, length)
	if err != nil {
		return err
	}
	if err := j.fs.SyncDir(layerDir(j.layer)); err != nil {
		return errors.Join(err, f.file.Close())
	}
	j.mu.Lock()
	j.files = append(j.files, f)
	j.added(f)
	j.mu.Unlock()
	return nil
}

// added counts the room of a new file.
func (j *journal) added(f *journalFile) {
	j.room.Add(f.records())
	j.lowWater.Store(f.records() / 4)
}

// bytes returns the length of all live files.
func (j *journal) bytes() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	var n int64
	for _, f := range j.files {
		n += f.length
	}
	return n
}

// advance makes the last file of the chain the current one, and returns its
// generation and the sequence number of its first record: what was recorded
// until now needs no replay once it is in a checkpoint.
func (j *journal) advance() (generation, nextSeq uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	last := len(j.files) - 1
	for ; j.current < last; j.current++ {
		j.room.Add(-j.files[j.current].records())
	}
	return j.files[last].generation, j.nextSeq
}

// cut drops the files before a generation, once a checkpoint holds what they
// recorded.
func (j *journal) cut(generation uint64) error {
	j.syncMu.Lock() // no file is being synced
	j.mu.Lock()
	var dropped []*journalFile
	for len(j.files) > 1 && j.files[0].generation < generation {
		dropped = append(dropped, j.files[0])
		j.files = j.files[1:]
		j.current--
	}
	j.mu.Unlock()
	j.syncMu.Unlock()
	var errs []error
	for _, f := range dropped {
		errs = append(errs, f.file.Close(), j.fs.Remove(journalName(j.layer, f.generation)))
	}
	return errors.Join(errs...)
}

// reserve takes room for n records, or returns false: then the journal must
// be extended first.
func (j *journal) reserve(n int64) bool { return j.reserveAbove(n, commitReserve) }

func (j *journal) reserveAbove(n, keep int64) bool {
	if j.room.Add(-n) >= keep {
		return true
	}
	j.room.Add(n)
	return false
}

// full tells whether there may be no room for the records of one write.
func (j *journal) full() bool { return j.room.Load() < commitReserve+maxStepRecords }

// low tells whether the journal should be extended before it is full.
func (j *journal) low() bool { return j.room.Load() < j.lowWater.Load() }

// release gives back room that was reserved and not used.
func (j *journal) release(n int64) { j.room.Add(n) }

// append writes records for which room was reserved. When it returns they
// survive the death of the process.
func (j *journal) append(recs ...record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for len(recs) > 0 {
		if j.err != nil {
			return j.err
		}
		f := j.files[j.current]
		n := int(min(int64(len(recs)), f.records()))
		if n == 0 {
			j.current++
			continue
		}
		if err := j.write(f, recs[:n]); err != nil {
			return err
		}
		recs = recs[n:]
	}
	return nil
}

// write adds records to a file; the caller holds mu.
func (j *journal) write(f *journalFile, recs []record) error {
	var one [recordSize]byte
	buf := one[:]
	if len(recs) > 1 {
		buf = make([]byte, len(recs)*recordSize)
	}
	for i, r := range recs {
		r.seq = j.nextSeq
		j.nextSeq++
		r.encode(buf[i*recordSize:], f.salt)
	}
	if _, err := f.file.WriteAt(buf, f.tail); err != nil {
		j.err = err
		return err
	}
	f.tail += int64(len(buf))
	f.dirty = true
	return nil
}

// lastSeq returns the sequence number of the last record.
func (j *journal) lastSeq() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.nextSeq - 1
}

// commit records that everything through seq is durable, data included, and
// makes the journal durable. It does nothing if nothing was recorded since the
// last commit. errJournalFull asks the caller to extend the journal.
func (j *journal) commit(seq uint64) error {
	j.syncMu.Lock()
	defer j.syncMu.Unlock()
	j.mu.Lock()
	if j.err != nil || seq <= j.committed {
		defer j.mu.Unlock()
		return j.err
	}
	j.mu.Unlock()
	if !j.reserveAbove(1, 0) {
		return errJournalFull
	}
	if err := j.append(record{kind: recordCommit, block: seq}); err != nil {
		return err
	}
	j.mu.Lock()
	var syncs []*journalFile
	for _, f := range j.files {
		if f.dirty {
			f.dirty = false
			syncs = append(syncs, f)
		}
	}
	j.mu.Unlock()
	for _, f := range syncs {
		if err := f.file.Sync(); err != nil {
			j.mu.Lock()
			defer j.mu.Unlock()
			j.err = err
			return err
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	// Where nothing came between, the commit record is the last and needs no
	// commit of its own.
	j.committed = seq
	if j.nextSeq == seq+2 {
		j.committed = seq + 1
	}
	return nil
}

// close closes the files. It waits until a file that is being added is there.
func (j *journal) close() error {
	j.extendMu.Lock()
	defer j.extendMu.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	var errs []error
	for _, f := range j.files {
		errs = append(errs, f.file.Close())
	}
	j.err = ErrClosed
	return errors.Join(errs...)
}

// lastLength returns the length in bytes of the last file.
func (j *journal) lastLength() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.files[len(j.files)-1].length
}

// empty tells whether no map change was recorded since the last checkpoint.
func (j *journal) empty() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.current == 0 && j.files[0].tail == journalHeaderSize
}

func crcOf(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }
