package blockfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
)

// ErrDamaged is returned by FS.OpenTable for a table whose file contradicts
// itself.
var ErrDamaged = errors.New("blockfile: the table is damaged")

// The file of a table is bbolt's. bbolt takes its structure on trust: a wrong
// page number or offset makes it panic, run in circles, or miss records. So the
// file is verified before bbolt sees it. Numbers are little endian.
//
//	page header, 16 bytes
//	  0  8  number of the page
//	  8  2  kind: 1 branch, 2 leaf, 4 meta, 16 free list
//	 10  2  number of elements
//	 12  4  number of pages that follow and belong to it
//	meta, after the header of pages 0 and 1
//	  0  4  magic, 4 version, 8 page size, 12 flags
//	 16  8  root page of the buckets, 24 sequence
//	 32  8  page of the free list
//	 40  8  number of pages
//	 48  8  transaction
//	 56  8  FNV-1a of bytes 0 to 55
//	branch element, 16 bytes: 0 4 offset of the key from here, 4 4 its length,
//	  8 8 page
//	leaf element, 16 bytes: 0 4 flags, 1 for a bucket; 4 4 offset of the key
//	  from here, 8 4 its length, 12 4 length of the value that follows
//	bucket, a value: 0 8 root page, 8 8 sequence; if the root is 0, its one
//	  leaf follows
//
// Of the two metas the one of the later transaction counts. Both are written
// within a sector, so that no crash leaves a wrong checksum; and to go back to
// the older one would undo a commit that was acknowledged.
const (
	pageHeader = 16
	metaSize   = 64
	boltMagic  = 0xED0CDAED
	boltFormat = 2

	pageBranch = 1
	pageLeaf   = 2
	pageMeta   = 4
	pageFree   = 16

	noFreeList   = ^uint64(0)
	maxTreeDepth = 32
)

type tableMeta struct {
	pageSize          int
	root, free, pages uint64
	transaction       uint64
}

// tableChecker verifies the file of a table.
type tableChecker struct {
	file []byte
	meta tableMeta
	used []bool // by page
}

// checkTable returns an error, which is ErrDamaged, unless the pages of a table
// form the trees and the list that they should.
func checkTable(file []byte) error {
	c := tableChecker{file: file}
	if err := c.metas(); err != nil {
		return err
	}
	c.used = make([]bool, c.meta.pages)
	c.used[0], c.used[1] = true, true
	if err := c.tree(c.meta.root, 0, true, nil, nil); err != nil {
		return err
	}
	return c.freeList()
}

func damagedAt(off int, format string, args ...any) error {
	return fmt.Errorf("%w: offset %d: %s", ErrDamaged, off, fmt.Sprintf(format, args...))
}

// metas reads both metas and keeps the later one.
func (c *tableChecker) metas() error {
	size := 0
	for n := range uint64(2) {
		at := int(n) * size
		if len(c.file) < at+pageHeader+metaSize {
			return damagedAt(at, "the file ends within meta %d", n)
		}
		m, err := c.readMeta(at, n)
		if err != nil {
			return err
		}
		size = m.pageSize
		if n == 1 && m.pageSize != c.meta.pageSize {
			return damagedAt(at, "the metas disagree on the size of a page")
		}
		if n == 0 || m.transaction > c.meta.transaction {
			c.meta = m
		}
	}
	if c.meta.pages < 3 || c.meta.pages > uint64(len(c.file)/size) {
		return damagedAt(0, "%d pages of %d bytes, the file has %d bytes", c.meta.pages, size, len(c.file))
	}
	return nil
}

func (c *tableChecker) readMeta(at int, n uint64) (tableMeta, error) {
	le := binary.LittleEndian
	h := c.file[at:]
	if le.Uint64(h) != n || le.Uint16(h[8:]) != pageMeta || le.Uint16(h[10:]) != 0 || le.Uint32(h[12:]) != 0 {
		return tableMeta{}, damagedAt(at, "no header of meta %d", n)
	}
	b := h[pageHeader : pageHeader+metaSize]
	sum := fnv.New64a()
	sum.Write(b[:56])
	if le.Uint64(b[56:]) != sum.Sum64() {
		return tableMeta{}, damagedAt(at+pageHeader, "wrong checksum of meta %d", n)
	}
	m := tableMeta{
		pageSize: int(le.Uint32(b[8:])), root: le.Uint64(b[16:]), free: le.Uint64(b[32:]),
		pages: le.Uint64(b[40:]), transaction: le.Uint64(b[48:]),
	}
	if le.Uint32(b) != boltMagic || le.Uint32(b[4:]) != boltFormat || m.pageSize < 1024 || m.pageSize > 64<<10 {
		return tableMeta{}, damagedAt(at+pageHeader, "meta %d is of another format", n)
	}
	return m, nil
}

// page claims a page and those that belong to it, and returns their bytes.
func (c *tableChecker) page(id uint64) ([]byte, error) {
	at := int(id) * c.meta.pageSize
	if id < 2 || id >= c.meta.pages {
		return nil, damagedAt(0, "page %d is named, there are %d", id, c.meta.pages)
	}
	b := c.file[at:]
	if binary.LittleEndian.Uint64(b) != id {
		return nil, damagedAt(at, "page %d says that it is another", id)
	}
	more := uint64(binary.LittleEndian.Uint32(b[12:]))
	if more >= c.meta.pages-id {
		return nil, damagedAt(at+12, "page %d has %d more, there are %d", id, more, c.meta.pages)
	}
	for n := id; n <= id+more; n++ {
		if c.used[n] {
			return nil, damagedAt(int(n)*c.meta.pageSize, "page %d is in use twice", n)
		}
		c.used[n] = true
	}
	return b[:(more+1)*uint64(c.meta.pageSize)], nil
}

// tree verifies the tree below a page, whose keys lie in [from, to); nil for
// any.
func (c *tableChecker) tree(id uint64, depth int, buckets bool, from, to []byte) error {
	if depth > maxTreeDepth {
		return damagedAt(0, "the tree is deeper than %d pages", maxTreeDepth)
	}
	b, err := c.page(id)
	if err != nil {
		return err
	}
	at := int(id) * c.meta.pageSize
	switch kind := binary.LittleEndian.Uint16(b[8:]); kind {
	case pageLeaf:
		return c.leaf(b, at, depth, buckets, from, to)
	case pageBranch:
		return c.branch(b, at, depth, buckets, from, to)
	default:
		return damagedAt(at+8, "page %d is of kind %d", id, kind)
	}
}

func (c *tableChecker) branch(b []byte, at, depth int, buckets bool, from, to []byte) error {
	le := binary.LittleEndian
	keys, err := elements(b, at, func(e []byte) (pos, length int) { return int(le.Uint32(e)), int(le.Uint32(e[4:])) })
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return damagedAt(at+10, "a branch without elements")
	}
	if err := ordered(keys, at, from, to); err != nil {
		return err
	}
	for i, key := range keys {
		end := to
		if i+1 < len(keys) {
			end = keys[i+1]
		}
		if err := c.tree(le.Uint64(b[pageHeader+16*i+8:]), depth+1, buckets, key, end); err != nil {
			return err
		}
	}
	return nil
}

func (c *tableChecker) leaf(b []byte, at, depth int, buckets bool, from, to []byte) error {
	le := binary.LittleEndian
	both, err := elements(b, at, func(e []byte) (pos, length int) {
		return int(le.Uint32(e[4:])), int(le.Uint32(e[8:])) + int(le.Uint32(e[12:]))
	})
	if err != nil {
		return err
	}
	keys := make([][]byte, len(both))
	for i, kv := range both {
		e := b[pageHeader+16*i:]
		keys[i] = kv[:le.Uint32(e[8:])]
		isBucket := le.Uint32(e) == 1
		if le.Uint32(e) > 1 || isBucket != buckets {
			return damagedAt(at+pageHeader+16*i, "element %d has flags %d", i, le.Uint32(e))
		}
		if !isBucket {
			continue
		}
		if err := c.bucket(kv[le.Uint32(e[8:]):], at, depth); err != nil {
			return err
		}
	}
	return ordered(keys, at, from, to)
}

func (c *tableChecker) bucket(value []byte, at, depth int) error {
	if len(value) < 16 {
		return damagedAt(at, "a bucket of %d bytes", len(value))
	}
	if root := binary.LittleEndian.Uint64(value); root != 0 {
		return c.tree(root, depth+1, false, nil, nil)
	}
	if b := value[16:]; len(b) < pageHeader || binary.LittleEndian.Uint16(b[8:]) != pageLeaf {
		return damagedAt(at, "a bucket in place is no leaf")
	}
	return c.leaf(value[16:], at, depth, false, nil, nil)
}

// elements returns what the elements of a page point at.
func elements(b []byte, at int, extent func(e []byte) (pos, length int)) ([][]byte, error) {
	count := int(binary.LittleEndian.Uint16(b[10:]))
	if pageHeader+16*count > len(b) {
		return nil, damagedAt(at+10, "%d elements in %d bytes", count, len(b))
	}
	out := make([][]byte, count)
	next := pageHeader + 16*count
	for i := range out {
		start := pageHeader + 16*i
		pos, length := extent(b[start:])
		if pos > len(b)-start || length > len(b)-start-pos || start+pos != next {
			return nil, damagedAt(at+start, "element %d lies at %d with %d bytes", i, start+pos, length)
		}
		out[i] = b[start+pos : start+pos+length]
		next = start + pos + length
	}
	return out, nil
}

func ordered(keys [][]byte, at int, from, to []byte) error {
	for i, key := range keys {
		if i > 0 && bytes.Compare(keys[i-1], key) >= 0 || from != nil && bytes.Compare(key, from) < 0 || to != nil && bytes.Compare(key, to) >= 0 {
			return damagedAt(at, "key %d is out of order", i)
		}
	}
	return nil
}

// freeList verifies that every page is either in use or in the free list.
func (c *tableChecker) freeList() error {
	if c.meta.free == noFreeList {
		return nil
	}
	b, err := c.page(c.meta.free)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	at := int(c.meta.free) * c.meta.pageSize
	count, start := uint64(le.Uint16(b[10:])), pageHeader
	if count == 0xFFFF {
		count, start = le.Uint64(b[pageHeader:]), pageHeader+8
	}
	if le.Uint16(b[8:]) != pageFree || count > uint64(len(b)-start)/8 {
		return damagedAt(at, "no free list of %d pages", count)
	}
	for i := range int(count) {
		id := le.Uint64(b[start+8*i:])
		if id >= c.meta.pages || c.used[id] {
			return damagedAt(at+start+8*i, "page %d is free and in use, or past the end", id)
		}
		c.used[id] = true
	}
	if n := slices.Index(c.used, false); n >= 0 {
		return damagedAt(n*c.meta.pageSize, "page %d is neither in use nor free", n)
	}
	return nil
}
