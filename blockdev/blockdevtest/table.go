package blockdevtest

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"github.com/rowan-storage/rowan/blockdev/blockfile"
)

var (
	errReadOnlyTx = errors.New("blockdevtest: write in a read-only transaction")
	errTxDone     = errors.New("blockdevtest: transaction used after its end")
	errEmptyKey   = errors.New("blockdevtest: empty key")
)

// row is a key and its value.
type row struct{ key, value []byte }

// tableRows are the buckets of a table, each in the order of its keys. They
// are never changed, only replaced.
type tableRows map[string][]row

// rowOverhead is what a row takes beside its key and value.
const rowOverhead = 16

// bytes is the disk space that the rows take: whole blocks for each bucket.
func (t tableRows) bytes() int64 {
	var blocks int64
	for _, rows := range t {
		var n int64
		for _, r := range rows {
			n += int64(len(r.key)+len(r.value)) + rowOverhead
		}
		blocks += (n + pageSize - 1) / pageSize
	}
	return blocks * pageSize
}

// changed returns the buckets that differ from those of an earlier state of the
// table.
func (t tableRows) changed(before tableRows) tableRows {
	c := tableRows{}
	for name, rows := range t {
		old, ok := before[name]
		if !ok || len(old) != len(rows) || len(rows) > 0 && &old[0] != &rows[0] {
			c[name] = rows
		}
	}
	return c
}

func findRow(rows []row, key []byte) (int, bool) {
	return slices.BinarySearchFunc(rows, key, func(r row, key []byte) int {
		return bytes.Compare(r.key, key)
	})
}

// table is an open table.
type table struct {
	s    session
	ino  uint64
	name string

	update sync.Mutex // held by Update; before Disk.mu

	closed bool // under Disk.mu
}

// begin returns the rows as they are.
func (t *table) begin(op string) (tableRows, error) {
	if err := t.s.enter(); err != nil {
		return nil, pathError(op, t.name, err)
	}
	defer t.s.d.mu.Unlock()
	if t.closed {
		return nil, pathError(op, t.name, fs.ErrClosed)
	}
	return t.s.d.st.inodes[t.ino].rows, nil
}

func (t *table) View(fn func(tx blockfile.Tx) error) error {
	rows, err := t.begin("view")
	if err != nil {
		return err
	}
	x := &tx{rows: rows}
	defer x.end()
	return fn(x)
}

func (t *table) Update(fn func(tx blockfile.Tx) error) error {
	t.update.Lock()
	defer t.update.Unlock()
	rows, err := t.begin("update")
	if err != nil {
		return err
	}
	x := &tx{rows: rows, changed: map[string][]row{}}
	defer x.end()
	if err := fn(x); err != nil {
		return err
	}
	after := tableRows{}
	maps.Copy(after, rows)
	maps.Copy(after, x.changed)
	return t.s.mutate("update", call{class: Update, name: t.name, ino: t.ino, rows: after})
}

func (t *table) Close() error {
	t.update.Lock()
	defer t.update.Unlock()
	if err := t.s.enter(); err != nil {
		return pathError("close", t.name, err)
	}
	defer t.s.d.mu.Unlock()
	if t.closed {
		return pathError("close", t.name, fs.ErrClosed)
	}
	t.closed = true
	delete(t.s.d.tables, t.ino)
	t.s.d.st.release(t.ino)
	return nil
}

// tx is a transaction. What it hands out is overwritten when it ends, so that
// a use after the end shows.
type tx struct {
	rows    tableRows
	changed map[string][]row // nil in View
	handed  [][]byte
	done    bool
}

func (x *tx) end() {
	x.done = true
	for _, b := range x.handed {
		for i := range b {
			b[i] = 0xdb
		}
	}
}

// hand returns a copy of b that is good until the transaction ends.
func (x *tx) hand(b []byte) []byte {
	c := append([]byte{}, b...)
	x.handed = append(x.handed, c)
	return c
}

func (x *tx) bucket(name string) []row {
	if rows, ok := x.changed[name]; ok {
		return rows
	}
	return x.rows[name]
}

// own returns a bucket that the transaction may change.
func (x *tx) own(name string) []row {
	rows, ok := x.changed[name]
	if !ok {
		rows = slices.Clone(x.rows[name])
	}
	return rows
}

func (x *tx) writable(key []byte) error {
	switch {
	case x.done:
		return errTxDone
	case x.changed == nil:
		return errReadOnlyTx
	case len(key) == 0:
		return errEmptyKey
	}
	return nil
}

func (x *tx) Get(bucket string, key []byte) []byte {
	rows := x.bucket(bucket)
	if i, ok := findRow(rows, key); ok && !x.done {
		return x.hand(rows[i].value)
	}
	return nil
}

func (x *tx) Put(bucket string, key, value []byte) error {
	if err := x.writable(key); err != nil {
		return err
	}
	rows := x.own(bucket)
	r := row{key: append([]byte{}, key...), value: append([]byte{}, value...)}
	if i, ok := findRow(rows, key); ok {
		rows[i] = r
	} else {
		rows = slices.Insert(rows, i, r)
	}
	x.changed[bucket] = rows
	return nil
}

func (x *tx) Delete(bucket string, key []byte) error {
	if err := x.writable(key); err != nil {
		return err
	}
	rows := x.own(bucket)
	if i, ok := findRow(rows, key); ok {
		x.changed[bucket] = slices.Delete(rows, i, i+1)
	}
	return nil
}

func (x *tx) ForEach(bucket string, fn func(key, value []byte) error) error {
	if x.done {
		return errTxDone
	}
	for _, r := range slices.Clone(x.bucket(bucket)) {
		if err := fn(x.hand(r.key), x.hand(r.value)); err != nil {
			return err
		}
	}
	return nil
}
