package attach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/internal/lockfile"
)

// Backend reaches the exports of an appliance and shows them to the kernel.
type Backend interface {
	// Connect opens an export.
	Connect(ctx context.Context, export string) (Connection, error)
	// Kernel makes a device of an export through the kernel's NBD driver. The
	// error is errors.ErrUnsupported if this host has none.
	Kernel(ctx context.Context, export string, readOnly bool) (KernelDevice, error)
	// ServeFile mounts a filesystem on the directory that holds one file, the
	// content of the connection.
	ServeFile(dir string, c Connection, readOnly bool) (FileServer, error)
}

// Connection is an opened export.
type Connection interface {
	// Lost is closed when the connection is lost.
	Lost() <-chan struct{}
	// Flush makes every acknowledged write durable.
	Flush(ctx context.Context) error
	Close() error
}

// KernelDevice is a device that the kernel's NBD driver serves.
type KernelDevice interface {
	Path() string
	// Lost is closed when the kernel has given the connection up.
	Lost() <-chan struct{}
	// Close takes the device away.
	Close() error
}

// FileServer is a mounted filesystem with one file.
type FileServer interface {
	Path() string // of the file
	// Close unmounts it. It fails while the file is open.
	Close() error
}

// HoldOptions say what a holder holds.
type HoldOptions struct {
	Dir     string // of the appliance's records
	ID      string // of the attachment
	Export  string
	Backend Backend
	// Ready is called once, when the device can be used.
	Ready func(Record) error
	// Detach is told by a value that the device shall be detached.
	Detach <-chan struct{}
	Log    *slog.Logger
}

// Times of waiting for the kernel.
const (
	pollEvery    = 10 * time.Millisecond
	releaseLimit = 10 * time.Second
)

// device is what both methods of attaching have in common.
type device interface {
	record() Record
	// lost is closed when the device does not work any more.
	lost() <-chan struct{}
	// detach takes the device away. claim is the exclusive opening of it, which
	// detach closes, or -1 if the device has gone already.
	detach(claim int) error
	// abandon takes away what can be taken away while the device is in use.
	abandon()
}

// Hold attaches an export and serves the device until it is detached, which
// only happens while nobody uses it; or until the daemon is gone or ctx ends,
// which takes it away from its users.
func Hold(ctx context.Context, o HoldOptions) error {
	lock, err := lockfile.Try(filesOf(o.Dir, o.ID).lock)
	if errors.Is(err, lockfile.ErrHeld) {
		return fmt.Errorf("attach: %s is attached already: %w", o.Export, unix.EBUSY)
	}
	if err != nil {
		return err
	}
	err = holdLocked(ctx, o)
	return errors.Join(err, lock.Release(), leave(o.Dir, o.ID))
}

func holdLocked(ctx context.Context, o HoldOptions) error {
	d, err := open(ctx, o)
	if err != nil {
		return err
	}
	f := filesOf(o.Dir, o.ID)
	r := d.record()
	r.id, r.Export, r.PID, r.Attached, r.Log = o.ID, o.Export, os.Getpid(), time.Now().UTC(), f.log
	err = writeRecord(o.Dir, r)
	if err == nil {
		err = o.Ready(r)
	}
	if err != nil {
		d.abandon()
		return errors.Join(err, removeFile(f.record))
	}
	o.Log.Info("attached", "export", r.Export, "device", r.Device, "method", r.Method)
	err = hold(ctx, o, d, r)
	return errors.Join(err, removeFile(f.record))
}

// leave removes the files of an attachment that has ended by itself. If
// somebody is attaching or detaching, they do it.
func leave(dir, id string) error {
	l, err := lockfile.Try(filepath.Join(dir, "lock"))
	if errors.Is(err, lockfile.ErrHeld) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer removeDir(dir)
	return errors.Join(clean(dir, id), l.Release())
}

// hold serves until the device is gone.
func hold(ctx context.Context, o HoldOptions, d device, r Record) error {
	for {
		select {
		case <-ctx.Done():
			o.Log.Warn("taking the device away from its users", "device", r.Device)
			d.abandon()
			return nil
		case <-d.lost():
			d.abandon()
			return fmt.Errorf("attach: the connection to the daemon is lost, and %s with it", r.Device)
		case <-o.Detach:
		}
		err := detachUnused(d, r)
		if err == nil {
			o.Log.Info("detached", "export", r.Export, "device", r.Device)
			return nil
		}
		o.Log.Warn("not detached", "device", r.Device, "err", err)
		r.Refusals++
		r.Refused = err.Error()
		if err := writeRecord(o.Dir, r); err != nil {
			o.Log.Error("the refusal could not be recorded", "err", err)
		}
	}
}

// detachUnused detaches the device unless somebody uses it.
func detachUnused(d device, r Record) error {
	if !isDeviceOf(r) {
		return d.detach(-1)
	}
	fd, err := claim(r.Device, r.ReadOnly)
	if err != nil {
		return err
	}
	if !r.ReadOnly {
		if err := unix.Fsync(fd); err != nil {
			unix.Close(fd)
			return fmt.Errorf("attach: writing back what is cached of %s: %w", r.Device, err)
		}
	}
	return d.detach(fd)
}

// open makes the device, by the kernel's driver if there is one.
func open(ctx context.Context, o HoldOptions) (device, error) {
	readOnly := isSnapshot(o.Export)
	k, err := o.Backend.Kernel(ctx, o.Export, readOnly)
	if err == nil {
		return &kernelDevice{k, readOnly}, nil
	}
	if !errors.Is(err, errors.ErrUnsupported) {
		return nil, err
	}
	return openLoop(ctx, o, readOnly)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("attach: %w", err)
	}
	return nil
}
