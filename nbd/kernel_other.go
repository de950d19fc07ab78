//go:build !(linux && (amd64 || cgo))

package nbd

import (
	"context"
	"errors"
)

// KernelDevice is a block device of the kernel that an export is attached to.
type KernelDevice struct{}

// AttachKernel is not to be had on this platform.
func AttachKernel(context.Context, string, string, KernelOptions) (*KernelDevice, error) {
	return nil, errors.ErrUnsupported
}

// Path returns the name of the block device.
func (k *KernelDevice) Path() string { return "" }

// Wait waits until the device is detached.
func (k *KernelDevice) Wait() error { return errors.ErrUnsupported }

// Detach disconnects the device.
func (k *KernelDevice) Detach() error { return errors.ErrUnsupported }
