package attach

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// kernelDevice is a device of the kernel's NBD driver.
type kernelDevice struct {
	k        KernelDevice
	readOnly bool
}

func (d *kernelDevice) record() Record {
	return Record{Device: d.k.Path(), Method: MethodNBD, ReadOnly: d.readOnly}
}

func (d *kernelDevice) lost() <-chan struct{} { return d.k.Lost() }

func (d *kernelDevice) detach(claim int) error {
	// The driver keeps a device that is open.
	closeClaim(claim)
	return d.k.Close()
}

func (d *kernelDevice) abandon() { _ = d.k.Close() }

// loopDevice is a loop device on a file in a FUSE mount.
type loopDevice struct {
	path     string
	diskSeq  string
	mount    string // directory of the FUSE mount
	readOnly bool
	conn     Connection
	server   FileServer
}

func openLoop(ctx context.Context, o HoldOptions, readOnly bool) (device, error) {
	conn, err := o.Backend.Connect(ctx, o.Export)
	if err != nil {
		return nil, err
	}
	d := &loopDevice{conn: conn, readOnly: readOnly, mount: filesOf(o.Dir, o.ID).mount}
	if err := os.Mkdir(d.mount, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, errors.Join(fmt.Errorf("attach: %w", err), conn.Close())
	}
	if d.server, err = o.Backend.ServeFile(d.mount, conn, readOnly); err != nil {
		return nil, errors.Join(err, conn.Close(), os.Remove(d.mount))
	}
	if d.path, err = attachLoop(d.server.Path(), readOnly); err != nil {
		return nil, errors.Join(err, d.unmount(), conn.Close())
	}
	d.diskSeq = diskSeq(d.path)
	return d, nil
}

func (d *loopDevice) record() Record {
	return Record{Device: d.path, Method: MethodLoop, ReadOnly: d.readOnly, DiskSeq: d.diskSeq}
}

func (d *loopDevice) lost() <-chan struct{} { return d.conn.Lost() }

func (d *loopDevice) detach(claim int) error {
	if claim >= 0 {
		err := unix.IoctlSetInt(claim, unix.LOOP_CLR_FD, 0)
		closeClaim(claim)
		if err != nil && !errors.Is(err, unix.ENXIO) {
			return fmt.Errorf("attach: freeing %s: %w", d.path, err)
		}
	}
	if !d.waitGone(releaseLimit) {
		// Somebody opened it without claiming it and keeps it.
		return &InUseError{Device: d.path, Users: usersOf(d.path)}
	}
	flushErr := d.flush()
	return errors.Join(flushErr, d.unmount(), d.conn.Close())
}

// waitGone waits until the loop device has given the file up.
func (d *loopDevice) waitGone(limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for isDeviceOf(d.record()) {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(pollEvery)
	}
	return true
}

// flush makes durable what was written since the last flush of a user.
func (d *loopDevice) flush() error {
	if d.readOnly {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseLimit)
	defer cancel()
	return d.conn.Flush(ctx)
}

func (d *loopDevice) abandon() {
	// The kernel frees the loop device when its last user is gone, and then the
	// file; requests until then fail, because nobody serves the mount any more.
	if isDeviceOf(d.record()) {
		_ = clearLoop(d.path)
	}
	if !d.waitGone(10 * pollEvery) {
		_ = unix.Unmount(d.mount, unix.MNT_DETACH)
	}
	_ = d.unmount()
	_ = d.conn.Close()
}

// unmount ends the FUSE mount. The kernel gives the file up a moment after the
// loop device did.
func (d *loopDevice) unmount() error {
	deadline := time.Now().Add(releaseLimit)
	err := d.server.Close()
	for errors.Is(err, unix.EBUSY) && time.Now().Before(deadline) {
		time.Sleep(pollEvery)
		err = d.server.Close()
	}
	if rmErr := os.Remove(d.mount); rmErr != nil && !errors.Is(rmErr, os.ErrNotExist) {
		err = errors.Join(err, fmt.Errorf("attach: %w", rmErr))
	}
	return err
}

func closeClaim(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}
