package blockdev

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// The catalogue holds what is known of LUNs, layers and snapshots, in one
// transactional table. A key is the object's id, 8 bytes big endian. A value
// is an envelope around JSON:
//
//	0  4  magic "RWN1"
//	4  4  length of the JSON, little endian
//	8  4  CRC32C of bucket name, key and JSON, little endian
//	12    JSON
const (
	catalogueFile     = "catalogue"
	recordMagic       = "RWN1"
	recordHeaderBytes = 12

	bucketPool      = "pool"
	bucketLUNs      = "luns"
	bucketLayers    = "layers"
	bucketSnapshots = "snapshots"
	bucketReclaims  = "reclaims"
	bucketFailures  = "failures"
	bucketScrubs    = "scrubs"
)

// poolRecord is the one record of its bucket, under id 0.
type poolRecord struct {
	Made bool `json:"made"` // always true in the table
	// Clean: the pool was closed with nothing left to give back in the segments
	// of open layers.
	Clean        bool   `json:"clean,omitempty"`
	NextLUN      uint64 `json:"next_lun"`
	NextLayer    uint32 `json:"next_layer"`
	NextSnapshot uint64 `json:"next_snapshot"`
	// Records is the number of records in the other buckets, Digest the CRC32C
	// of all of them combined by exclusive or: so that none can be lost unseen.
	// A table of before these were kept has neither, until the next commit.
	Records uint64 `json:"records,omitempty"`
	Digest  uint32 `json:"digest,omitempty"`
}

type lunRecord struct {
	ID        uint64    `json:"id"`
	UUID      string    `json:"uuid"`
	Name      string    `json:"name"`
	SizeBytes int64     `json:"size_bytes"`
	Head      uint32    `json:"head"` // the open layer
	Created   time.Time `json:"created"`
	Origin    string    `json:"origin,omitempty"`
}

// layerRecord is a node of the tree of layers.
type layerRecord struct {
	ID     uint32 `json:"id"`
	Parent uint32 `json:"parent"` // 0 for none
	// Blocks is the largest number of blocks that the layer may map.
	Blocks uint64 `json:"blocks"`
	// Origins are those whose segments the layer owns: its own, and those of
	// the layers that were merged into it. Every origin has one owner.
	Origins []uint32 `json:"origins"`
	// Sealed: the layer's presence map is whole and final.
	Sealed bool `json:"sealed"`
}

type snapshotRecord struct {
	ID          uint64          `json:"id"`
	LUN         uint64          `json:"lun"`
	Name        string          `json:"name"`
	Layer       uint32          `json:"layer"`
	SizeBytes   int64           `json:"size_bytes"`
	Created     time.Time       `json:"created"`
	Group       string          `json:"group,omitempty"`
	CreatedBy   string          `json:"created_by,omitempty"`
	Comment     string          `json:"comment,omitempty"`
	Consistency Consistency     `json:"consistency"`
	Evidence    json.RawMessage `json:"evidence,omitempty"`
	Locked      bool            `json:"locked,omitempty"`
	LockedUntil *time.Time      `json:"locked_until,omitempty"`
}

// reclaimRecord says that an origin holds blocks that nothing maps any more.
type reclaimRecord struct {
	Origin uint32 `json:"origin"`
	// Owner is the layer that owns the origin, 0 if none does: then all of it
	// goes.
	Owner uint32 `json:"owner"`
}

// failureRecord says that a LUN takes no more writes. It is a record of its own
// since a LUN may fail while its other record is being changed.
type failureRecord struct {
	LUN   uint64 `json:"lun"`
	Cause string `json:"cause"`
}

// catalogue is the table and a copy of it in memory. Records in the maps are
// never changed, only replaced.
type catalogue struct {
	table blockfile.Table
	// makeRoom frees some space for a commit that found none, and tells
	// whether it did; nil for nothing to free.
	makeRoom func() bool

	// commitMu makes memory follow the table in the order of the commits. It is
	// taken before mu.
	commitMu sync.Mutex
	digests  digests

	// layersVersion counts the commits that changed layers.
	layersVersion atomic.Uint64

	mu sync.RWMutex
	// failed is the error of a commit that may or may not be on disk. Nothing
	// is committed after it: only opening the pool again tells which.
	failed    error
	pool      poolRecord
	luns      map[uint64]*lunRecord
	layers    map[uint32]*layerRecord
	snapshots map[uint64]*snapshotRecord
	reclaims  map[uint32]*reclaimRecord
	failures  map[uint64]*failureRecord // by LUN
	scrub     *scrubRecord              // the last one, nil if there was none
}

// openCatalogue reads the whole table.
func openCatalogue(fs blockfile.FS) (*catalogue, error) {
	table, err := fs.OpenTable(catalogueFile)
	if errors.Is(err, blockfile.ErrDamaged) {
		return nil, &Error{Object: catalogueFile, Class: ErrCorrupt, Cause: err}
	}
	if err != nil {
		return nil, err
	}
	c := &catalogue{
		table:     table,
		pool:      poolRecord{NextLUN: 1, NextLayer: 1, NextSnapshot: 1},
		luns:      make(map[uint64]*lunRecord),
		layers:    make(map[uint32]*layerRecord),
		snapshots: make(map[uint64]*snapshotRecord),
		reclaims:  make(map[uint32]*reclaimRecord),
		failures:  make(map[uint64]*failureRecord),
		digests:   digests{sums: make(map[recordKey]uint32)},
	}
	err = table.View(func(tx blockfile.Tx) error {
		return errors.Join(
			load(c, tx, bucketPool, func(_ uint64, r *poolRecord) { c.pool = *r }),
			load(c, tx, bucketLUNs, func(id uint64, r *lunRecord) { c.luns[id] = r }),
			load(c, tx, bucketLayers, func(id uint64, r *layerRecord) { c.layers[uint32(id)] = r }),
			load(c, tx, bucketSnapshots, func(id uint64, r *snapshotRecord) { c.snapshots[id] = r }),
			load(c, tx, bucketReclaims, func(id uint64, r *reclaimRecord) { c.reclaims[uint32(id)] = r }),
			load(c, tx, bucketFailures, func(id uint64, r *failureRecord) { c.failures[id] = r }),
			load(c, tx, bucketScrubs, func(_ uint64, r *scrubRecord) { c.scrub = r }),
		)
	})
	if err == nil {
		err = c.complete()
	}
	if err != nil {
		return nil, errors.Join(err, table.Close())
	}
	return c, nil
}

// complete verifies that no record is missing.
func (c *catalogue) complete() error {
	if c.pool.Records == 0 && c.pool.Digest == 0 {
		return nil
	}
	if d := c.digests; uint64(len(d.sums)) != c.pool.Records || d.all != c.pool.Digest {
		return errorf(ErrCorrupt, catalogueFile, "%d records with the combined checksum %08x, there should be %d with %08x", len(d.sums), d.all, c.pool.Records, c.pool.Digest)
	}
	return nil
}

// load decodes every record of a bucket.
func load[R any](c *catalogue, tx blockfile.Tx, bucket string, add func(id uint64, r *R)) error {
	return tx.ForEach(bucket, func(key, value []byte) error {
		r := new(R)
		if err := decodeValue(bucket, key, value, r); err != nil {
			return err
		}
		id := binary.BigEndian.Uint64(key)
		if bucket != bucketPool {
			c.digests.add(recordKey{bucket, id}, binary.LittleEndian.Uint32(value[8:]))
		}
		add(id, r)
		return nil
	})
}

func catalogueKey(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

func valueCRC(bucket string, key, body []byte) uint32 {
	crc := crcOf([]byte(bucket))
	crc = crc32.Update(crc, castagnoli, key)
	return crc32.Update(crc, castagnoli, body)
}

func encodeValue(bucket string, key []byte, r any) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("blockdev: encode %s %x: %w", bucket, key, err)
	}
	v := append([]byte(recordMagic), 0, 0, 0, 0, 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(v[4:], uint32(len(body)))
	binary.LittleEndian.PutUint32(v[8:], valueCRC(bucket, key, body))
	return append(v, body...), nil
}

func decodeValue(bucket string, key, value []byte, r any) error {
	object := fmt.Sprintf("%s, %s record %x", catalogueFile, bucket, key)
	if len(key) != 8 || len(value) < recordHeaderBytes || string(value[:4]) != recordMagic {
		return errorf(ErrCorrupt, object, "not an envelope of %s", recordMagic)
	}
	body := value[recordHeaderBytes:]
	if uint64(binary.LittleEndian.Uint32(value[4:])) != uint64(len(body)) || binary.LittleEndian.Uint32(value[8:]) != valueCRC(bucket, key, body) {
		return errorf(ErrCorrupt, object, "wrong length or checksum")
	}
	if err := json.Unmarshal(body, r); err != nil {
		return &Error{Object: object, Class: ErrCorrupt, Cause: err}
	}
	return nil
}

// change is one record to be put or, where it is nil, deleted.
type change struct {
	bucket string
	id     uint64
	record any
	apply  func(c *catalogue) // to the copy in memory
}

func putPool(r poolRecord) change {
	return change{bucketPool, 0, r, func(c *catalogue) { c.pool = r }}
}

func putLUN(r lunRecord) change {
	return change{bucketLUNs, r.ID, r, func(c *catalogue) { c.luns[r.ID] = &r }}
}

func deleteLUN(id uint64) change {
	return change{bucketLUNs, id, nil, func(c *catalogue) { delete(c.luns, id) }}
}

func putLayer(r layerRecord) change {
	return change{bucketLayers, uint64(r.ID), r, func(c *catalogue) { c.layers[r.ID] = &r }}
}

func deleteLayer(id uint32) change {
	return change{bucketLayers, uint64(id), nil, func(c *catalogue) { delete(c.layers, id) }}
}

func putSnapshot(r snapshotRecord) change {
	return change{bucketSnapshots, r.ID, r, func(c *catalogue) { c.snapshots[r.ID] = &r }}
}

func deleteSnapshot(id uint64) change {
	return change{bucketSnapshots, id, nil, func(c *catalogue) { delete(c.snapshots, id) }}
}

func putReclaim(r reclaimRecord) change {
	return change{bucketReclaims, uint64(r.Origin), r, func(c *catalogue) { c.reclaims[r.Origin] = &r }}
}

func deleteReclaim(origin uint32) change {
	return change{bucketReclaims, uint64(origin), nil, func(c *catalogue) { delete(c.reclaims, origin) }}
}

func putFailure(r failureRecord) change {
	return change{bucketFailures, r.LUN, r, func(c *catalogue) { c.failures[r.LUN] = &r }}
}

func putScrub(r scrubRecord) change {
	return change{bucketScrubs, 0, r, func(c *catalogue) { c.scrub = &r }}
}

func deleteFailure(lun uint64) change {
	return change{bucketFailures, lun, nil, func(c *catalogue) { delete(c.failures, lun) }}
}

// commit makes changes durable, all or none, then applies them to memory.
func (c *catalogue) commit(changes ...change) error {
	values := make([][]byte, len(changes)) // nil for what is deleted
	for i, ch := range changes {
		if ch.record == nil {
			continue
		}
		var err error
		if values[i], err = encodeValue(ch.bucket, catalogueKey(ch.id), ch.record); err != nil {
			return &Error{Object: catalogueFile, Class: ErrInvalid, Cause: err}
		}
	}
	c.commitMu.Lock()
	defer c.commitMu.Unlock()
	c.mu.RLock()
	failed, pool := c.failed, c.pool
	c.mu.RUnlock()
	if failed != nil {
		return &Error{Object: catalogueFile, Class: ErrFailed, Detail: "a commit failed, restart the daemon", Cause: failed}
	}
	next, err := c.update(pool, changes, values)
	for isNoSpace(err) && c.makeRoom != nil && c.makeRoom() {
		next, err = c.update(pool, changes, values)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if isNoSpace(err) {
		return &Error{Object: catalogueFile, Class: ErrNoSpace, Cause: err}
	}
	if err != nil {
		c.failed = err
		return &Error{Object: catalogueFile, Class: ErrFailed, Detail: "commit", Cause: err}
	}
	next.finish()
	// The pool's record is left as it is where no change is about it: whoever
	// holds Pool.opMu reads it without mu.
	for _, ch := range changes {
		ch.apply(c)
		if ch.bucket == bucketLayers {
			c.layersVersion.Add(1)
		}
	}
	return nil
}

// update writes changes to the table, with the values encoded, and the pool's
// record with what the digests then are, which it returns.
func (c *catalogue) update(pool poolRecord, changes []change, values [][]byte) (*digestChange, error) {
	next := c.digests.begin()
	err := c.table.Update(func(tx blockfile.Tx) error {
		for i, ch := range changes {
			if r, ok := ch.record.(poolRecord); ok {
				pool = r // put below
				continue
			}
			sum, err := put(tx, ch.bucket, ch.id, values[i])
			if err != nil {
				return err
			}
			next.set(recordKey{ch.bucket, ch.id}, recordSum{sum, values[i] != nil})
		}
		pool.Records, pool.Digest = next.count, next.all
		value, err := encodeValue(bucketPool, catalogueKey(0), pool)
		if err != nil {
			return err
		}
		_, err = put(tx, bucketPool, 0, value)
		return err
	})
	return next, err
}

// broken tells whether a commit failed that may be on disk.
func (c *catalogue) broken() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.failed != nil
}

// put sets or, for nil, deletes a value in a transaction, and returns the
// checksum in it.
func put(tx blockfile.Tx, bucket string, id uint64, value []byte) (uint32, error) {
	if value == nil {
		return 0, tx.Delete(bucket, catalogueKey(id))
	}
	return binary.LittleEndian.Uint32(value[8:]), tx.Put(bucket, catalogueKey(id), value)
}

func (c *catalogue) lunByName(name string) *lunRecord {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, r := range c.luns {
		if r.Name == name {
			return r
		}
	}
	return nil
}

func (c *catalogue) snapshotByName(lun uint64, name string) *snapshotRecord {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, r := range c.snapshots {
		if r.LUN == lun && r.Name == name {
			return r
		}
	}
	return nil
}

// find returns the LUN and snapshot of these names or ErrNotFound.
func (c *catalogue) find(lun, name string) (*lunRecord, *snapshotRecord, error) {
	l, err := c.findLUN(lun)
	if err != nil {
		return nil, nil, err
	}
	s := c.snapshotByName(l.ID, name)
	if s == nil {
		return nil, nil, &Error{Object: snapshotObject(lun, name), Class: ErrNotFound}
	}
	return l, s, nil
}

func (c *catalogue) findLUN(name string) (*lunRecord, error) {
	l := c.lunByName(name)
	if l == nil {
		return nil, &Error{Object: lunObject(name), Class: ErrNotFound}
	}
	return l, nil
}

// failure returns why a LUN takes no more writes, "" if it does.
func (c *catalogue) failure(lun uint64) string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if r := c.failures[lun]; r != nil {
		return r.Cause
	}
	return ""
}

func (c *catalogue) lun(id uint64) *lunRecord {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.luns[id]
}

func (c *catalogue) snapshot(id uint64) *snapshotRecord {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.snapshots[id]
}

func (c *catalogue) layer(id uint32) *layerRecord {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.layers[id]
}

// children returns the layers whose parent is a layer, in no order.
func (c *catalogue) children(layer uint32) []*layerRecord {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var out []*layerRecord
	for _, r := range c.layers {
		if r.Parent == layer {
			out = append(out, r)
		}
	}
	return out
}

// byParent returns the layers by the one that they stand on. mu is held.
func (c *catalogue) byParent() map[uint32][]*layerRecord {
	children := make(map[uint32][]*layerRecord)
	for _, r := range c.layers {
		children[r.Parent] = append(children[r.Parent], r)
	}
	return children
}

// names returns the layers that are LUNs' heads or have snapshots' names. mu is
// held.
func (c *catalogue) names() map[uint32]bool {
	named := make(map[uint32]bool, len(c.luns)+len(c.snapshots))
	for _, s := range c.snapshots {
		named[s.Layer] = true
	}
	for _, l := range c.luns {
		named[l.Head] = true
	}
	return named
}

// named tells whether a layer is a LUN's head or has a snapshot's name.
func (c *catalogue) named(layer uint32) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.names()[layer]
}

func lunObject(name string) string { return "LUN " + name }

func snapshotObject(lun, name string) string { return "snapshot " + lun + "@" + name }
