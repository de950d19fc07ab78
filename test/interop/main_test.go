package interop

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/rowan-storage/rowan/test/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

const mib = 1 << 20

// randomFile makes a file of random data with holes in it: every fourth 64 KiB.
func randomFile(t *testing.T, name string, sizeBytes int64, seed byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	random := rand.NewChaCha8(sha256.Sum256(binary.LittleEndian.AppendUint64(nil, uint64(seed))))
	buf := make([]byte, 64<<10)
	for off, n := int64(0), 0; off < sizeBytes; off, n = off+int64(len(buf)), n+1 {
		if n%4 == 3 {
			continue
		}
		if _, err := random.Read(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(buf[:min(int64(len(buf)), sizeBytes-off)], off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(sizeBytes); err != nil {
		t.Fatal(err)
	}
	return path
}

// create makes a LUN of a number of MiB.
func create(d *harness.Daemon, name string, sizeMiB int) {
	d.Rowan("lun", "create", name, "--size", fmt.Sprintf("%dM", sizeMiB))
}

// copyOut copies an export into a new file with nbdcopy and returns its path.
func copyOut(t *testing.T, uri string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "out.raw")
	harness.Run(t, "nbdcopy", uri, path)
	return path
}

// same fails the test unless two files hold the same.
func same(t *testing.T, what, a, b string) {
	t.Helper()
	if harness.HashFile(t, a) != harness.HashFile(t, b) {
		t.Errorf("%s: %s and %s differ", what, a, b)
	}
}
