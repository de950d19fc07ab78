package blockfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
)

// boltTable is a Table in one bbolt file.
type boltTable struct{ db *bbolt.DB }

func openTable(path string) (Table, error) {
	file, err := os.ReadFile(path)
	if err == nil && len(file) > 0 {
		err = checkTable(file)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var db *bbolt.DB
	err = guarded(func() (err error) {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout:      time.Second, // the pool's own lock already keeps others out
			FreelistType: bbolt.FreelistMapType,
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open table %s: %w", path, err)
	}
	return boltTable{db}, nil
}

// guarded runs fn. bbolt panics at damage that it meets, and reads the file by
// mapping it: neither may end the process.
func guarded(fn func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	return fn()
}

func (t boltTable) View(fn func(tx Tx) error) error {
	return guarded(func() error {
		return t.db.View(func(tx *bbolt.Tx) error { return fn(boltTx{tx}) })
	})
}

func (t boltTable) Update(fn func(tx Tx) error) error {
	return guarded(func() error {
		return updateError(t.db.Update(func(tx *bbolt.Tx) error { return fn(boltTx{tx}) }))
	})
}

// updateError keeps the error of a sync, which may have lost anything, from
// being taken for a mere want of space: bbolt returns a sync's as a bare errno,
// that of a write with the name of the file.
func updateError(err error) error {
	if errno, ok := err.(syscall.Errno); ok {
		return fmt.Errorf("sync of the table: %v: %w", errno, syscall.EIO)
	}
	return err
}

func (t boltTable) Close() error { return t.db.Close() }

type boltTx struct{ tx *bbolt.Tx }

func (t boltTx) Get(bucket string, key []byte) []byte {
	b := t.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	return b.Get(key)
}

func (t boltTx) Put(bucket string, key, value []byte) error {
	b, err := t.tx.CreateBucketIfNotExists([]byte(bucket))
	if err != nil {
		return err
	}
	return b.Put(key, value)
}

func (t boltTx) Delete(bucket string, key []byte) error {
	b := t.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	return b.Delete(key)
}

func (t boltTx) ForEach(bucket string, fn func(key, value []byte) error) error {
	b := t.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	return b.ForEach(fn)
}
