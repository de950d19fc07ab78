package nbd

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestNbdinfoSeesExport(t *testing.T) {
	d := newMemDevice(8 << 20)
	d.snapshot("monday")
	s := serve(t, Config{Logger: testLogger(t)}, map[string]*Export{
		"web":        {Device: d, Description: "the web server", ChangeContexts: []string{"monday"}},
		"web@monday": {Device: d, ReadOnly: true},
	})
	out := mustRun(t, "nbdinfo", "--json", s.uri("web"))
	var info struct {
		Protocol string
		TLS      bool
		Exports  []map[string]any
	}
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		t.Fatal(err, out)
	}
	if len(info.Exports) != 1 || info.Protocol != "newstyle-fixed" {
		t.Fatal(out)
	}
	e := info.Exports[0]
	for key, want := range map[string]any{
		"export-name": "web", "description": "the web server", "export-size": 8388608.0,
		"is_read_only": false, "can_flush": true, "can_fua": true, "can_trim": true, "can_zero": true,
		"can_fast_zero": true, "can_df": true, "can_multi_conn": true, "can_cache": true,
		"block_size_minimum": 1.0, "block_size_preferred": 4096.0, "block_size_maximum": 33554432.0,
	} {
		if e[key] != want {
			t.Errorf("%s is %v, want %v", key, e[key], want)
		}
	}
	var contexts []string
	for _, c := range e["contexts"].([]any) {
		contexts = append(contexts, c.(string))
	}
	if want := []string{"base:allocation", "rowan:changed-since:monday", "qemu:dirty-bitmap:monday"}; !slices.Equal(contexts, want) {
		t.Errorf("contexts %q, want %q", contexts, want)
	}
	out = mustRun(t, "nbdinfo", "--json", s.uri("web@monday"))
	if !strings.Contains(out, `"is_read_only": true`) || !strings.Contains(out, `"can_trim": false`) {
		t.Error(out)
	}
	list := mustRun(t, "nbdinfo", "--list", s.uri(""))
	if !strings.Contains(list, `export="web"`) || !strings.Contains(list, `export="web@monday"`) {
		t.Error(list)
	}
}

func TestNbdinfoMap(t *testing.T) {
	d := newMemDevice(1 << 20)
	d.fill(64<<10, 128<<10)
	d.snapshot("monday")
	d.WriteAt([]byte("new"), 512<<10)
	s := serve(t, Config{}, map[string]*Export{"": {Device: d, ChangeContexts: []string{"monday"}}})
	for query, want := range map[string]string{
		"base:allocation":            "0 65536 3, 65536 131072 0, 196608 327680 3, 524288 4096 0, 528384 520192 3",
		"rowan:changed-since:monday": "0 524288 0, 524288 4096 1, 528384 520192 0",
		"qemu:dirty-bitmap:monday":   "0 524288 0, 524288 4096 1, 528384 520192 0",
	} {
		out := mustRun(t, "nbdinfo", "--map="+query, s.uri(""))
		var got []string
		for line := range strings.Lines(out) {
			got = append(got, strings.Join(strings.Fields(line)[:3], " "))
		}
		if g := strings.Join(got, ", "); g != want {
			t.Errorf("%s: %s, want %s", query, g, want)
		}
	}
}

func TestNbdcopyBothWays(t *testing.T) {
	d := newMemDevice(24<<20 + 512)
	d.fill(3<<20, 9<<20)
	d.fill(20<<20, 4<<20+512)
	s := serveDevice(t, d)
	file := filepath.Join(t.TempDir(), "out")
	mustRun(t, "nbdcopy", s.uri(""), file)
	wantFile(t, file, d.data)

	back := newMemDevice(len(d.data))
	back.fill(0, len(d.data)/2)
	into := serveDevice(t, back)
	mustRun(t, "nbdcopy", "--flush", file, into.uri(""))
	wantEqual(t, back.data, d.data)
	if back.flushes.Load() == 0 {
		t.Error("nbdcopy --flush did not flush")
	}

	third := newMemDevice(len(d.data))
	over := serveDevice(t, third)
	mustRun(t, "nbdcopy", "--connections=4", "--requests=32", s.uri(""), over.uri(""))
	wantEqual(t, third.data, d.data)
}

// nbdsh runs a script of nbdsh, whose handle h is connected to the server.
func nbdsh(t *testing.T, s *testServer, script string) {
	t.Helper()
	prefix := "import nbd, errno, os\nsocket = '" + s.socket + "'\n"
	// nbdsh runs the first python3 of the path: let it be the system's, which
	// has the module.
	t.Setenv("PATH", "/usr/bin"+string(os.PathListSeparator)+os.Getenv("PATH"))
	mustRun(t, "nbdsh", "-c", prefix+script)
}

func TestNbdshStructuredReads(t *testing.T) {
	d := newMemDevice(1 << 20)
	d.fill(256<<10, 256<<10)
	nbdsh(t, serveDevice(t, d), `
h.connect_unix(socket)
assert h.get_structured_replies_negotiated()
chunks = []
def chunk(buf, offset, status, err):
    chunks.append((offset, len(buf), status))
buf = h.pread_structured(1 << 20, 0, chunk)
assert chunks == [(0, 256 << 10, nbd.READ_HOLE), (256 << 10, 256 << 10, nbd.READ_DATA), (512 << 10, 512 << 10, nbd.READ_HOLE)], chunks
chunks = []
assert h.pread_structured(1 << 20, 0, chunk, nbd.CMD_FLAG_DF) == buf
assert chunks == [(0, 1 << 20, nbd.READ_DATA)], chunks
assert buf[:256 << 10] == bytes(256 << 10) and buf[256 << 10:512 << 10] != bytes(256 << 10)
h.shutdown()
`)
}

func TestNbdshCommands(t *testing.T) {
	d := newMemDevice(1 << 20)
	s := serve(t, Config{}, map[string]*Export{"": {Device: d}, "ro": {Device: d, ReadOnly: true}})
	nbdsh(t, s, `
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.connect_unix(socket)
h.pwrite(b'a' * 10000, 5)
h.pwrite(b'b' * 10000, 20000, nbd.CMD_FLAG_FUA)
assert h.pread(10002, 4) == b'\0' + b'a' * 10000 + b'\0'
h.zero(4096, 4096)
h.zero(4096, 20480, nbd.CMD_FLAG_NO_HOLE)
h.zero(512, 30000, nbd.CMD_FLAG_FAST_ZERO)
h.trim(4096, 8192, nbd.CMD_FLAG_FUA)
h.cache(1 << 20, 0)
h.flush()
assert h.pread(4096, 4096) == bytes(4096) and h.pread(4096, 20480) == bytes(4096)
extents = []
def extent(context, offset, entries, err):
    extents.append((context, offset, entries))
h.block_status(1 << 20, 0, extent)
assert extents[0][0] == 'base:allocation' and sum(extents[0][2][::2]) == 1 << 20, extents
assert extents[0][2][:4] == [4096, 0, 12288, 3], extents
extents = []
h.block_status(8192, 4096, extent, nbd.CMD_FLAG_REQ_ONE)
assert extents[0][2] == [8192, 3], extents
h.shutdown()

r = nbd.NBD()
r.set_export_name('ro')
r.connect_unix(socket)
assert r.is_read_only()
`)
}

// What a well-behaved libnbd would not send: its strict mode is off.
func TestNbdshMisuse(t *testing.T) {
	d := newMemDevice(1 << 20)
	s := serve(t, Config{}, map[string]*Export{"": {Device: d}, "ro": {Device: d, ReadOnly: true}})
	nbdsh(t, s, `
def fails(want, call, *args):
    try:
        call(*args)
    except nbd.Error as e:
        assert e.errnum == want, (e, e.errnum, want)
    else:
        raise AssertionError('%s%s succeeds' % (call, args))

def handle(name=''):
    h = nbd.NBD()
    h.set_strict_mode(0)
    h.set_export_name(name)
    h.connect_unix(socket)
    return h

h = handle()
size = 1 << 20
fails(errno.EINVAL, h.pread, 512, size)
fails(errno.EINVAL, h.pread, 513, size - 512)
fails(errno.ENOSPC, h.pwrite, b'x' * 513, size - 512)
fails(errno.ENOSPC, h.zero, 513, size - 512)
fails(errno.EINVAL, h.trim, 513, size - 512)
fails(errno.EINVAL, h.trim, 0xffffffff, 1)
fails(errno.EINVAL, h.trim, 512, (1 << 63) - 256)
fails(errno.EINVAL, h.cache, 512, size)
fails(errno.ENOTSUP, h.zero, 512, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
fails(errno.EINVAL, h.flush, nbd.CMD_FLAG_DF)
fails(errno.EINVAL, h.pwrite, b'x', 0, nbd.CMD_FLAG_REQ_ONE)
assert h.pread(512, 0) == bytes(512)
ro = handle('ro')
for flags in (0, nbd.CMD_FLAG_FUA):
    fails(errno.EPERM, ro.pwrite, b'x' * 100000, 0, flags)
    fails(errno.EPERM, ro.zero, 512, 0, flags)
    fails(errno.EPERM, ro.trim, 512, 0, flags)
ro.flush()
try:
    handle('none')
except nbd.Error as e:
    assert e.errnum == errno.ENOENT, e
else:
    raise AssertionError('there is no such export')
`)
}

func TestNbdshOptionMode(t *testing.T) {
	d := newMemDevice(1 << 20)
	d.snapshot("monday")
	s := serve(t, Config{}, map[string]*Export{
		"a": {Device: d, Description: "the first", ChangeContexts: []string{"monday"}}, "b": {Device: d, ReadOnly: true},
	})
	nbdsh(t, s, `
h.set_opt_mode(True)
h.set_full_info(True)
h.connect_unix(socket)
names = []
assert h.opt_list(lambda name, description: names.append((name, description)) or 0) == 2
assert names == [('a', 'the first'), ('b', '')], names
h.set_export_name('b')
h.opt_info()
assert h.is_read_only() and h.get_canonical_export_name() == 'b'
h.set_export_name('a')
h.opt_info()
assert not h.is_read_only() and h.get_export_description() == 'the first'
contexts = []
assert h.opt_list_meta_context(lambda name: contexts.append(name) or 0) == 3
assert contexts == ['base:allocation', 'rowan:changed-since:monday', 'qemu:dirty-bitmap:monday'], contexts
h.add_meta_context('qemu:dirty-bitmap:monday')
h.opt_go()
assert h.can_meta_context('qemu:dirty-bitmap:monday') and not h.can_meta_context('base:allocation')
h.shutdown()

h = nbd.NBD()
h.set_opt_mode(True)
h.connect_unix(socket)
h.opt_abort()
`)
}

func TestNbdshManyRequestsInFlightAndDisconnect(t *testing.T) {
	d := newMemDevice(8 << 20)
	s := serveDevice(t, d)
	nbdsh(t, s, `
h.connect_unix(socket)
done = []
def completion(n):
    def call(err):
        assert err.value == 0
        done.append(n)
        return 1
    return call
for n in range(300):
    h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([n % 256]) * 20000), n * 20000, completion(n))
    h.aio_flush(completion(-1))
while h.aio_in_flight() > 200:
    h.poll(-1)
h.aio_disconnect()
while not h.aio_is_closed():
    h.poll(-1)
assert sorted(n for n in done if n >= 0) == list(range(300)), len(done)
assert len(done) == 600, len(done)
`)
	for n := range 300 {
		if got := d.bytes(n*20000, 20000); got[0] != byte(n) || got[19999] != byte(n) {
			t.Fatalf("write %d was lost", n)
		}
	}
}
