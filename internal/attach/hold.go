package attach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/internal/lockfile"
)

// Backend reaches the exports of an appliance and shows them to the kernel.
type Backend interface {
	// Kernel makes a device of an export through the kernel's NBD driver. The
	// error is errors.ErrUnsupported if this host has none.
	Kernel(ctx context.Context, export string) (KernelDevice, error)
	// ServeFile mounts a filesystem on the directory dir that holds one file,
	// the content of the export.
	ServeFile(ctx context.Context, export, dir string, readOnly bool) (FileServer, error)
}

// KernelDevice is a device that the kernel's NBD driver serves.
type KernelDevice interface {
	Path() string
	// Lost is closed when the kernel has given the connection up.
	Lost() <-chan struct{}
	// Close takes the device away. It fails with EBUSY while the device is in
	// use.
	Close() error
}

// FileServer is a mounted filesystem with one file.
type FileServer interface {
	Path() string // of the file
	// Lost is closed when the connection to the daemon is lost.
	Lost() <-chan struct{}
	// Close unmounts it. It fails with EBUSY while the file is open.
	Close() error
}

// HoldOptions say what a holder holds.
type HoldOptions struct {
	Dir     string // of the appliance's records
	ID      string // of the attachment
	Export  string
	Backend Backend
	// Ready is called once, when the device, or the file for one, is there.
	Ready func(Record) error
	// Detach is told by a value to end.
	Detach <-chan struct{}
	Log    *slog.Logger
}

// Times of waiting for the kernel.
const (
	pollEvery    = 10 * time.Millisecond
	releaseLimit = 5 * time.Second
)

// ErrLost is what Hold returns when the connection to the daemon is lost. The
// process has to end then, so that the kernel learns of it, and another one has
// to call Manager.Sweep.
var ErrLost = errors.New("attach: the connection to the daemon is lost, and the device with it")

// Hold serves an export until it is told to end and nobody uses it, or until
// the connection to the daemon is lost.
func Hold(ctx context.Context, o HoldOptions) error {
	lock, err := lockfile.Try(filesOf(o.Dir, o.ID).lock)
	if errors.Is(err, lockfile.ErrHeld) {
		return fmt.Errorf("attach: %s is attached already: %w", o.Export, unix.EBUSY)
	}
	if err != nil {
		return err
	}
	err = holdLocked(ctx, o)
	if errors.Is(err, ErrLost) {
		// The lock goes with the process, after the device.
		return err
	}
	return errors.Join(err, lock.Release())
}

func holdLocked(ctx context.Context, o HoldOptions) error {
	s, r, err := serve(ctx, o)
	if err != nil {
		return err
	}
	r.id, r.Export, r.PID, r.Attached = o.ID, o.Export, os.Getpid(), time.Now().UTC()
	r.Log = filesOf(o.Dir, o.ID).log
	err = writeRecord(o.Dir, r)
	if err == nil {
		err = o.Ready(r)
	}
	if err != nil {
		return errors.Join(err, s.Close())
	}
	o.Log.Info("serving", "export", r.Export, "method", r.Method)
	for {
		select {
		case <-s.Lost():
			return ErrLost
		case <-o.Detach:
		}
		err := closeWhenFree(s)
		if err == nil {
			o.Log.Info("ended", "export", r.Export)
			return nil
		}
		o.Log.Warn("not ended", "export", r.Export, "err", err)
		if err := replaceFile(filesOf(o.Dir, o.ID).refused, []byte(err.Error())); err != nil {
			o.Log.Error("the refusal could not be recorded", "err", err)
		}
	}
}

// server is what both methods have in common.
type server interface {
	Lost() <-chan struct{}
	Close() error
}

// serve serves the export by the kernel's driver if there is one, else as a
// file.
func serve(ctx context.Context, o HoldOptions) (server, Record, error) {
	readOnly := isSnapshot(o.Export)
	k, err := o.Backend.Kernel(ctx, o.Export)
	if err == nil {
		return k, Record{Method: MethodNBD, Device: k.Path(), ReadOnly: readOnly}, nil
	}
	if !errors.Is(err, errors.ErrUnsupported) {
		return nil, Record{}, err
	}
	dir := filesOf(o.Dir, o.ID).mount
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, Record{}, fmt.Errorf("attach: %w", err)
	}
	f, err := o.Backend.ServeFile(ctx, o.Export, dir, readOnly)
	if err != nil {
		return nil, Record{}, err
	}
	return f, Record{Method: MethodLoop, File: f.Path(), ReadOnly: readOnly}, nil
}

// closeWhenFree closes s. The kernel gives a file up a moment after the loop
// device on it.
func closeWhenFree(s server) error {
	deadline := time.Now().Add(releaseLimit)
	err := s.Close()
	for errors.Is(err, unix.EBUSY) && time.Now().Before(deadline) {
		time.Sleep(pollEvery)
		err = s.Close()
	}
	return err
}
