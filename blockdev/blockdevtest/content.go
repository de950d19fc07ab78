package blockdevtest

import (
	"io"
	"maps"
)

const (
	pageSize   = 4096
	sectorSize = 512
)

// owner is the identity of a state: pages and inodes of another owner are
// copied before they are changed.
type owner struct{ _ byte }

type page struct {
	owner *owner
	data  [pageSize]byte
}

// content is the bytes of a sparse file. Pages not in the map are holes. Bytes
// past size are zero.
type content struct {
	size  int64
	pages map[int64]*page
}

func newContent() content { return content{pages: map[int64]*page{}} }

func (c *content) clone() content {
	return content{size: c.size, pages: maps.Clone(c.pages)}
}

// share returns a copy within one state, whose pages neither changes in place
// any more.
func (c *content) share(o *owner) content {
	for _, p := range c.pages {
		if p.owner == o {
			p.owner = nil
		}
	}
	return c.clone()
}

// own returns a page that o may change, allocating it if there is none.
func (c *content) own(o *owner, n int64) *page {
	p := c.pages[n]
	switch {
	case p == nil:
		p = &page{owner: o}
		c.pages[n] = p
	case p.owner != o:
		p = &page{owner: o, data: p.data}
		c.pages[n] = p
	}
	return p
}

// read fills p with the bytes at off, zeros past the end, whatever size is.
func (c *content) read(p []byte, off int64) {
	for len(p) > 0 {
		in := off % pageSize
		n := min(int64(len(p)), pageSize-in)
		if pg := c.pages[off/pageSize]; pg != nil {
			copy(p[:n], pg.data[in:])
		} else {
			clear(p[:n])
		}
		p, off = p[n:], off+n
	}
}

// readAt is io.ReaderAt.
func (c *content) readAt(p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if off >= c.size {
		return 0, io.EOF
	}
	n := min(int64(len(p)), c.size-off)
	c.read(p[:n], off)
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// write stores p at off; it does not change size.
func (c *content) write(o *owner, p []byte, off int64) {
	for len(p) > 0 {
		in := off % pageSize
		n := copy(c.own(o, off/pageSize).data[in:], p)
		p, off = p[n:], off+int64(n)
	}
}

// punch makes a range a hole where it covers pages, and zeros elsewhere.
func (c *content) punch(o *owner, off, n int64) {
	end := off + n
	if first, last := off/pageSize, (end+pageSize-1)/pageSize; last-first > int64(len(c.pages)) {
		for pg := range c.pages { // far fewer pages than the range is long
			if pg >= first && pg < last {
				c.punchPage(o, pg, off, end)
			}
		}
		return
	}
	for pg := off / pageSize; pg*pageSize < end; pg++ {
		c.punchPage(o, pg, off, end)
	}
}

func (c *content) punchPage(o *owner, pg, off, end int64) {
	if c.pages[pg] == nil {
		return
	}
	from, to := max(off-pg*pageSize, 0), min(end-pg*pageSize, pageSize)
	if from == 0 && to == pageSize {
		delete(c.pages, pg)
		return
	}
	clear(c.own(o, pg).data[from:to])
}

func (c *content) truncate(o *owner, size int64) {
	if size < c.size {
		c.punch(o, size, (c.size-size+pageSize-1)/pageSize*pageSize+pageSize)
	}
	c.size = size
}

func (c *content) flip(o *owner, off int64, bit uint) {
	if c.pages[off/pageSize] == nil {
		return // a hole has no bits on the disk
	}
	c.own(o, off/pageSize).data[off%pageSize] ^= 1 << bit
}

// missing counts the pages of a range that are holes.
func (c *content) missing(off, n int64) int64 {
	var holes int64
	for pg := off / pageSize; pg*pageSize < off+n; pg++ {
		if c.pages[pg] == nil {
			holes++
		}
	}
	return holes
}

// dataOp is a change of a file's bytes that the disk may not have yet.
type dataOp struct {
	class Class // WriteAt, PunchHole or Truncate
	// WriteAt: off is a multiple of the sector size and data whole sectors as
	// they were in the cache after the write; end is where the write ended.
	off  int64
	data []byte
	end  int64
	n    int64 // PunchHole: length; Truncate: the new size
}

// apply does all of op.
func (c *content) apply(o *owner, op dataOp) {
	switch op.class {
	case Truncate:
		c.truncate(o, op.n)
	case PunchHole:
		c.punch(o, op.off, op.n)
	case WriteAt:
		c.write(o, op.data, op.off)
		c.size = max(c.size, op.end)
	}
}

// applyPart does those grains of op (aligned pieces of so many bytes) for
// which keep says yes. A truncation is one grain, and a long hole punch is
// divided into a bounded number.
func (c *content) applyPart(o *owner, op dataOp, grain int64, keep func() bool) {
	switch op.class {
	case Truncate:
		if keep() {
			c.truncate(o, op.n)
		}
	case PunchHole:
		grain = max(pageSize, alignUp(op.n/64, pageSize))
		for off := op.off; off < op.off+op.n; {
			next := min(alignUp(off+1, grain), op.off+op.n)
			if keep() {
				c.punch(o, off, next-off)
			}
			off = next
		}
	case WriteAt:
		length := op.off + int64(len(op.data))
		for off := op.off; off < length; {
			next := min(alignUp(off+1, grain), length)
			if keep() {
				c.write(o, op.data[off-op.off:next-op.off], off)
				c.size = max(c.size, min(next, op.end))
			}
			off = next
		}
	}
}

func alignUp(n, to int64) int64 { return (n + to - 1) / to * to }
