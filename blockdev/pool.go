package blockdev

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

const (
	poolFile    = "pool"
	lockFile    = "lock"
	poolFormat  = "rowan-pool"
	poolVersion = 1

	defaultShardBytes = 64 << 30
)

// Options configures a pool. The zero value is right for production.
type Options struct {
	// Logger takes what the engine has to say; nil for nothing.
	Logger *slog.Logger
	// FS holds the pool instead of the directory given to Open.
	FS blockfile.FS
	// BootID names the run of the kernel whose page cache may hold unsynced
	// data; "" for the running one.
	BootID string
	// ShardBytes is the length of a segment for a new pool, a multiple of
	// BlockSize; 0 for 4 GiB. An existing pool keeps its own.
	ShardBytes int64
	// JournalBytes is the length of a layer's first journal file, and an
	// eighth of what all of them may reach; 0 for the default.
	JournalBytes int64
	// ReserveBytes is the space that the pool holds back for its own metadata;
	// 0 for the default, less for none.
	ReserveBytes int64
	// ManualMaintenance leaves sealing, merging and giving space back to
	// calls of Settle, so that tests run the same way each time.
	ManualMaintenance bool
	// BackgroundBytesPerSecond bounds what is read to make the sums of sealed
	// layers, as much again to scrub them, and as much again to merge segments; 0
	// for 64 MiB, negative for no bound.
	BackgroundBytesPerSecond int64
	// MaxOrigins is how many origins, each with a directory of segments, a
	// sealed layer may own, and a head beside its own, until they are merged; 0
	// for 8, negative for any number.
	MaxOrigins int
	// MapMemoryBytes bounds the memory that the extent maps of all LUNs and
	// snapshots take together; 0 for a sixteenth of the machine's memory,
	// negative for no bound.
	MapMemoryBytes int64
	// Observer is told of stalls; nil for none.
	Observer Observer
	// Now is the clock; nil for time.Now.
	Now func() time.Time
}

// Observer is told what the engine measures about itself. Its methods must
// not block.
type Observer interface {
	// Frozen: a group of n LUNs was frozen; their I/O waited for stall.
	Frozen(n int, stall time.Duration)
}

// Pool is an open pool. One process has it open at a time.
type Pool struct {
	fs         blockfile.FS
	dir        string
	uuid       string
	shardBytes int64
	bootID     string
	journal    int64 // Options.JournalBytes
	log        *slog.Logger
	observer   Observer
	now        func() time.Time
	manual     bool
	unclean    bool // the pool was not closed when it was opened
	opening    bool // recover runs
	reserve    reserve
	// backgroundRate is Options.BackgroundBytesPerSecond, with its default.
	backgroundRate int64

	lock     io.Closer
	cat      *catalogue
	segments *segmentCache
	grace    grace

	// opMu is held by operations on the structure: the tree of layers and the
	// names of LUNs and snapshots.
	opMu sync.Mutex

	mu   sync.RWMutex
	luns map[uint64]*lun
	// snapHandles holds the open volumes of snapshots by their ids.
	snapHandles map[uint64]*handles

	closed atomic.Bool

	brokenMu sync.Mutex
	// broken holds the layers whose maps cannot be read, and why.
	broken map[uint32]error

	viewMu   sync.Mutex
	views    map[uint32]*view
	pins     pins
	viewTick uint64

	maintenance maintenance
	compaction  compaction
	summing     summing
	scrubbing   scrubbing
	sums        sumsCache
	maps        *mapCache
}

// poolHeader is the content of the file pool, as JSON.
type poolHeader struct {
	Format     string `json:"format"`
	Version    int    `json:"version"`
	UUID       string `json:"uuid"`
	ShardBytes int64  `json:"shard_bytes"`
	BlockBytes int64  `json:"block_bytes"`
	// Checksum is the CRC32C, in hexadecimal, of the file as it would be
	// without this line. Pools of before it was kept have none.
	Checksum string `json:"crc32c,omitempty"`
}

// render returns the content of the file, with its checksum.
func (h poolHeader) render() ([]byte, error) {
	h.Checksum = ""
	b, err := json.MarshalIndent(h, "", "  ")
	if err != nil {
		return nil, err
	}
	h.Checksum = fmt.Sprintf("%08x", crcOf(append(b, '\n')))
	b, err = json.MarshalIndent(h, "", "  ")
	return append(b, '\n'), err
}

// intact tells whether the file is, to the byte, what its content is written
// as.
func (h poolHeader) intact(file []byte) bool {
	want, err := h.render()
	if h.Checksum == "" && err == nil {
		want, err = json.MarshalIndent(h, "", "  ")
		want = append(want, '\n')
	}
	return err == nil && bytes.Equal(file, want)
}

// Open opens the pool in a directory and brings it to a consistent state. A
// missing or empty directory becomes an empty pool. The error is ErrInUse if
// another process has the pool open, ErrInvalid if the directory holds
// something else, ErrCorrupt if what concerns the whole pool is damaged: its
// header or its catalogue. A LUN or snapshot whose own files are damaged, or
// cannot be read, is shown as failed, and cannot be opened.
func Open(dir string, opts Options) (*Pool, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.MaxOrigins == 0 {
		opts.MaxOrigins = defaultMaxOrigins
	}
	if opts.BackgroundBytesPerSecond == 0 {
		opts.BackgroundBytesPerSecond = defaultBackgroundRate
	}
	if opts.FS == nil {
		if err := makeDir(dir); err != nil {
			return nil, err
		}
		opts.FS = blockfile.OS(dir)
	}
	if opts.BootID == "" {
		id, err := kernelBootID()
		if err != nil {
			return nil, err
		}
		opts.BootID = id
	}
	if len(opts.BootID) > bootIDSize {
		return nil, errorf(ErrInvalid, "boot id", "%d bytes are more than %d", len(opts.BootID), bootIDSize)
	}
	lock, err := lockPool(opts.FS, dir)
	if err != nil {
		return nil, err
	}
	p := &Pool{
		fs: opts.FS, dir: dir, bootID: opts.BootID, journal: opts.JournalBytes, log: opts.Logger,
		observer: opts.Observer, now: opts.Now, manual: opts.ManualMaintenance, lock: lock,
		backgroundRate: opts.BackgroundBytesPerSecond, sums: newSumsCache(),
		segments: newSegmentCache(opts.FS, segmentLimit()),
		maps:     newMapCache(opts.FS, mapMemory(opts.MapMemoryBytes), opts.Logger),
		luns:     make(map[uint64]*lun), views: make(map[uint32]*view), snapHandles: make(map[uint64]*handles),
	}
	if err := p.open(opts.ShardBytes, opts.ReserveBytes); err != nil {
		return nil, errors.Join(err, p.closeFiles())
	}
	p.summing.start(p) // maintenance wakes these two
	p.compaction.start(p, opts.MaxOrigins)
	p.maintenance.start(p)
	p.resumeScrub()
	return p, nil
}

func kernelBootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("blockdev: boot id of the kernel: %w", err)
	}
	return strings.TrimSpace(string(id)), nil
}

func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("blockdev: pool directory: %w", err)
	}
	return nil
}

// segmentLimit is how many segment files are kept open: half of what the
// process may open.
func segmentLimit() int {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil || r.Cur < 128 {
		return 64
	}
	return int(min(r.Cur/2, 1<<16))
}

// mapMemory is Options.MapMemoryBytes with its default: of a machine of 1 to
// 128 GiB a sixteenth.
func mapMemory(want int64) int64 {
	if want != 0 {
		return want
	}
	var s unix.Sysinfo_t
	if err := unix.Sysinfo(&s); err != nil {
		return minMapMemory
	}
	return min(max(int64(s.Totalram)*int64(s.Unit)/16, minMapMemory), maxMapMemory)
}

const (
	minMapMemory = 64 << 20
	maxMapMemory = 8 << 30
)

// lockPool takes the pool's lock, unless the directory is something else.
func lockPool(fsys blockfile.FS, dir string) (io.Closer, error) {
	names, err := fsys.ReadDir(".")
	if err != nil {
		return nil, fmt.Errorf("blockdev: pool directory: %w", err)
	}
	isPool := len(names) == 0
	for _, n := range names {
		isPool = isPool || n == poolFile || n == lockFile
	}
	if !isPool && !(len(names) == 1 && names[0] == "lost+found") {
		return nil, errorf(ErrInvalid, "pool "+dir, "the directory is not empty and holds no pool")
	}
	lock, err := fsys.Lock(lockFile)
	if errors.Is(err, blockfile.ErrLocked) {
		return nil, errorf(ErrInUse, "pool "+dir, "another process has it open")
	}
	return lock, err
}

// open reads or makes the pool's files.
func (p *Pool) open(shardBytes, reserveBytes int64) error {
	if err := p.openHeader(shardBytes); err != nil {
		return err
	}
	if err := dropSpill(p.fs); err != nil {
		return err
	}
	if err := p.reserve.open(p.fs, p.log, reserveBytes); err != nil {
		return err
	}
	for _, d := range []string{"layers", "segments"} {
		if err := p.fs.Mkdir(d); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	cat, err := openCatalogue(p.fs)
	if err != nil {
		return err
	}
	p.cat = cat
	p.cat.makeRoom = p.reserve.giveUp
	if err := p.fs.SyncDir("."); err != nil {
		return err
	}
	if err := p.recover(); err != nil {
		return err
	}
	if err := p.reserve.refill(); err != nil {
		p.log.Warn("reserve of the pool not filled", "error", err)
	}
	return nil
}

// openHeader reads the file pool, or writes that of a new pool.
func (p *Pool) openHeader(shardBytes int64) error {
	err := p.readHeader()
	if errors.Is(err, fs.ErrNotExist) {
		return p.createHeader(shardBytes)
	}
	return err
}

func (p *Pool) readHeader() error {
	b, err := readFile(p.fs, poolFile, 4096)
	if err != nil {
		return err
	}
	var h poolHeader
	switch err := json.Unmarshal(b, &h); {
	case err != nil:
		return &Error{Object: path.Join(p.dir, poolFile), Class: ErrCorrupt, Cause: err}
	case h.Format == poolFormat && h.Version == poolVersion && !h.intact(b):
		return errorf(ErrCorrupt, path.Join(p.dir, poolFile), "offset 0: wrong checksum, or something was added")
	case h.Format != poolFormat || h.Version != poolVersion || h.BlockBytes != BlockSize:
		return errorf(ErrInvalid, path.Join(p.dir, poolFile), "format %q version %d with blocks of %d bytes is not known", h.Format, h.Version, h.BlockBytes)
	case !validShard(h.ShardBytes):
		return errorf(ErrCorrupt, path.Join(p.dir, poolFile), "shards of %d bytes", h.ShardBytes)
	}
	p.uuid, p.shardBytes = h.UUID, h.ShardBytes
	return nil
}

// validShard tells whether segments may be of n bytes. The number of the last
// shard of the largest LUN has to fit 32 bits.
func validShard(n int64) bool {
	return n >= BlockSize && n%BlockSize == 0 && MaxLUNBytes/n <= 1<<32-1
}

func (p *Pool) createHeader(shardBytes int64) error {
	// Without its header, whatever else is there cannot be a new pool.
	if names, err := p.fs.ReadDir("layers"); err == nil && len(names) > 0 {
		return errorf(ErrCorrupt, path.Join(p.dir, poolFile), "the file is missing, layers are there")
	}
	if shardBytes == 0 {
		shardBytes = defaultShardBytes
	}
	if !validShard(shardBytes) {
		return errorf(ErrInvalid, "shard size", "%d is too small or not a multiple of %d", shardBytes, BlockSize)
	}
	h := poolHeader{Format: poolFormat, Version: poolVersion, UUID: uuid.NewString(), ShardBytes: shardBytes, BlockBytes: BlockSize}
	b, err := h.render()
	if err != nil {
		return err
	}
	f, err := p.fs.Open(poolFile+newSuffix, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(b, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := p.fs.Rename(poolFile+newSuffix, poolFile); err != nil {
		return err
	}
	p.uuid, p.shardBytes = h.UUID, h.ShardBytes
	return p.fs.SyncDir(".")
}

// journalLimit is what the journal files of a layer may reach in bytes.
func (p *Pool) journalLimit() int64 {
	if p.journal > 0 {
		return 8 * p.journal
	}
	return maxJournalBytes
}

func (p *Pool) firstJournal() int64 {
	if p.journal > 0 {
		return p.journal
	}
	return firstJournalBytes
}

// restingJournal is the length of the journal of a LUN that was closed or just
// opened: all of these are read when the pool is opened.
func (p *Pool) restingJournal() int64 {
	return min(p.firstJournal(), max(p.firstJournal()/16, minJournalBytes))
}

// nextJournal is the length of the journal file after one of a length.
func (p *Pool) nextJournal(length int64) int64 {
	return min(max(length, p.firstJournal())*nextJournalFactor, p.journalLimit()/3)
}

func (p *Pool) allLUNs() []*lun {
	p.mu.RLock()
	defer p.mu.RUnlock()
	out := make([]*lun, 0, len(p.luns))
	for _, l := range p.luns {
		out = append(out, l)
	}
	sortLUNs(out)
	return out
}

func (p *Pool) isClosed() bool { return p.closed.Load() }

// begin takes the structure lock; the caller releases it with opMu.Unlock.
func (p *Pool) begin(ctx context.Context) error {
	p.opMu.Lock()
	err := ctx.Err()
	if p.isClosed() {
		err = &Error{Object: "pool " + p.dir, Class: ErrClosed}
	}
	if err != nil {
		p.opMu.Unlock()
	}
	return err
}

// recordFailure notes in the catalogue that a LUN failed.
func (p *Pool) recordFailure(id uint64, cause string) {
	r := p.cat.lun(id)
	if r == nil {
		return
	}
	if err := p.cat.commit(putFailure(failureRecord{id, cause})); err != nil {
		p.log.Error("failure of a LUN could not be recorded", "lun", r.Name, "error", err)
	}
}

// Info describes the pool.
func (p *Pool) Info() (PoolInfo, error) {
	total, free, err := p.fs.Space()
	if err != nil {
		return PoolInfo{}, err
	}
	p.cat.mu.RLock()
	luns, snapshots := len(p.cat.luns), len(p.cat.snapshots)
	p.cat.mu.RUnlock()
	warn := total / warnShare
	failures, more := p.failures()
	return PoolInfo{
		Failures: failures, MoreFailures: more,
		UUID: p.uuid, Dir: p.dir, LUNs: luns, Snapshots: snapshots,
		TotalBytes: total, FreeBytes: free, Pending: p.pending(),
		Space: p.spaceState(free, warn), WarnBytes: warn,
		ReserveBytes: p.reserve.want, ReservedBytes: p.reserve.heldBytes(),
	}, nil
}
