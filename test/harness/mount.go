package harness

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Attach makes a block device of a LUN and returns its path. The LUN is
// detached when the test ends, if it still is attached.
func (d *Daemon) Attach(lun string) string {
	d.t.Helper()
	device := strings.TrimSpace(d.Rowan("attach", lun))
	d.attached[lun] = true
	d.t.Cleanup(func() {
		if d.attached[lun] {
			d.Detach(lun)
		}
	})
	if _, err := os.Stat(device); err != nil {
		d.t.Fatalf("rowan attach %s names no device: %v", lun, err)
	}
	return device
}

// Detach takes the device of a LUN away.
func (d *Daemon) Detach(lun string) {
	d.t.Helper()
	d.Rowan("detach", lun)
	delete(d.attached, lun)
}

// Mount mounts a device or file with mount's options, and unmounts it when the
// test ends if it still is mounted. It returns the directory.
func Mount(t testing.TB, source string, options ...string) string {
	t.Helper()
	dir := filepath.Join(ShortDir(t), "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	Run(t, "mount", append(options, source, dir)...)
	t.Cleanup(func() { Unmount(t, dir) })
	return dir
}

// Unmount unmounts a directory, if it is mounted.
func Unmount(t testing.TB, dir string) {
	t.Helper()
	if Mounted(t, dir) {
		Run(t, "umount", dir)
	}
}

// Mounted tells whether something is mounted on a directory.
func Mounted(t testing.TB, dir string) bool {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(mounts), " "+dir+" ")
}

// Browse runs `rowan mount` until the test ends and returns the directory.
func (d *Daemon) Browse() string {
	d.t.Helper()
	dir := filepath.Join(ShortDir(d.t), "snapshots")
	if err := os.Mkdir(dir, 0o755); err != nil {
		d.t.Fatal(err)
	}
	d.Rowan("mount", dir)
	d.t.Cleanup(func() { Unmount(d.t, dir) })
	Eventually(d.t, 30*time.Second, "the snapshots are mounted", func() bool { return Mounted(d.t, dir) })
	return dir
}
