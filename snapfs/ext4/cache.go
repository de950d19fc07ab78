package ext4

import (
	"container/list"
	"sync"
)

// lru is a cache with a bound on the sum of the costs of what it holds, which
// lets go first of what was not used for the longest. It is safe for concurrent
// use. Values are shared and must not be changed.
type lru[K comparable, V any] struct {
	limit int

	mu      sync.Mutex
	cost    int
	entries map[K]*list.Element
	order   list.List // of *lruEntry[K, V], the last used in front
}

type lruEntry[K comparable, V any] struct {
	key   K
	value V
	cost  int
}

func newLRU[K comparable, V any](limit int) *lru[K, V] {
	return &lru[K, V]{limit: limit, entries: make(map[K]*list.Element)}
}

func (c *lru[K, V]) get(key K) (value V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[key]
	if !ok {
		return value, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*lruEntry[K, V]).value, true
}

// put keeps value, unless it alone would fill the cache.
func (c *lru[K, V]) put(key K, value V, cost int) {
	if cost > c.limit {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.entries[key]; ok {
		c.remove(e)
	}
	for c.cost+cost > c.limit {
		c.remove(c.order.Back())
	}
	c.entries[key] = c.order.PushFront(&lruEntry[K, V]{key, value, cost})
	c.cost += cost
}

// remove lets go of an entry. The caller holds mu.
func (c *lru[K, V]) remove(e *list.Element) {
	entry := c.order.Remove(e).(*lruEntry[K, V])
	delete(c.entries, entry.key)
	c.cost -= entry.cost
}
