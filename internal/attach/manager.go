package attach

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/internal/lockfile"
)

// DefaultBase holds one directory for each appliance.
const DefaultBase = "/run/rowan-attach"

// DirOf is the directory for what is attached from the appliance whose API is
// at a socket.
func DirOf(base, socket string) string {
	name := strings.Trim(strings.ReplaceAll(socket, "/", "-"), "-")
	sum := sha256.Sum256([]byte(socket))
	if len(name) > 60 {
		name = name[len(name)-60:]
	}
	return filepath.Join(base, name+"-"+hex.EncodeToString(sum[:4]))
}

// Manager attaches and detaches exports of one appliance.
type Manager struct {
	Dir string // see DirOf
	// Start starts a process that calls Hold for an attachment's id, with its
	// output in a file, and returns once the device can be used.
	Start func(ctx context.Context, id, export string, log *os.File) (Record, error)
}

// AttachedError says that a LUN has a device already.
type AttachedError struct{ Record Record }

func (e *AttachedError) Error() string {
	return fmt.Sprintf("%s is attached already, as %s", e.Record.Export, e.Record.Device)
}

// Unwrap lets errors.Is see what class it is of.
func (e *AttachedError) Unwrap() error { return unix.EBUSY }

// NotAttachedError says that there is no such device.
type NotAttachedError struct{ Name string }

func (e *NotAttachedError) Error() string { return e.Name + " is not attached on this host" }

// Unwrap lets errors.Is see what class it is of.
func (e *NotAttachedError) Unwrap() error { return unix.ENOENT }

// RefusedError is why a holder did not detach.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

// Unwrap lets errors.Is see what class it is of.
func (e *RefusedError) Unwrap() error { return unix.EBUSY }

func isSnapshot(export string) bool { return strings.Contains(export, "@") }

// Attach makes a device of an export, lun or lun@snapshot.
func (m *Manager) Attach(ctx context.Context, export string) (Record, error) {
	if os.Geteuid() != 0 {
		return Record{}, fmt.Errorf("attaching makes a block device, which only root may do: %w", os.ErrPermission)
	}
	unlock, err := m.lock(ctx)
	if err != nil {
		return Record{}, err
	}
	defer unlock()
	if err := m.sweep(); err != nil {
		return Record{}, err
	}
	id, err := m.freeID(export)
	if err != nil {
		return Record{}, err
	}
	f := filesOf(m.Dir, id)
	log, err := os.OpenFile(f.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return Record{}, fmt.Errorf("attach: %w", err)
	}
	defer log.Close()
	r, err := m.Start(ctx, id, export, log)
	if err != nil {
		return Record{}, errors.Join(err, clean(m.Dir, id))
	}
	r.id = id
	return r, nil
}

// freeID chooses the id for one more attachment.
func (m *Manager) freeID(export string) (string, error) {
	records, err := living(m.Dir)
	if err != nil {
		return "", err
	}
	taken := map[string]bool{}
	for _, r := range records {
		if r.Export == export && !isSnapshot(export) {
			return "", &AttachedError{r}
		}
		taken[r.id] = true
	}
	if !isSnapshot(export) {
		return export, nil
	}
	for n := 1; ; n++ {
		if id := export + "." + strconv.Itoa(n); !taken[id] {
			return id, nil
		}
	}
}

// List lists what is attached and who uses it.
func (m *Manager) List() ([]Record, error) {
	records, err := living(m.Dir)
	if err != nil {
		return nil, err
	}
	for i := range records {
		records[i].Users = usersOf(records[i].Device)
	}
	return records, nil
}

// Find returns what a name stands for: a device, or an export.
func (m *Manager) Find(name string) ([]Record, error) {
	records, err := living(m.Dir)
	if err != nil {
		return nil, err
	}
	var found []Record
	for _, r := range records {
		if r.Export == name || r.Device == name {
			found = append(found, r)
		}
	}
	if len(found) == 0 {
		return nil, &NotAttachedError{name}
	}
	return found, nil
}

// Detach takes away the device with this name, or the devices of this export.
// A device that is in use stays: the error is an *InUseError or comes from the
// holder.
func (m *Manager) Detach(ctx context.Context, name string) ([]Record, error) {
	if _, err := os.Lstat(m.Dir); err != nil {
		return nil, &NotAttachedError{name}
	}
	unlock, err := m.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := m.sweep(); err != nil {
		return nil, err
	}
	found, err := m.Find(name)
	if err != nil {
		return nil, err
	}
	var done []Record
	var errs []error
	for _, r := range found {
		if err := m.detach(ctx, r); err != nil {
			errs = append(errs, err)
			continue
		}
		done = append(done, r)
	}
	return done, errors.Join(errs...)
}

// openLimit is how long a process may have a device open that is about to be
// detached: programs that look at every new device are quick.
const openLimit = 2 * time.Second

func (m *Manager) detach(ctx context.Context, r Record) error {
	deadline := time.Now().Add(openLimit)
	for users := usersOf(r.Device); len(users) > 0 && isDeviceOf(r); users = usersOf(r.Device) {
		if time.Now().After(deadline) || !onlyOpen(users) {
			return &InUseError{Device: r.Device, Users: users}
		}
		time.Sleep(5 * pollEvery)
	}
	pidfd, err := unix.PidfdOpen(r.PID, 0)
	// The lock tells that the process with this number still is the holder.
	if err != nil || !alive(m.Dir, r.id) {
		return errors.Join(closeFD(pidfd, err), clean(m.Dir, r.id))
	}
	defer unix.Close(pidfd)
	if err := unix.PidfdSendSignal(pidfd, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("attach: telling the holder of %s to detach: %w", r.Device, err)
	}
	for alive(m.Dir, r.id) {
		if now, err := readRecord(m.Dir, r.id); err == nil && now.Refusals > r.Refusals {
			return &RefusedError{now.Refused}
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return fmt.Errorf("attach: waiting for %s to be detached: %w", r.Device, ctx.Err())
		}
	}
	return clean(m.Dir, r.id)
}

func closeFD(fd int, err error) error {
	if err == nil {
		unix.Close(fd)
	}
	return nil
}

// onlyOpen tells whether nobody does more than having the device open.
func onlyOpen(users []string) bool {
	for _, u := range users {
		if !strings.HasPrefix(u, "open in ") {
			return false
		}
	}
	return true
}

// lock keeps other processes from changing what is attached.
func (m *Manager) lock(ctx context.Context) (unlock func(), err error) {
	for {
		if err := openDir(m.Dir); err != nil {
			return nil, err
		}
		l, err := lockfile.Wait(ctx, filepath.Join(m.Dir, "lock"))
		if errors.Is(err, os.ErrNotExist) {
			continue // whoever had the lock has removed the directory
		}
		if err != nil {
			return nil, err
		}
		return func() {
			// Others make the file anew, it is in nobody's way.
			_ = l.Release()
			removeDir(m.Dir)
		}, nil
	}
}

// sweep removes what holders left that have been killed.
func (m *Manager) sweep() error {
	all, err := ids(m.Dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range all {
		if !alive(m.Dir, id) {
			errs = append(errs, clean(m.Dir, id))
		}
	}
	return errors.Join(errs...)
}

// clean removes what a holder that is gone has left. A loop device that is
// still mounted goes with its last user.
func clean(dir, id string) error {
	f := filesOf(dir, id)
	if r, err := readRecord(dir, id); err == nil && r.Method == MethodLoop && isDeviceOf(r) {
		// It may be gone by now; if not, it goes when nobody uses it any more.
		_ = clearLoop(r.Device)
	}
	if err := unix.Unmount(f.mount, unix.MNT_DETACH); err != nil &&
		!errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("attach: unmounting %s: %w", f.mount, err)
	}
	var errs []error
	for _, path := range []string{f.mount, f.record, f.record + ".new", f.log, f.lock} {
		errs = append(errs, removeFile(path))
	}
	return errors.Join(errs...)
}
