package appliance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/internal/lockfile"
)

// socketMode lets the owner and the group connect.
const socketMode = 0o660

// lockSuffix makes the name of a socket's lock of that of the socket.
const lockSuffix = ".lock"

// unixListener is a listening unix socket and the lock that guards its path.
type unixListener struct {
	*net.UnixListener
	path string
	lock *lockfile.Lock
	once sync.Once
}

// makeDirectory makes the directory for a socket if only that is missing: /run
// is empty after every start of the machine.
func makeDirectory(path string) error {
	dir := filepath.Dir(path)
	switch err := os.Mkdir(dir, 0o755); {
	case errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return nil // listenUnix says what is wrong, if anything is
	case err != nil:
		return fmt.Errorf("appliance: making the directory for the socket %s: %w", filepath.Base(path), err)
	}
	// The daemon's umask takes away what everybody needs to reach the socket.
	if err := os.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("appliance: %w", err)
	}
	return nil
}

// listenUnix makes a socket at path. It replaces one that nobody serves any
// more and refuses if somebody does, or if something else is there.
func listenUnix(path string) (net.Listener, error) {
	if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("appliance: the directory %s for the socket %s does not exist: make it first",
			filepath.Dir(path), filepath.Base(path))
	}
	lock, err := lockSocket(path)
	if err != nil {
		return nil, err
	}
	l, err := listenLocked(path)
	if err != nil {
		return nil, errors.Join(err, lock.Release())
	}
	return &unixListener{UnixListener: l, path: path, lock: lock}, nil
}

// lockSocket takes the lock of a socket's path.
func lockSocket(path string) (*lockfile.Lock, error) {
	lock, err := lockfile.Try(path + lockSuffix)
	if errors.Is(err, lockfile.ErrHeld) {
		return nil, fmt.Errorf("appliance: the socket %s is in use by another daemon", path)
	}
	if err != nil {
		return nil, fmt.Errorf("appliance: guarding the socket %s: %w", path, err)
	}
	return lock, nil
}

// listenLocked makes the socket while its lock is held.
func listenLocked(path string) (*net.UnixListener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("appliance: %w", err)
	}
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, errors.Join(fmt.Errorf("appliance: %w", err), l.Close())
	}
	return l, nil
}

// removeStale removes the socket of a daemon that is gone.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("appliance: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("appliance: %s exists and is not a socket: remove it or choose another path", path)
	}
	// Holding the lock means that no daemon of ours serves it, but another
	// program may.
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return fmt.Errorf("appliance: the socket %s is in use by another program", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("appliance: removing the socket of a daemon that is gone: %w", err)
	}
	return nil
}

// Close removes the socket and gives the lock up. The lock's file goes too,
// while the lock is still held.
func (l *unixListener) Close() error {
	err := net.ErrClosed
	l.once.Do(func() {
		err = errors.Join(l.UnixListener.Close(), l.lock.Release())
	})
	return err
}

// listenTCP listens on HOST:PORT.
func listenTCP(ctx context.Context, address string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("appliance: %w", err)
	}
	return l, nil
}
