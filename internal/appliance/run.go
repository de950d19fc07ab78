package appliance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rowan-storage/rowan/blockdev"
	"github.com/rowan-storage/rowan/internal/config"
	"github.com/rowan-storage/rowan/internal/httpapi"
	"github.com/rowan-storage/rowan/internal/httpapi/wire"
	"github.com/rowan-storage/rowan/nbd"
	"github.com/rowan-storage/rowan/systemd"
)

// ErrPoolInUse says that another process has the pool open.
var ErrPoolInUse = errors.New("the pool is in use")

// Run serves the pool that c names until ctx ends. Then it stops cleanly and
// returns nil, or what went wrong while stopping.
func Run(ctx context.Context, c config.Config, version string, log *slog.Logger) error {
	started := time.Now()
	log.Info("starting", "version", version, "pool", c.Pool)
	tlsConfig, err := c.ServerTLS()
	if err != nil {
		return err
	}
	d := &daemon{config: c, tls: tlsConfig, log: log}
	// Before the pool: a daemon that cannot be reached need not recover it.
	if err := d.listen(ctx); err != nil {
		return errors.Join(err, d.closeListeners())
	}
	pool, err := blockdev.Open(c.Pool, blockdev.Options{Logger: log, BackgroundBytesPerSecond: c.ScrubRate, MapMemoryBytes: c.MapMemory})
	if err != nil {
		if errors.Is(err, blockdev.ErrInUse) {
			err = fmt.Errorf("%w: %w", ErrPoolInUse, err)
		}
		err = d.explainPool(err)
		return errors.Join(err, d.closeListeners())
	}
	d.nbd = nbd.NewServer(nbd.Config{Exports: exports{pool}, Logger: log})
	d.api = httpapi.New(httpapi.Options{
		Engine: pool, Version: version, Started: started, API: c.API, PID: os.Getpid(),
		NBD: func() []wire.NBD { return d.addresses }, Logger: log,
	})
	serveErr := d.serve(ctx, started)
	if errors.Is(serveErr, errStuck) {
		return serveErr // the pool cannot be closed under requests
	}
	if err := pool.Close(); err != nil {
		return errors.Join(serveErr, fmt.Errorf("appliance: closing the pool: %w", err))
	}
	log.Info("stopped", "served", time.Since(started).Round(time.Millisecond))
	return serveErr
}

// namedFiles is how many files in the place of a pool are named.
const namedFiles = 3

// explainPool says what is in a directory that is no pool and cannot become
// one.
func (d *daemon) explainPool(err error) error {
	dir := d.config.Pool
	var e *blockdev.Error
	if !errors.As(err, &e) || e.Object != "pool "+dir || !errors.Is(err, blockdev.ErrInvalid) {
		return err
	}
	ours := map[string]bool{}
	for _, l := range append([]net.Listener{d.apiListener}, d.nbdListeners...) {
		if path := l.Addr().String(); l.Addr().Network() == "unix" {
			ours[path], ours[path+lockSuffix] = true, true
		}
	}
	entries, readErr := os.ReadDir(dir)
	var names []string
	for _, f := range entries {
		if !ours[filepath.Join(dir, f.Name())] {
			names = append(names, f.Name())
		}
	}
	switch {
	case readErr != nil || len(entries) == 0:
		return err
	case len(names) == 0:
		return fmt.Errorf("appliance: the sockets of the daemon lie in %s, which is to become a pool and has to be empty: "+
			"choose another directory for them, or for the pool: %w", dir, e.Class)
	case len(names) > namedFiles:
		names = append(names[:namedFiles], fmt.Sprintf("%d more", len(names)-namedFiles))
	}
	return fmt.Errorf("appliance: %s is no pool and not empty, it holds %s: choose another directory: %w",
		dir, strings.Join(names, ", "), e.Class)
}

// daemon is what serves one pool.
type daemon struct {
	config config.Config
	tls    *tls.Config // nil for none
	log    *slog.Logger

	apiListener  net.Listener
	nbdListeners []net.Listener
	addresses    []wire.NBD // of nbdListeners, in the same order

	nbd *nbd.Server
	api *httpapi.Server
}

// listen opens all listeners, but for those that systemd has opened. After an
// error some may be open.
func (d *daemon) listen(ctx context.Context) error {
	passed, err := systemd.TakeSockets()
	if err != nil {
		return err
	}
	defer func() {
		if err := passed.Close(); err != nil {
			d.log.Warn("not listening on all sockets", "err", err)
		}
	}()
	open := func(network, address string) (net.Listener, error) {
		if l := passed.Listener(network, address); l != nil {
			return l, nil
		}
		if network == "unix" {
			return listenUnix(address)
		}
		return listenTCP(ctx, address)
	}
	if err := makeDirectory(d.config.API); err != nil {
		return err
	}
	if d.apiListener, err = open("unix", d.config.API); err != nil {
		return err
	}
	for _, a := range d.config.NBD {
		l, err := open(a.Network, a.Addr)
		if err != nil {
			return err
		}
		d.nbdListeners = append(d.nbdListeners, l)
		d.addresses = append(d.addresses, wire.NBD{
			Network: a.Network, Address: l.Addr().String(), TLS: a.Network == "tcp" && d.tls != nil,
		})
	}
	return nil
}

// closeListeners closes what listen opened and no server has closed.
func (d *daemon) closeListeners() error {
	var errs []error
	for _, l := range append([]net.Listener{d.apiListener}, d.nbdListeners...) {
		if l == nil {
			continue
		}
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, fmt.Errorf("appliance: closing %s: %w", l.Addr(), err))
		}
	}
	return errors.Join(errs...)
}

// serve runs the servers until ctx ends or one of them fails, and stops them.
func (d *daemon) serve(ctx context.Context, started time.Time) error {
	group, ctx := errgroup.WithContext(ctx)
	for i, l := range d.nbdListeners {
		tlsConfig := d.tls
		if !d.addresses[i].TLS {
			tlsConfig = nil
		}
		group.Go(func() error {
			if err := d.nbd.Serve(l, tlsConfig); !errors.Is(err, nbd.ErrServerClosed) {
				return fmt.Errorf("appliance: serving NBD on %s: %w", l.Addr(), err)
			}
			return nil
		})
	}
	group.Go(func() error { return d.api.Serve(d.apiListener) })
	group.Go(func() error {
		<-ctx.Done()
		return d.stop(context.WithoutCancel(ctx))
	})
	d.logReady(started)
	return errors.Join(group.Wait(), d.closeListeners())
}

func (d *daemon) logReady(started time.Time) {
	var served []string
	for _, a := range d.addresses {
		served = append(served, a.Network+":"+a.Address)
	}
	d.log.Info("ready", "api", d.config.API, "nbd", served, "took", time.Since(started).Round(time.Millisecond))
}

// errStuck says that requests do not end though they were cancelled, such as
// those that wait for a disk that does not answer.
var errStuck = errors.New("appliance: NBD requests do not end: the pool is left as a killed daemon leaves it")

// cancelTime is how long requests that were cut off have to end.
const cancelTime = 2 * time.Second

// stop lets the requests in flight end, within a bound. Cutting off those that
// have not ended is part of stopping and no failure: nobody was told that they
// were done.
func (d *daemon) stop(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, d.config.StopTimeout)
	defer cancel()
	var both sync.WaitGroup
	both.Go(func() {
		if err := d.api.Shutdown(limited); err != nil {
			d.log.Warn("API requests were cut off", "err", err)
		}
	})
	both.Go(func() {
		if err := d.nbd.Shutdown(limited); err != nil {
			d.log.Warn("NBD requests were cut off", "err", err)
		}
	})
	both.Wait()
	ended := make(chan error, 1)
	// Not waited for if it is stuck: the process is about to end.
	go func() { ended <- d.nbd.Close() }()
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("appliance: stopping NBD: %w", err)
		}
		return nil
	case <-time.After(cancelTime):
		return errStuck
	}
}
