package nbd

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rowan-storage/rowan/nbd/wire"
)

// mapEntry is what qemu-img map says of an extent.
type mapEntry struct {
	Start, Length int64
	Data, Zero    bool
}

func qemuMap(t *testing.T, args ...string) []mapEntry {
	t.Helper()
	var entries []mapEntry
	out := mustRun(t, "qemu-img", append([]string{"map", "--output=json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &entries); err != nil {
		t.Fatal(err, out)
	}
	return entries
}

func TestQEMUImageConvertCompareMap(t *testing.T) {
	d := newMemDevice(16 << 20)
	d.fill(1<<20, 3<<20)
	d.fill(9<<20, 64<<10)
	s := serveDevice(t, d)
	dir := t.TempDir()
	raw, qcow := filepath.Join(dir, "raw"), filepath.Join(dir, "qcow2")
	mustRun(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", s.uri(""), raw)
	wantFile(t, raw, d.data)
	mustRun(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", s.uri(""), qcow)
	mustRun(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", s.uri(""), qcow)

	back := newMemDevice(16 << 20)
	back.fill(0, 16<<20)
	into := serveDevice(t, back)
	if out, err := tryRun(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", into.uri(""), qcow); err == nil {
		t.Errorf("differing images compare equal: %s", out)
	}
	mustRun(t, "qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", qcow, into.uri(""))
	wantEqual(t, back.bytes(0, 16<<20), d.data)

	got := qemuMap(t, "-f", "raw", s.uri(""))
	want := []mapEntry{
		{0, 1 << 20, false, true}, {1 << 20, 3 << 20, true, false}, {4 << 20, 5 << 20, false, true},
		{9 << 20, 64 << 10, true, false}, {9<<20 + 64<<10, 7<<20 - 64<<10, false, true},
	}
	wantMap(t, got, want)
}

func wantMap(t *testing.T, got, want []mapEntry) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%+v, want %+v", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("%+v, want %+v", got[i], want[i])
		}
	}
}

// What incremental backup programs do: QEMU reads the change context in place
// of base:allocation and shows what is dirty as what is not data.
func TestQEMUReadsChangesAsDirtyBitmap(t *testing.T) {
	d := newMemDevice(4 << 20)
	d.fill(0, 4<<20)
	d.snapshot("monday")
	d.WriteAt(make([]byte, 64<<10), 1<<20)
	s := serve(t, Config{}, map[string]*Export{"web": {Device: d, ChangeContexts: []string{"monday"}}})
	for _, context := range []string{"qemu:dirty-bitmap:monday", "rowan:changed-since:monday"} {
		got := qemuMap(t, "--image-opts", "driver=nbd,export=web,server.type=unix,server.path="+s.socket+",x-dirty-bitmap="+context)
		wantMap(t, got, []mapEntry{
			{0, 1 << 20, true, false}, {1 << 20, 64 << 10, false, false}, {1<<20 + 64<<10, 3<<20 - 64<<10, true, false},
		})
	}
}

func TestQEMUIO(t *testing.T) {
	d := newMemDevice(4 << 20)
	s := serveDevice(t, d)
	commands := []string{
		"write -P 0x11 0 64k", "write -P 0x22 -f 65536 4096", // FUA
		"read -P 0x11 0 64k", "read -P 0x22 64k 4k",
		"write -z 4k 4k", "read -P 0 4k 4k", "write -z -u 12k 4k", "read -P 0 12k 4k",
		"discard 0 64k", "flush", "aio_write -P 0x33 1M 1M", "aio_flush", "read -P 0x33 1M 1M", "map",
	}
	args := []string{"-f", "raw"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	out := mustRun(t, "qemu-io", append(args, s.uri(""))...)
	if strings.Contains(out, "failed") || strings.Contains(out, "error") {
		t.Error(out)
	}
	if d.flushes.Load() < 2 || d.zeroes.Load() == 0 || d.discards.Load() == 0 {
		t.Errorf("%d flushes, %d zeroes, %d discards", d.flushes.Load(), d.zeroes.Load(), d.discards.Load())
	}
	out = mustRun(t, "qemu-io", "-r", "-f", "raw", "-c", "read 0 4M", s.uri(""))
	if !strings.Contains(out, "read 4194304/4194304") {
		t.Error(out)
	}
}

// qemu-storage-daemon is a client here, and exports what it gets anew.
func TestQEMUStorageDaemon(t *testing.T) {
	d := newMemDevice(8 << 20)
	d.fill(2<<20, 1<<20)
	s := serveDevice(t, d)
	again := filepath.Join(socketDir(t), "again")
	start(t, again, need(t, "qemu-storage-daemon"),
		"--blockdev", "driver=nbd,node-name=n,server.type=unix,server.path="+s.socket,
		"--nbd-server", "addr.type=unix,addr.path="+again,
		"--export", "type=nbd,id=e,node-name=n,name=,writable=on")
	out := filepath.Join(t.TempDir(), "out")
	mustRun(t, "nbdcopy", "nbd+unix:///?socket="+again, out)
	wantFile(t, out, d.data)
	c, err := Dial(t.Context(), "unix", again, ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.WriteAt([]byte("through two servers"), 5<<20+1); err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, d.bytes(5<<20+1, 19), []byte("through two servers"))
}

// start starts a server that makes a socket, and ends it at the end of the
// test.
func start(t testing.TB, socket, program string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", program, out.String())
		}
	})
	eventually(t, program+" listens", func() bool {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// writeSparse writes the pages of a device that hold data to a file.
func writeSparse(t *testing.T, file string, d *memDevice) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(d.Size()); err != nil {
		t.Fatal(err)
	}
	for p, mapped := range d.mapped {
		if mapped {
			if _, err := f.WriteAt(d.data[p*testPage:min((p+1)*testPage, len(d.data))], int64(p*testPage)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Our client with other servers.
func TestClientOfOtherServers(t *testing.T) {
	const size = 8 << 20
	image := newMemDevice(size)
	image.fill(1<<20, 2<<20)
	for name, make := range map[string]func(socket, file string) []string{
		"qemu-nbd": func(socket, file string) []string {
			return []string{"-t", "-f", "raw", "-k", socket, "-x", "", "--discard=unmap", "-e", "4", file}
		},
		"nbdkit": func(socket, file string) []string {
			return []string{"-f", "-U", socket, "file", file}
		},
		"nbdkit without structured replies": func(socket, file string) []string {
			return []string{"-f", "--no-sr", "-U", socket, "file", file}
		},
		"nbdkit with block sizes": func(socket, file string) []string {
			return []string{"-f", "-U", socket, "--filter=blocksize-policy", "file", file,
				"blocksize-minimum=512", "blocksize-maximum=64k", "blocksize-preferred=4k", "blocksize-error-policy=error"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			program, _, _ := strings.Cut(name, " ")
			socket, file := filepath.Join(socketDir(t), "s"), filepath.Join(t.TempDir(), "disk")
			writeSparse(t, file, image)
			start(t, socket, need(t, program), make(socket, file)...)
			c, err := Dial(t.Context(), "unix", socket, ClientOptions{Connections: 2})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			exercise(t, c, image.data)
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// exercise reads an image whose content is known, and changes it.
func exercise(t *testing.T, c *Client, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if c.Size() != int64(len(want)) {
		t.Fatalf("size %d", c.Size())
	}
	if _, err := c.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, got, want)
	data := 0
	for _, r := range collect(t, func(yield func(int64, bool) bool) error { return c.Extents(t.Context(), 0, c.Size(), yield) }) {
		if r.data {
			data += r.n
		}
	}
	if c.info.style != wire.Simple && data == len(want) {
		t.Error("no holes are seen")
	}
	if _, err := c.WriteAt(got[:1<<20], 2<<20); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteZeroes(t.Context(), 4096, 8192); err != nil {
		t.Error(err)
	}
	if err := c.Discard(t.Context(), 4<<20, 1<<20); err != nil {
		t.Error(err)
	}
	if err := c.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	again := make([]byte, 1<<20)
	if _, err := c.ReadAt(again, 2<<20); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, again, got[:1<<20])
}
