package harness

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// lack skips the test for want of something, or fails it in CI.
func lack(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("ROWAN_CI") != "" {
		t.Fatalf("missing: %s", what)
	}
	t.Skipf("missing: %s", what)
}

// Need makes sure that the programs can be run.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	var missing []string
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		lack(t, strings.Join(missing, ", ")+" (scripts/deps installs them)")
	}
}

// NeedMounts makes sure that filesystems can be mounted: root, FUSE and loop
// devices.
func NeedMounts(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		lack(t, "root, to mount filesystems")
	}
	for _, dev := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(dev); err != nil {
			lack(t, dev)
		}
	}
	Need(t, "mount", "umount", "losetup", "mkfs.ext4")
}
