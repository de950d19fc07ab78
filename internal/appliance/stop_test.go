package appliance

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/internal/config"
	"github.com/rowan-storage/rowan/internal/httpapi"
	"github.com/rowan-storage/rowan/nbd"
)

// stuckDevice stands for a disk that does not answer.
type stuckDevice struct {
	nbd.Device
	begun, release chan struct{}
}

func (d *stuckDevice) Size() int64 { return 1 << 20 }

func (d *stuckDevice) Flush(context.Context) error {
	close(d.begun)
	<-d.release
	return nil
}

func (d *stuckDevice) List(context.Context) ([]nbd.ExportInfo, error) { return nil, nil }

func (d *stuckDevice) Open(context.Context, string, string) (*nbd.Export, error) {
	return &nbd.Export{Device: d, Close: func() error { return nil }}, nil
}

// TestStopIsBoundedByStuckRequests: a request that does not end even when it is
// cancelled does not keep the daemon from ending.
func TestStopIsBoundedByStuckRequests(t *testing.T) {
	device := &stuckDevice{begun: make(chan struct{}), release: make(chan struct{})}
	log := slog.New(slog.DiscardHandler)
	d := &daemon{config: config.Default(), log: log}
	d.config.StopTimeout = 10 * time.Millisecond
	d.nbd = nbd.NewServer(nbd.Config{Exports: device, Logger: log})
	d.api = httpapi.New(httpapi.Options{Logger: log})
	socket := filepath.Join(t.TempDir(), "nbd.sock")
	l, err := listenUnix(socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- d.nbd.Serve(l, nil) }()
	c, err := nbd.Dial(t.Context(), "unix", socket, nbd.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	flushed := make(chan error, 1)
	go func() { flushed <- c.Flush(context.Background()) }()
	<-device.begun
	stopped := make(chan error, 1)
	go func() { stopped <- d.stop(context.Background()) }()
	select {
	case err := <-stopped:
		if !errors.Is(err, errStuck) {
			t.Errorf("stop returned %v", err)
		}
	case <-time.After(cancelTime + 20*time.Second):
		t.Error("stopping waits for a request that is stuck")
	}
	close(device.release)
	if err := <-flushed; err == nil {
		t.Error("the flush that was cut off succeeded")
	}
	if err := d.nbd.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, nbd.ErrServerClosed) {
		t.Error(err)
	}
	c.Close()
}
