package nbd

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// KernelOptions says what AttachKernel attaches.
type KernelOptions struct {
	// Device is the block device to attach to, "" for the first free one of
	// /dev/nbd0, /dev/nbd1 and so on. The nbd module has to be loaded.
	Device string
	// Export is the name of the export, "" for the default one.
	Export string
	// BlockBytes is the logical block size of the device, 512 or 4096 (512).
	BlockBytes int
	// Timeout is how long a request may take before the kernel gives the
	// connection up, in whole seconds; 0 for as long as it takes.
	Timeout time.Duration
}

var (
	// ErrNoKernelDevice is returned if there is no free nbd device: usually
	// the module is not loaded.
	ErrNoKernelDevice = errors.New("nbd: no free /dev/nbd device")
	// ErrDetached is what Wait returns after Detach.
	ErrDetached = errors.New("nbd: detached")
)

// freeKernelDevice returns the name of the first nbd device that nothing is
// attached to, from the listing of /sys/block.
func freeKernelDevice(sysBlock fs.FS) (string, error) {
	names, err := fs.Glob(sysBlock, "nbd*")
	if err != nil {
		return "", err
	}
	number := func(name string) int {
		n, err := strconv.Atoi(strings.TrimPrefix(name, "nbd"))
		if err != nil {
			return -1 // a partition
		}
		return n
	}
	slices.SortFunc(names, func(a, b string) int { return number(a) - number(b) })
	for _, name := range names {
		if number(name) < 0 {
			continue
		}
		// The driver has this file while something is attached.
		if _, err := fs.Stat(sysBlock, path.Join(name, "pid")); errors.Is(err, fs.ErrNotExist) {
			return "/dev/" + name, nil
		}
	}
	return "", ErrNoKernelDevice
}

// blocks is the number of blocks of a device, which is as long as the export
// or less than a block shorter.
func (o *KernelOptions) blocks(sizeBytes int64) (int64, error) {
	if o.BlockBytes == 0 {
		o.BlockBytes = 512
	}
	if o.BlockBytes != 512 && o.BlockBytes != 4096 {
		return 0, fmt.Errorf("nbd: a block size of %d bytes", o.BlockBytes)
	}
	if o.Timeout < 0 || o.Timeout%time.Second != 0 {
		return 0, fmt.Errorf("nbd: a timeout of %v, which is not a number of seconds", o.Timeout)
	}
	return sizeBytes / int64(o.BlockBytes), nil
}
