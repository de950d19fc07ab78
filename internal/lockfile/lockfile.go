package lockfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrHeld says that another process, or another Lock of this one, has the lock.
var ErrHeld = errors.New("lockfile: held by another process")

// retryEvery is how often Wait tries.
const retryEvery = 20 * time.Millisecond

// Lock is a lock that is held.
type Lock struct{ f *os.File }

// Try takes the lock of a file, or returns ErrHeld.
func Try(path string) (*Lock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lockfile: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, ErrHeld
			}
			return nil, fmt.Errorf("lockfile: locking %s: %w", path, err)
		}
		// Whoever had the lock may have removed the file before giving it up.
		locked, err := f.Stat()
		named, namedErr := os.Lstat(path)
		if err == nil && namedErr == nil && os.SameFile(locked, named) {
			return &Lock{f}, nil
		}
		f.Close()
	}
}

// Wait takes the lock of a file as soon as it is free, or until ctx ends.
func Wait(ctx context.Context, path string) (*Lock, error) {
	for {
		l, err := Try(path)
		if !errors.Is(err, ErrHeld) {
			return l, err
		}
		select {
		case <-time.After(retryEvery):
		case <-ctx.Done():
			return nil, fmt.Errorf("lockfile: waiting for %s: %w", path, ctx.Err())
		}
	}
}

// Held tells whether somebody has the lock of a file that exists.
func Held(path string) bool {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// Release removes the file and gives the lock up.
func (l *Lock) Release() error {
	return errors.Join(os.Remove(l.f.Name()), l.f.Close())
}
