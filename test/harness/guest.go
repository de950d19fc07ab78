package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Guest is a machine under emulation with a real Linux kernel, for what the
// kernel of the host may lack. It needs no right of the host. Its only other
// programs are busybox's.
type Guest struct {
	// Modules are loaded in order. Those that the kernel has built in are
	// passed by.
	Modules []string
	// Programs are static programs, by their names in /bin of the guest.
	Programs map[string]string
	// Script is run by busybox's sh as root. /tmp and /run are in memory.
	Script string
}

// guestPassed is what a guest prints when its script has come to its end.
const guestPassed = "GUEST PASSED"

// guestInit is the first program of a guest: its script follows.
const guestInit = `#!/bin/busybox sh
export PATH=/bin HOME=/tmp
/bin/busybox --install /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
for module in $(cat /modules/order); do insmod /modules/$module || echo "insmod $module failed"; done
if sh -e /script; then echo ` + guestPassed + `; fi
poweroff -f
`

// Run runs the guest until its script has ended, and fails the test if a
// command of it failed. It returns what the console showed.
func (g Guest) Run(t testing.TB) string {
	t.Helper()
	Need(t, "qemu-system-x86_64", "cpio", "busybox")
	kernel, modules := guestKernel(t)
	dir := t.TempDir()
	root, image := filepath.Join(dir, "root"), filepath.Join(dir, "initramfs")
	for _, d := range []string{"bin", "proc", "sys", "dev", "tmp", "run", "mnt", "modules"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var order []string
	for _, name := range g.Modules {
		if path, ok := modules[name]; ok {
			put(t, path, filepath.Join(root, "modules", name+".ko"))
			order = append(order, name+".ko")
		}
	}
	put(t, strings.TrimSpace(Run(t, "sh", "-c", "command -v busybox")), filepath.Join(root, "bin/busybox"))
	for name, path := range g.Programs {
		put(t, path, filepath.Join(root, "bin", name))
	}
	for name, text := range map[string]string{"init": guestInit, "script": g.Script, "modules/order": strings.Join(order, "\n")} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	Run(t, "sh", "-c", fmt.Sprintf("cd %s && find . | cpio --quiet -o -H newc >%s", root, image))
	out := Run(t, "qemu-system-x86_64", "-accel", "tcg", "-m", "1024", "-smp", "2", "-nographic", "-no-reboot",
		"-nodefaults", "-serial", "stdio", "-kernel", kernel, "-initrd", image, "-append", "console=ttyS0 quiet panic=-1")
	if !strings.Contains(out, guestPassed) {
		t.Fatalf("the guest's script failed:\n%s", end(out))
	}
	return out
}

// put copies a program or module.
func put(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// guestKernel finds Debian's cloud kernel and its modules by their names: the
// package linux-image-cloud-amd64, installed, or unpacked in the folder that
// ROWAN_GUEST_KERNEL names.
func guestKernel(t testing.TB) (kernel string, modules map[string]string) {
	t.Helper()
	base := "/"
	if dir := os.Getenv("ROWAN_GUEST_KERNEL"); dir != "" {
		base = dir
	}
	found, err := filepath.Glob(filepath.Join(base, "boot/vmlinuz-*-cloud-amd64"))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		lack(t, "linux-image-cloud-amd64 in "+base)
	}
	kernel = slices.Max(found)
	modules = map[string]string{}
	version := strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")
	err = filepath.Walk(filepath.Join(base, "lib/modules", version), func(path string, _ os.FileInfo, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			modules[name] = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return kernel, modules
}

// GuestCommands builds the module's commands for a guest.
func GuestCommands(t testing.TB) map[string]string {
	t.Helper()
	dir := t.TempDir()
	if err := build(dir, false); err != nil {
		t.Fatal(err)
	}
	return map[string]string{"rowand": filepath.Join(dir, "rowand"), "rowan": filepath.Join(dir, "rowan")}
}

// GuestTests builds the tests of the package in the working directory as a
// program for a guest.
func GuestTests(t testing.TB) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "guest.test")
	Run(t, "env", "CGO_ENABLED=0", "GOFLAGS=", "go", "test", "-c", "-o", out, ".")
	return out
}
