package blockdev

import (
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

// mapCache bounds the memory that the extent maps of a pool take together. What
// was not used lately is written to the spill file and comes back when it is
// needed. If that file cannot be written the maps take more memory.
//
// What is spilled is the content of one node: 1 GiB of a LUN, or 512 GiB in
// which little is mapped. Nodes are shared between maps, which are dropped
// without a word; that nothing refers to a node any more the garbage collector
// tells (runtime.AddCleanup), then its slot is given back.
//
// Lock order: extentMap.mu, mapCell.mu, mapCache.mu, spillFile.mu. No I/O is
// done with extentMap.mu held.
type mapCache struct {
	budget int64
	spill  spillFile
	log    *slog.Logger

	used    atomic.Int64 // bytes
	spilled atomic.Int64 // nodes

	evicting sync.Mutex
	hand     int       // in ring, guarded by evicting and mu
	buf      []byte    // guarded by evicting
	rest     time.Time // no eviction before it, guarded by evicting

	mu   sync.Mutex
	ring []*mapCell // those with a content that may be spilled
}

// spillRest is how long nothing is spilled after that failed.
const spillRest = 10 * time.Second

// mapCell is the content of a node, in memory or in the spill file. Nodes refer
// to it, it does not refer to a node.
type mapCell struct {
	// mu is held while the content is changed, read back or encoded.
	mu    sync.Mutex
	body  atomic.Pointer[mapBody] // nil if it is spilled
	slot  spillSlot               // of the content as it is
	size  int32                   // bytes of body that are counted
	at    int32                   // in the ring, guarded by mapCache.mu
	pins  atomic.Int32            // users that need it in memory
	used  atomic.Bool             // since the hand passed
	dirty bool                    // changed since it was last encoded
	dead  bool                    // no node refers to it
}

const notInRing = -1

// nodeBytes is what a node takes whose content is spilled: node, cell, the
// pointer to it and what the runtime keeps for its cleanup.
const nodeBytes = 160

// newMapCache makes a cache of budget bytes. It is nil, and its maps stay in
// memory, if that is negative.
func newMapCache(fsys blockfile.FS, budget int64, log *slog.Logger) *mapCache {
	if budget < 0 {
		return nil
	}
	return &mapCache{budget: budget, spill: spillFile{fs: fsys}, log: log}
}

// add takes up a new node with its content.
func (c *mapCache) add(n *mapNode) {
	if c == nil {
		return
	}
	cell := n.cell
	cell.size = int32(cell.body.Load().bytes())
	cell.used.Store(true)
	c.used.Add(int64(cell.size) + nodeBytes)
	if cell.body.Load().kids == nil {
		c.enter(cell)
	}
	runtime.AddCleanup(n, c.forget, cell)
}

// changed counts a content anew after it was changed. The cell's mu is held.
func (c *mapCache) changed(cell *mapCell) {
	if c == nil {
		return
	}
	b := cell.body.Load()
	if size := int32(b.bytes()); size != cell.size {
		c.used.Add(int64(size - cell.size))
		cell.size = size
	}
	cell.dirty = true
	if cell.slot.serial != 0 {
		c.spill.drop(cell.slot)
		cell.slot = spillSlot{}
	}
	if b.kids != nil {
		c.leave(cell)
	}
}

// forget gives back what a cell takes that no node refers to any more.
func (c *mapCache) forget(cell *mapCell) {
	cell.mu.Lock()
	defer cell.mu.Unlock()
	cell.dead = true
	c.used.Add(-nodeBytes)
	if cell.body.Load() != nil {
		c.used.Add(-int64(cell.size))
	} else {
		c.spilled.Add(-1)
	}
	c.leave(cell)
	if cell.slot.serial != 0 {
		c.spill.drop(cell.slot)
		cell.slot = spillSlot{}
	}
}

func (c *mapCache) enter(cell *mapCell) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cell.at = int32(len(c.ring))
	c.ring = append(c.ring, cell)
}

func (c *mapCache) leave(cell *mapCell) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cell.at == notInRing {
		return
	}
	last := len(c.ring) - 1
	c.ring[cell.at] = c.ring[last]
	c.ring[cell.at].at = cell.at
	c.ring[last] = nil
	c.ring = c.ring[:last]
	cell.at = notInRing
}

// load brings the content of a node into memory, where it stays until unpin.
// try is as for spillFile.read.
func (c *mapCache) load(n *mapNode, try bool) error {
	cell := n.cell
	cell.pins.Add(1)
	err := c.readBack(cell, try)
	if err != nil {
		cell.pins.Add(-1)
	}
	return err
}

func (c *mapCache) readBack(cell *mapCell, try bool) error {
	if try {
		if !cell.mu.TryLock() {
			return blockfile.ErrWouldBlock
		}
	} else {
		cell.mu.Lock()
	}
	defer cell.mu.Unlock()
	if cell.body.Load() != nil {
		return nil
	}
	b, err := c.spill.read(cell.slot, try)
	if err != nil {
		return err
	}
	body, err := decodeBody(b)
	if err != nil {
		return cell.slot.lost(err)
	}
	cell.size = int32(body.bytes())
	c.used.Add(int64(cell.size))
	c.spilled.Add(-1)
	cell.body.Store(body)
	c.enter(cell)
	return nil
}

// pin keeps the content of a node in memory until unpin; false if it is not
// there.
func (n *mapNode) pin() bool {
	if n.cell.body.Load() == nil {
		return false // it may be on its way, which is not to be waited for here
	}
	n.cell.pins.Add(1)
	n.cell.mu.Lock() // beside evict
	defer n.cell.mu.Unlock()
	if n.cell.body.Load() == nil {
		n.cell.pins.Add(-1)
		return false
	}
	return true
}

func (n *mapNode) unpin() { n.cell.pins.Add(-1) }

// shrink spills what was not used lately if the maps take more memory than they
// may. No lock of a map is held. Who comes while another is at it helps only
// when it falls behind.
func (c *mapCache) shrink() {
	if c == nil {
		return
	}
	over := c.used.Load() - c.budget
	if over <= 0 {
		return
	}
	if over > c.budget/8 {
		c.evicting.Lock()
	} else if !c.evicting.TryLock() {
		return
	}
	defer c.evicting.Unlock()
	c.mu.Lock()
	turns := 2 * len(c.ring) // the first passes by what was used
	c.mu.Unlock()
	for ; turns > 0 && c.used.Load() > c.budget && !time.Now().Before(c.rest); turns-- {
		cell := c.next()
		if cell == nil {
			return
		}
		if err := c.evict(cell); err != nil {
			if c.rest.IsZero() {
				c.log.Warn("maps take more memory than they should: the spill file cannot be written", "error", err)
			}
			c.rest = time.Now().Add(spillRest)
		}
	}
}

// next moves the hand. evicting is held.
func (c *mapCache) next() *mapCell {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ring) == 0 {
		return nil
	}
	c.hand = (c.hand + 1) % len(c.ring)
	return c.ring[c.hand]
}

// evict spills a content, unless it is in use or was used since the hand last
// passed. evicting is held.
func (c *mapCache) evict(cell *mapCell) error {
	if !cell.mu.TryLock() {
		return nil
	}
	defer cell.mu.Unlock()
	body := cell.body.Load()
	if cell.dead || body == nil || cell.pins.Load() > 0 || cell.used.Swap(false) {
		return nil
	}
	if cell.slot.serial == 0 {
		c.buf = body.encode(append(c.buf[:0], make([]byte, spillHeaderSize)...))
		cell.dirty = false
		cell.mu.Unlock()
		slot, err := c.spill.write(c.buf)
		cell.mu.Lock()
		if err != nil {
			return err
		}
		if cell.dirty || cell.dead {
			c.spill.drop(slot)
			return nil
		}
		cell.slot = slot
	}
	if cell.pins.Load() > 0 {
		return nil
	}
	cell.body.Store(nil)
	c.used.Add(-int64(cell.size))
	c.spilled.Add(1)
	c.leave(cell)
	return nil
}

func (c *mapCache) close() error {
	if c == nil {
		return nil
	}
	return c.spill.close()
}
