package remote

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/rowan-storage/rowan/internal/attach"
	"github.com/rowan-storage/rowan/nbd"
	"github.com/rowan-storage/rowan/snapfs/fusemount"
)

// probeEvery is how often a connection that nobody may be using is looked
// after.
const probeEvery = time.Second

// Backend makes block devices of the appliance's exports.
func (a *Appliance) Backend(log *slog.Logger) attach.Backend { return backend{a, log} }

type backend struct {
	*Appliance
	log *slog.Logger
}

func (b backend) Kernel(ctx context.Context, export string) (attach.KernelDevice, error) {
	address, err := b.address(ctx)
	if err != nil {
		return nil, err
	}
	options := nbd.KernelOptions{Export: export}
	d, err := nbd.AttachKernel(ctx, address.Network, address.Address, options)
	if errors.Is(err, nbd.ErrNoKernelDevice) && b.loadModule(ctx) {
		d, err = nbd.AttachKernel(ctx, address.Network, address.Address, options)
	}
	if errors.Is(err, nbd.ErrNoKernelDevice) {
		return nil, fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	if err != nil {
		return nil, fmt.Errorf("remote: attaching %s at %s: %w", export, address.Address, err)
	}
	k := &kernelDevice{KernelDevice: d, lost: make(chan struct{})}
	k.waiting.Go(func() {
		_ = d.Wait() // that it ended is all that matters
		close(k.lost)
	})
	return k, nil
}

// loadModule loads the kernel's NBD driver if it is there and not loaded. It
// tells whether it did.
func (b backend) loadModule(ctx context.Context) bool {
	if _, err := os.Stat("/sys/module/nbd"); err == nil {
		return false
	}
	out, err := exec.CommandContext(ctx, "modprobe", "-q", "nbd").CombinedOutput()
	if err != nil {
		b.log.Info("no NBD driver in this kernel", "err", err, "modprobe", strings.TrimSpace(string(out)))
	}
	return err == nil
}

// kernelDevice is a device of the kernel's driver.
type kernelDevice struct {
	*nbd.KernelDevice
	lost    chan struct{}
	waiting sync.WaitGroup
}

// Lost is closed when the driver has given the connection up.
func (k *kernelDevice) Lost() <-chan struct{} { return k.lost }

// Close takes the device away.
func (k *kernelDevice) Close() error {
	if err := k.Detach(); err != nil {
		return err
	}
	k.waiting.Wait()
	return nil
}

func (b backend) ServeFile(ctx context.Context, export, dir string, readOnly bool) (attach.FileServer, error) {
	c, err := b.Dial(ctx, export)
	if err != nil {
		return nil, err
	}
	s, err := fusemount.ServeFile(dir, c, fusemount.FileOptions{Logger: b.log, ReadOnly: readOnly})
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	probing, cancel := context.WithCancel(context.Background())
	f := &fileServer{FileServer: s, client: c, log: b.log, cancel: cancel, lost: make(chan struct{})}
	f.probing.Go(func() { f.probe(probing) })
	return f, nil
}

// fileServer is a file of which the content comes over a connection, and that
// notices when the server at its other end is gone.
type fileServer struct {
	*fusemount.FileServer
	client  *nbd.Client
	log     *slog.Logger
	lost    chan struct{}
	cancel  context.CancelFunc
	probing sync.WaitGroup
}

// probe asks for the status of the first block now and then, which costs
// neither side anything, until that fails.
func (f *fileServer) probe(ctx context.Context) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := f.client.Extents(ctx, 0, min(4096, f.client.Size()), func(int64, bool) bool { return true })
		if err != nil && ctx.Err() == nil {
			f.log.Warn("the connection is lost", "err", err)
			close(f.lost)
			return
		}
	}
}

// Lost is closed when the connection is lost.
func (f *fileServer) Lost() <-chan struct{} { return f.lost }

// Close unmounts the file and ends the connection.
func (f *fileServer) Close() error {
	if err := f.Unmount(); err != nil {
		return err
	}
	f.cancel()
	f.probing.Wait()
	return f.client.Close()
}
