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
	Dir string // see DirOf; an absolute path
	// Start starts a process that calls Hold for an attachment's id, with its
	// output in a file, and returns what Hold passed to Ready.
	Start func(ctx context.Context, id, export string, log *os.File) (Record, error)
}

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
	if err := m.sweep(ctx); err != nil {
		return Record{}, err
	}
	id, err := m.freeID(export)
	if err != nil {
		return Record{}, err
	}
	r, err := m.start(ctx, id, export)
	if err != nil {
		return Record{}, errors.Join(err, m.clean(id))
	}
	if r.Method == MethodLoop {
		if r.Device, err = attachLoop(r.File, r.ReadOnly); err == nil {
			r.DiskSeq = diskSeq(r.Device)
			err = writeRecord(m.Dir, r)
		}
		if err != nil {
			return Record{}, errors.Join(err, m.abandon(context.WithoutCancel(ctx), r))
		}
	}
	return r, nil
}

// start starts the holder.
func (m *Manager) start(ctx context.Context, id, export string) (Record, error) {
	f := filesOf(m.Dir, id)
	log, err := os.OpenFile(f.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return Record{}, fmt.Errorf("attach: %w", err)
	}
	defer log.Close()
	r, err := m.Start(ctx, id, export, log)
	r.id = id
	return r, err
}

// abandon gives up what a holder serves that has no device, or not one that
// anybody knows of.
func (m *Manager) abandon(ctx context.Context, r Record) error {
	return errors.Join(freeLoops(filesOf(m.Dir, r.id).mount), m.end(ctx, r))
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
		records[i].Users = records[i].users()
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
// A device that is in use stays: the error is an *InUseError or a
// *RefusedError.
func (m *Manager) Detach(ctx context.Context, name string) ([]Record, error) {
	if _, err := os.Lstat(m.Dir); errors.Is(err, os.ErrNotExist) {
		return nil, &NotAttachedError{name}
	} else if err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	unlock, err := m.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := m.sweep(ctx); err != nil {
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
	for users := r.users(); len(users) > 0 && isDeviceOf(r); users = r.users() {
		if time.Now().After(deadline) || !onlyOpen(users) {
			return &InUseError{Device: r.Device, Users: users}
		}
		time.Sleep(5 * pollEvery)
	}
	if r.Method == MethodLoop {
		if err := detachLoop(r); err != nil {
			return err
		}
	}
	return m.end(ctx, r)
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

// end tells a holder to end, waits for it and removes its files.
func (m *Manager) end(ctx context.Context, r Record) error {
	f := filesOf(m.Dir, r.id)
	if err := removeFile(f.refused); err != nil {
		return err
	}
	pidfd, err := unix.PidfdOpen(r.PID, 0)
	if err == nil {
		defer unix.Close(pidfd)
	}
	// The lock tells that the process with this number still is the holder.
	if err != nil || !alive(m.Dir, r.id) {
		return m.clean(r.id)
	}
	if err := unix.PidfdSendSignal(pidfd, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("attach: telling the process that serves %s to end: %w", r.Export, err)
	}
	for alive(m.Dir, r.id) {
		if reason, err := os.ReadFile(f.refused); err == nil {
			return &RefusedError{string(reason)}
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return fmt.Errorf("attach: waiting for the process that serves %s to end: %w", r.Export, ctx.Err())
		}
	}
	return m.clean(r.id)
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

// Sweep removes what holders have left that are gone, after waiting for the
// holder of one id, if that is not "", to be gone.
func (m *Manager) Sweep(ctx context.Context, id string) error {
	for id != "" && alive(m.Dir, id) {
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return fmt.Errorf("attach: waiting for the process of %s to end: %w", id, ctx.Err())
		}
	}
	if _, err := os.Lstat(m.Dir); err != nil {
		return nil
	}
	unlock, err := m.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return m.sweep(ctx)
}

// sweep removes what is left of holders that have been killed, and of
// attachments that were broken off before anybody got to know of the device.
func (m *Manager) sweep(ctx context.Context) error {
	all, err := ids(m.Dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range all {
		if !alive(m.Dir, id) {
			errs = append(errs, m.clean(id))
			continue
		}
		r, err := readRecord(m.Dir, id)
		switch {
		case errors.Is(err, os.ErrNotExist):
			errs = append(errs, m.breakOff(id))
		case err == nil && r.Device == "":
			errs = append(errs, m.abandon(ctx, r))
		}
	}
	return errors.Join(errs...)
}

// breakOff ends a holder that has not come as far as to a record, and that
// nobody waits for any more. It may be one that was killed and cannot die, since
// a thread of it waits for an answer of its own.
func (m *Manager) breakOff(id string) error {
	if err := forceUnmount(filesOf(m.Dir, id).mount); err != nil {
		return err
	}
	for deadline := time.Now().Add(openLimit); alive(m.Dir, id) && time.Now().Before(deadline); {
		time.Sleep(pollEvery)
	}
	if alive(m.Dir, id) {
		return nil // it goes on; with its record it will be found
	}
	return m.clean(id)
}

// forceUnmount takes a mount away, also under its users. All requests to its
// server that have no answer fail.
func forceUnmount(dir string) error {
	err := unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("attach: unmounting %s: %w", dir, err)
	}
	return nil
}

// clean removes what a holder that is gone has left. A loop device that is
// still mounted goes with its last user.
func (m *Manager) clean(id string) error {
	f := filesOf(m.Dir, id)
	errs := []error{freeLoops(f.mount)}
	if r, err := readRecord(m.Dir, id); err == nil && r.Method == MethodLoop && r.Device != "" && isDeviceOf(r) {
		errs = append(errs, clearLoop(r.Device))
	}
	errs = append(errs, forceUnmount(f.mount))
	for _, path := range []string{f.mount, f.record, f.record + ".new", f.refused, f.refused + ".new", f.log, f.lock} {
		errs = append(errs, removeFile(path))
	}
	return errors.Join(errs...)
}
