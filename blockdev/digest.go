package blockdev

// recordKey names a record of the catalogue's table.
type recordKey struct {
	bucket string
	id     uint64
}

// recordSum is the checksum of a record that may be there.
type recordSum struct {
	sum     uint32
	present bool
}

// digests holds the checksum of every record outside of the pool bucket, and
// all of them combined by exclusive or.
type digests struct {
	sums map[recordKey]uint32
	all  uint32
}

func (d *digests) add(key recordKey, sum uint32) {
	d.sums[key] = sum
	d.all ^= sum
}

// digestChange is what the digests will be once a commit has succeeded.
type digestChange struct {
	of    *digests
	sums  map[recordKey]recordSum // those that change
	all   uint32
	count uint64
}

func (d *digests) begin() *digestChange {
	return &digestChange{of: d, sums: make(map[recordKey]recordSum), all: d.all, count: uint64(len(d.sums))}
}

func (c *digestChange) set(key recordKey, now recordSum) {
	was, changed := c.sums[key]
	if !changed {
		was.sum, was.present = c.of.sums[key]
	}
	if was.present {
		c.all ^= was.sum
		c.count--
	}
	if now.present {
		c.all ^= now.sum
		c.count++
	}
	c.sums[key] = now
}

func (c *digestChange) finish() {
	for key, s := range c.sums {
		if s.present {
			c.of.sums[key] = s.sum
		} else {
			delete(c.of.sums, key)
		}
	}
	c.of.all = c.all
}
