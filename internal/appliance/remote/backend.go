package remote

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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

func (b backend) Connect(ctx context.Context, export string) (attach.Connection, error) {
	c, err := b.Dial(ctx, export)
	if err != nil {
		return nil, err
	}
	return newConnection(c), nil
}

func (b backend) Kernel(ctx context.Context, export string, _ bool) (attach.KernelDevice, error) {
	address, err := b.address(ctx)
	if err != nil {
		return nil, err
	}
	d, err := nbd.AttachKernel(ctx, address.Network, address.Address, nbd.KernelOptions{Export: export})
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
	err := k.Detach()
	if err == nil {
		k.waiting.Wait()
	}
	return err
}

func (b backend) ServeFile(dir string, c attach.Connection, readOnly bool) (attach.FileServer, error) {
	s, err := fusemount.ServeFile(dir, c.(*connection).Client, fusemount.FileOptions{Logger: b.log, ReadOnly: readOnly})
	if err != nil {
		return nil, err
	}
	return fileServer{s}, nil
}

type fileServer struct{ *fusemount.FileServer }

func (s fileServer) Close() error { return s.Unmount() }

// connection is a client that notices when its server is gone.
type connection struct {
	*nbd.Client
	lost    chan struct{}
	cancel  context.CancelFunc
	probing sync.WaitGroup
}

func newConnection(c *nbd.Client) *connection {
	ctx, cancel := context.WithCancel(context.Background())
	conn := &connection{Client: c, lost: make(chan struct{}), cancel: cancel}
	conn.probing.Go(func() { conn.probe(ctx) })
	return conn
}

// probe asks for the status of the first block now and then, which costs
// neither side anything, until that fails.
func (c *connection) probe(ctx context.Context) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := c.Extents(ctx, 0, min(4096, c.Size()), func(int64, bool) bool { return true })
		if err != nil && ctx.Err() == nil {
			close(c.lost)
			return
		}
	}
}

// Lost is closed when the connection is lost.
func (c *connection) Lost() <-chan struct{} { return c.lost }

// Close ends the connection.
func (c *connection) Close() error {
	c.cancel()
	c.probing.Wait()
	return c.Client.Close()
}
