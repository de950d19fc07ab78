package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/nbd"
	"github.com/rowan-storage/rowan/test/harness"
	"github.com/rowan-storage/rowan/test/workload"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

const mib = 1 << 20

// seed is a new number for each run, or the one in ROWAN_SEED, and is printed.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := rand.Uint64()
	if text := os.Getenv("ROWAN_SEED"); text != "" {
		var err error
		if s, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("ROWAN_SEED: %v", err)
		}
	}
	t.Logf("run it again with ROWAN_SEED=%d", s)
	return s
}

// soak is how long random tests go on, 0 unless ROWAN_SOAK says otherwise.
func soak(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("ROWAN_SOAK")
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("ROWAN_SOAK: %v", err)
	}
	return d
}

// create makes LUNs of one size, in 512-byte sectors.
func create(d *harness.Daemon, sectors int, luns ...string) {
	for _, lun := range luns {
		d.Rowan("lun", "create", lun, "--size", strconv.Itoa(sectors*workload.SectorSize))
	}
}

// clients are connections to exports, one of them each.
type clients []*nbd.Client

// open connects to exports over the daemon's unix socket.
func open(ctx context.Context, d *harness.Daemon, exports ...string) (clients, error) {
	var c clients
	for _, e := range exports {
		one, err := nbd.Dial(ctx, "unix", d.NBD, nbd.ClientOptions{Export: e})
		if err != nil {
			c.close()
			return nil, fmt.Errorf("%s: %w", e, err)
		}
		c = append(c, one)
	}
	return c, nil
}

// close ends the connections. That the daemon was killed in between is no
// error here.
func (c clients) close() {
	for _, one := range c {
		_ = one.Close()
	}
}

func (c clients) devices() []workload.Device {
	var devices []workload.Device
	for _, one := range c {
		devices = append(devices, one)
	}
	return devices
}

func (c clients) readers() []io.ReaderAt {
	var readers []io.ReaderAt
	for _, one := range c {
		readers = append(readers, one)
	}
	return readers
}

// read returns what exports hold, as devices of the workload.
func read(ctx context.Context, d *harness.Daemon, w *workload.Workload, exports ...string) (workload.Versions, error) {
	c, err := open(ctx, d, exports...)
	if err != nil {
		return nil, err
	}
	defer c.close()
	return w.Read(c.readers())
}

// exportHash is the SHA-256 of an export, as nbdcopy reads it.
func exportHash(t *testing.T, d *harness.Daemon, export string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "copy.raw")
	harness.Run(t, "nbdcopy", d.URI(export), path)
	defer os.Remove(path)
	return harness.HashFile(t, path)
}

// snapshot is a line of `snapshot list -o json`.
type snapshot struct {
	LUN         string `json:"lun"`
	Name        string `json:"name"`
	UniqueBytes int64  `json:"unique_bytes"`
}

func snapshots(t *testing.T, d *harness.Daemon, lun ...string) []snapshot {
	t.Helper()
	args := append([]string{"snapshot", "list", "-o", "json"}, lun...)
	return harness.Decode[[]snapshot](t, d.Rowan(args...))
}
