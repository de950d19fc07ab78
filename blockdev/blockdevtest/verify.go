package blockdevtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
)

// verify reads everything and compares it with the model.
func (r *runner) verify() error {
	if err := r.resolve(); err != nil {
		return err
	}
	if m, ok := r.pool.(MapChecker); ok {
		if err := m.CheckMaps(context.Background()); err != nil {
			return fmt.Errorf("maps: %w", err)
		}
	}
	for _, l := range r.model.State() {
		if err := r.verifyLUN(l); err != nil {
			return err
		}
	}
	return nil
}

// image is a volume read whole.
type image struct {
	snapshot string // "" for the LUN
	bytes    []byte
}

func (r *runner) verifyLUN(l LUNState) error {
	var images []image
	for _, s := range append(l.Snapshots, SnapshotState{SizeBytes: l.SizeBytes}) {
		v, err := r.openForReading(l.Name, s.Name)
		if err != nil {
			return err
		}
		b, err := readVolume(v, s.SizeBytes)
		if err == nil && s.Name == "" {
			err = r.model.CheckLUN(l.Name, bytes.NewReader(b))
		} else if err == nil {
			err = r.model.CheckSnapshot(l.Name, s.Name, bytes.NewReader(b))
		}
		if err == nil {
			err = verifyExtents(v, b)
		}
		if err := errors.Join(err, v.Close()); err != nil {
			return fmt.Errorf("%s@%s: %w", l.Name, s.Name, err)
		}
		images = append(images, image{s.Name, b})
	}
	d, ok := r.pool.(Differ)
	for i := 1; ok && i < len(images); i++ {
		if err := verifyDiff(d, l.Name, images[i-1], images[i]); err != nil {
			return fmt.Errorf("difference of %s@%s and @%s: %w", l.Name, images[i-1].snapshot, images[i].snapshot, err)
		}
	}
	return nil
}

func (r *runner) openForReading(lun, snapshot string) (Volume, error) {
	var v Volume
	var err error
	if snapshot == "" {
		v, err = r.pool.OpenLUN(lun)
	} else {
		v, err = r.pool.OpenSnapshot(lun, snapshot)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s@%s: %w", lun, snapshot, err)
	}
	return v, nil
}

// readVolume reads all of a volume, in two pieces that meet within a sector.
func readVolume(v Volume, size int64) ([]byte, error) {
	b := make([]byte, size)
	cut := size / 2 / sectorSize * sectorSize
	if size > pageSize {
		cut += 100
	}
	for _, part := range []struct{ from, to int64 }{{0, cut}, {cut, size}} {
		n, err := v.ReadAt(b[part.from:part.to], part.from)
		if err != nil && !(err == io.EOF && part.from+int64(n) == size) {
			return nil, fmt.Errorf("read [%d, %d): %w", part.from, part.to, err)
		}
	}
	return b, nil
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// ranges checks that what is yielded covers a volume, and calls fn for each.
type ranges struct {
	at, size int64
	err      error
}

func (x *ranges) next(length int64, fn func(off, n int64) error) bool {
	if length <= 0 || length > x.size-x.at {
		x.err = fmt.Errorf("a range of %d bytes at %d of %d", length, x.at, x.size)
		return false
	}
	x.err = fn(x.at, length)
	x.at += length
	return x.err == nil
}

func (x *ranges) done(err error) error {
	if err = errors.Join(x.err, err); err == nil && x.at != x.size {
		err = fmt.Errorf("only %d bytes of %d were told", x.at, x.size)
	}
	return err
}

// verifyExtents checks that what is said to be a hole is zeros.
func verifyExtents(v Volume, b []byte) error {
	e, ok := v.(Extenter)
	if !ok {
		return nil
	}
	x := ranges{size: int64(len(b))}
	err := e.Extents(context.Background(), 0, x.size, func(length int64, data bool) bool {
		return x.next(length, func(off, n int64) error {
			if !data && !allZero(b[off:off+n]) {
				return fmt.Errorf("extents: no data in [%d, %d), which is not zeros", off, off+n)
			}
			return nil
		})
	})
	return x.done(err)
}

// verifyDiff checks that the differences, applied to one image, give the
// other.
func verifyDiff(d Differ, lun string, from, to image) error {
	x := ranges{size: int64(len(to.bytes))}
	old := make([]byte, max(len(to.bytes), len(from.bytes)))
	copy(old, from.bytes)
	err := d.Diff(context.Background(), lun, from.snapshot, to.snapshot, 0, x.size, func(length int64, c Difference) bool {
		return x.next(length, func(off, n int64) error {
			b := to.bytes[off : off+n]
			switch {
			case c == Same && !bytes.Equal(b, old[off:off+n]):
				return fmt.Errorf("[%d, %d) is said to be the same", off, off+n)
			case c == Zeroed && !allZero(b):
				return fmt.Errorf("[%d, %d) is said to be zeros", off, off+n)
			}
			return nil
		})
	})
	return x.done(err)
}
