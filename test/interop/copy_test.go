package interop

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rowan-storage/rowan/test/harness"
)

func TestNBDCopy(t *testing.T) {
	harness.Need(t, "nbdcopy")
	d := harness.Start(t)
	create(d, "web", 96)
	first, second := randomFile(t, "first.raw", 96*mib, 1), randomFile(t, "second.raw", 96*mib, 2)

	harness.Run(t, "nbdcopy", "--flush", first, d.URI("web"))
	same(t, "copied in and out", first, copyOut(t, d.URI("web")))
	d.Rowan("snapshot", "create", "web@first")
	harness.Run(t, "nbdcopy", "--connections=4", "--requests=32", second, d.TCPURI("web"))
	same(t, "the LUN over TCP", second, copyOut(t, d.TCPURI("web")))
	same(t, "the snapshot after the LUN was overwritten", first, copyOut(t, d.URI("web@first")))

	// From a snapshot into another LUN, server to server.
	create(d, "copy", 96)
	harness.Run(t, "nbdcopy", d.URI("web@first"), d.URI("copy"))
	same(t, "a copy of the snapshot", first, copyOut(t, d.URI("copy")))

	if r := harness.Try(t, "nbdcopy", second, d.URI("web@first")); r.Code == 0 {
		t.Error("a snapshot was written to")
	}
	same(t, "the snapshot after the attempt", first, copyOut(t, d.URI("web@first")))
}

func TestQEMUImg(t *testing.T) {
	harness.Need(t, "qemu-img")
	d := harness.Start(t)
	create(d, "web", 96)
	image := randomFile(t, "image.raw", 96*mib, 3)

	harness.Run(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, d.URI("web"))
	harness.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", image, d.URI("web"))
	d.Rowan("snapshot", "create", "web@a")
	harness.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", image, d.TCPURI("web@a"))

	qcow := filepath.Join(t.TempDir(), "web.qcow2")
	harness.Run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", d.URI("web@a"), qcow)
	harness.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", image, qcow)

	// Holes of the image stay holes of the LUN and of what is made from it.
	type mapped struct {
		Length int64
		Data   bool
	}
	var data int64
	for _, m := range harness.Decode[[]mapped](t, harness.Run(t, "qemu-img", "map", "-f", "raw", "--output=json", d.URI("web"))) {
		if m.Data {
			data += m.Length
		}
	}
	if want := int64(72 * mib); data != want {
		t.Errorf("qemu-img map finds %d bytes of data, want %d", data, want)
	}

	// compare must be able to fail.
	other := randomFile(t, "other.raw", 96*mib, 4)
	if r := harness.Try(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", other, d.URI("web")); r.Code != 1 {
		t.Errorf("comparing with another image: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}

func TestQEMUIO(t *testing.T) {
	harness.Need(t, "qemu-io")
	d := harness.Start(t)
	create(d, "web", 64)
	qemuIO := func(export string, commands ...string) harness.Result {
		args := []string{"-f", "raw"}
		for _, c := range commands {
			args = append(args, "-c", c)
		}
		return harness.Try(t, "qemu-io", append(args, d.URI(export))...)
	}
	// read -P fails, with an exit code, when the pattern is not there.
	must := func(export string, commands ...string) {
		t.Helper()
		if r := qemuIO(export, commands...); r.Code != 0 {
			t.Errorf("%s: %v: exit code %d\n%s%s", export, commands, r.Code, r.Stdout, r.Stderr)
		}
	}
	must("web", "write -P 0xaa 0 4M", "write -P 0xbb 1M 1000k", "flush", "read -P 0xaa 0 1M", "read -P 0xbb 1M 1000k")
	must("web", "write -P 0xcc 513 1021", "read -P 0xaa 0 513", "read -P 0xcc 513 1021", "read -P 0xaa 1534 2000")
	must("web", "write -f -P 0x11 2M 4k", "read -P 0x11 2M 4k")
	d.Rowan("snapshot", "create", "web@a")
	must("web", "write -z 0 64k", "read -P 0 0 64k", "write -z -u 64k 64k", "read -P 0 64k 64k", "discard 1M 512k", "read -P 0 1M 512k",
		"aio_write -P 0x22 3M 256k", "aio_write -P 0x33 3328k 256k", "aio_flush", "read -P 0x22 3M 256k", "read -P 0x33 3328k 256k")
	openReadOnly := harness.Try(t, "qemu-io", "-r", "-f", "raw", "-c", "read -P 0xcc 513 1021", "-c", "read -P 0xbb 1M 512k", d.URI("web@a"))
	if openReadOnly.Code != 0 {
		t.Errorf("reading the snapshot: %+v", openReadOnly)
	}
	if r := qemuIO("web", "read -P 0x77 3M 4k"); r.Code == 0 {
		t.Error("qemu-io found a pattern that was never written")
	}
	if r := qemuIO("web@a", "write 0 4k"); r.Code == 0 {
		t.Error("qemu-io wrote to a snapshot")
	}
}

// TestProxies puts other servers between a client and the appliance, as virtual
// machine hosts do.
func TestProxies(t *testing.T) {
	harness.Need(t, "nbdkit", "nbdcopy", "qemu-storage-daemon")
	d := harness.Start(t)
	create(d, "web", 32)
	image := randomFile(t, "image.raw", 32*mib, 5)

	harness.Run(t, "nbdkit", "-U", "-", "nbd", "uri="+d.URI("web"), "--run", "nbdcopy --flush "+image+" \"$uri\"")
	same(t, "written through nbdkit", image, copyOut(t, d.URI("web")))

	dir := harness.ShortDir(t)
	socket := filepath.Join(dir, "qsd.sock")
	pid := filepath.Join(dir, "pid")
	harness.Run(t, "qemu-storage-daemon", "--daemonize", "--pidfile", pid,
		"--blockdev", "driver=nbd,node-name=web,export=web,server.type=unix,server.path="+d.NBD,
		"--nbd-server", "addr.type=unix,addr.path="+socket,
		"--export", "type=nbd,id=web,node-name=web,name=web,writable=on")
	t.Cleanup(func() {
		text, err := os.ReadFile(pid)
		if err != nil {
			t.Fatal(err)
		}
		harness.Run(t, "kill", string(text[:len(text)-1]))
	})
	second := randomFile(t, "second.raw", 32*mib, 6)
	through := "nbd+unix:///web?socket=" + socket
	harness.Run(t, "nbdcopy", "--flush", second, through)
	same(t, "read through qemu-storage-daemon", second, copyOut(t, through))
	same(t, "written through qemu-storage-daemon", second, copyOut(t, d.URI("web")))
}
