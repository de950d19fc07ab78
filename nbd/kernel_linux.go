//go:build linux && (amd64 || cgo)

package nbd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/pojntfx/go-nbd/pkg/ioctl"
	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/nbd/wire"
)

// ioctlSetFlags is NBD_SET_FLAGS of <linux/nbd.h>, which go-nbd lacks. Without
// it the driver takes the export for one without a cache and never flushes.
const ioctlSetFlags = 0xab<<8 | 10

// kernelFlags are the transmission flags that the driver may be told of.
const kernelFlags = wire.FlagHasFlags | wire.FlagReadOnly | wire.FlagSendFlush | wire.FlagSendFUA |
	wire.FlagSendTrim | wire.FlagSendWriteZeroes | wire.FlagRotational

// KernelDevice is a block device of the kernel that an export is attached to.
// It lasts until Detach, until the connection is lost, or until this process
// ends.
type KernelDevice struct {
	device *os.File
	done   chan struct{} // closed when the driver has let go
	err    error         // why, once done is closed

	mu        sync.Mutex
	detaching bool
}

// AttachKernel connects to the server at an address as in net.Dial and hands
// the connection to the kernel's nbd driver, which serves the export as a block
// device. The server must run on another host or in another process than
// whoever uses the device, or memory pressure can bring both to a stop.
//
// The driver has simple replies only, and cannot do TLS. ctx bounds the
// attaching only.
func AttachKernel(ctx context.Context, network, address string, o KernelOptions) (*KernelDevice, error) {
	conn, info, err := negotiate(ctx, network, address, ClientOptions{Export: o.Export}, wire.Simple)
	if err != nil {
		return nil, err
	}
	defer conn.Close() // the driver holds on to the socket itself
	blocks, err := o.blocks(info.sizeBytes)
	if err != nil {
		return nil, err
	}
	k, err := attachFree(conn, &info, o, blocks)
	if err != nil {
		return nil, err
	}
	if err := k.waitReady(ctx, blocks*int64(o.BlockBytes)); err != nil {
		k.Detach()
		return nil, err
	}
	return k, nil
}

// deviceTries bounds how often a device that is free may turn out to be taken
// by another process.
const deviceTries = 16

// attachFree attaches a connection to the device that o names, or to any that
// is free.
func attachFree(conn net.Conn, info *exportInfo, o KernelOptions, blocks int64) (*KernelDevice, error) {
	if o.Device != "" {
		return attachTo(o.Device, conn, info, o, blocks)
	}
	for try := 1; ; try++ {
		device, err := freeKernelDevice(os.DirFS("/sys/block"))
		if err != nil {
			return nil, err
		}
		k, err := attachTo(device, conn, info, o, blocks)
		if err == nil || try == deviceTries || !errors.Is(err, unix.EBUSY) {
			return k, err
		}
		time.Sleep(time.Millisecond) // until the other one is seen to have it
	}
}

func attachTo(name string, conn net.Conn, info *exportInfo, o KernelOptions, blocks int64) (*KernelDevice, error) {
	device, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("nbd: %w", err)
	}
	k := &KernelDevice{device: device, done: make(chan struct{})}
	ready := make(chan error, 1)
	go k.serve(conn, info, o, blocks, ready)
	if err := <-ready; err != nil {
		device.Close()
		return nil, fmt.Errorf("nbd: %s: %w", name, err)
	}
	return k, nil
}

// Path returns the name of the block device.
func (k *KernelDevice) Path() string { return k.device.Name() }

// Wait waits until the device is detached. It returns ErrDetached if that was
// asked for, otherwise why the driver let go.
func (k *KernelDevice) Wait() error {
	<-k.done
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.detaching {
		return ErrDetached
	}
	return fmt.Errorf("nbd: %s: the connection is lost: %w", k.Path(), k.err)
}

// Detach writes out what the kernel holds for the device, disconnects and
// waits until the driver has let go. It returns EBUSY, and does nothing, while
// the device or a part of it is mounted or otherwise claimed. It does nothing
// either where the driver has let go before: Wait tells why.
func (k *KernelDevice) Detach() error {
	if detached, err := k.beginDetach(); detached || err != nil {
		return err
	}
	err := k.device.Sync()
	if e := k.ioctl(ioctl.TRANSMISSION_IOCTL_DISCONNECT, 0); err == nil {
		err = e
	}
	<-k.done
	if e := k.device.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("nbd: detaching %s: %w", k.Path(), err)
	}
	return nil
}

// beginDetach sees to it that one Detach does the work. It tells whether there
// is none left to do, having waited for the one that does it.
func (k *KernelDevice) beginDetach() (detached bool, err error) {
	k.mu.Lock()
	detaching := k.detaching
	if !detaching {
		detached, err = k.claim()
		k.detaching = !detached && err == nil
	}
	k.mu.Unlock()
	if detaching {
		<-k.done
		return true, nil
	}
	return detached, err
}

// claim checks that nobody has claimed the device, unless the driver has let go
// of it.
func (k *KernelDevice) claim() (detached bool, err error) {
	select {
	case <-k.done:
		k.device.Close()
		return true, nil
	default:
	}
	f, err := os.OpenFile(k.Path(), os.O_RDONLY|syscall.O_EXCL, 0)
	if err != nil {
		return false, fmt.Errorf("nbd: detaching: %w", err)
	}
	return false, f.Close()
}

// serve sets the device up and lets the driver run it. The calls must come
// from one thread, and this thread stays in the driver: a signal that reached
// it there would end the connection, so it takes none, and ends with serve.
func (k *KernelDevice) serve(conn net.Conn, info *exportInfo, o KernelOptions, blocks int64, ready chan<- error) {
	defer close(k.done)
	runtime.LockOSThread() // and never unlocked: the thread is not fit for others
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, nil); err != nil {
		ready <- err
		return
	}
	if err := k.setUp(conn, info, o, blocks); err != nil {
		ready <- err
		return
	}
	ready <- nil
	k.err = k.ioctl(ioctl.NEGOTIATION_IOCTL_DO_IT, 0)
	if k.err == nil {
		k.err = syscall.EIO // the server hung up
	}
	k.ioctl(ioctl.TRANSMISSION_IOCTL_CLEAR_QUE, 0)
	k.ioctl(ioctl.TRANSMISSION_IOCTL_CLEAR_SOCK, 0)
}

// setUp tells the driver of the socket and the export.
func (k *KernelDevice) setUp(conn net.Conn, info *exportInfo, o KernelOptions, blocks int64) error {
	socket, ok := conn.(interface{ File() (*os.File, error) })
	if !ok {
		return syscall.ENOTSOCK
	}
	f, err := socket.File()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := k.ioctl(ioctl.NEGOTIATION_IOCTL_SET_SOCK, f.Fd()); err != nil {
		return err
	}
	for _, set := range []struct{ request, value uintptr }{
		{ioctl.NEGOTIATION_IOCTL_SET_BLOCKSIZE, uintptr(o.BlockBytes)},
		{ioctl.NEGOTIATION_IOCTL_SET_SIZE_BLOCKS, uintptr(blocks)},
		{ioctl.NEGOTIATION_IOCTL_SET_TIMEOUT, uintptr(o.Timeout / time.Second)},
		{ioctlSetFlags, uintptr(info.flags & kernelFlags)},
	} {
		if err := k.ioctl(set.request, set.value); err != nil {
			k.ioctl(ioctl.TRANSMISSION_IOCTL_CLEAR_SOCK, 0)
			return err
		}
	}
	return nil
}

func (k *KernelDevice) ioctl(request, value uintptr) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, k.device.Fd(), request, value); errno != 0 {
		return errno
	}
	return nil
}

// waitReady waits until the device has its size: the driver says no otherwise
// that it runs.
func (k *KernelDevice) waitReady(ctx context.Context, sizeBytes int64) error {
	for {
		size, err := k.device.Seek(0, 2)
		if err != nil {
			return fmt.Errorf("nbd: %s: %w", k.Path(), err)
		}
		if size == sizeBytes {
			return nil
		}
		select {
		case <-k.done:
			return k.Wait()
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}
