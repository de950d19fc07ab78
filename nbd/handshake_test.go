package nbd

import (
	"encoding/binary"
	"io"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/rowan-storage/rowan/nbd/wire"
)

const (
	writableFlags = wire.FlagHasFlags | wire.FlagSendFlush | wire.FlagSendFUA | wire.FlagSendTrim |
		wire.FlagSendWriteZeroes | wire.FlagSendFastZero | wire.FlagCanMultiConn | wire.FlagSendCache
	readOnlyFlags = wire.FlagHasFlags | wire.FlagReadOnly | wire.FlagSendFlush | wire.FlagSendFUA |
		wire.FlagCanMultiConn | wire.FlagSendCache
)

func twoExports(t *testing.T) *testServer {
	d := newMemDevice(1 << 20)
	d.snapshot("monday")
	d.snapshot("tuesday")
	return serve(t, Config{Logger: testLogger(t)}, map[string]*Export{
		"":           {Device: d},
		"web":        {Device: d, Description: "the web server", ChangeContexts: []string{"monday", "tuesday"}},
		"web@monday": {Device: d, ReadOnly: true},
	})
}

func TestExportNameOption(t *testing.T) {
	s := twoExports(t)
	for _, test := range []struct {
		clientFlags uint32
		name        string
		flags       uint16
		zeroes      int
	}{
		{0, "", writableFlags, 124},
		{1, "web", writableFlags, 124},
		{3, "web", writableFlags, 0},
		{3, "web@monday", readOnlyFlags, 0},
	} {
		c := dialRaw(t, s)
		c.greet(test.clientFlags)
		c.option(wire.OptExportName, []byte(test.name))
		b := make([]byte, 10+test.zeroes)
		mustReadFull(t, c, b)
		if size := binary.BigEndian.Uint64(b); size != 1<<20 {
			t.Errorf("%q: size %d", test.name, size)
		}
		if flags := binary.BigEndian.Uint16(b[8:]); flags != test.flags {
			t.Errorf("%q: flags %#x, want %#x", test.name, flags, test.flags)
		}
		c.wantErrno(0, wire.Request{Type: wire.CmdRead, Length: 512})
	}
}

func TestExportNameOptionCannotFailButByHangingUp(t *testing.T) {
	s := twoExports(t)
	for name, prepare := range map[string]func(c *rawClient){
		"none": nil,
		"web":  func(c *rawClient) { c.choose(wire.Extended) }, // then the option is forbidden
	} {
		c := greeted(t, s)
		if prepare != nil {
			prepare(c)
		}
		c.option(wire.OptExportName, []byte(name))
		c.wantClosed()
	}
}

func TestGoOption(t *testing.T) {
	s := twoExports(t)
	for _, style := range styles() {
		c := greeted(t, s)
		c.choose(style)
		want := writableFlags
		if style != wire.Simple {
			want |= wire.FlagSendDF
		}
		if style == wire.Extended {
			want |= wire.FlagBlockStatusPayload
		}
		// An unknown kind of information is ignored, a known one given once.
		ask := wire.AppendInfoRequest(nil, "web", wire.InfoBlockSize, 77, wire.InfoName, wire.InfoDescription, wire.InfoName)
		for _, o := range []wire.Option{wire.OptInfo, wire.OptGo} {
			c.option(o, ask)
			size, flags, err := wire.ParseExportInfo(c.wantReply(wire.RepInfo))
			if err != nil || size != 1<<20 || flags != want {
				t.Fatalf("size %d, flags %#x, %v; want flags %#x", size, flags, err, want)
			}
			for _, info := range []string{"\x00\x01web", "\x00\x02the web server"} {
				if got := c.wantReply(wire.RepInfo); string(got) != info {
					t.Errorf("info %q, want %q", got, info)
				}
			}
			sizes, err := wire.ParseBlockSizeInfo(c.wantReply(wire.RepInfo))
			if want := (wire.BlockSizes{Minimum: 1, Preferred: 4096, Maximum: 32 << 20}); err != nil || sizes != want {
				t.Errorf("block sizes %v, %v; want %v", sizes, err, want)
			}
			c.wantReply(wire.RepAck)
		}
		c.wantErrno(0, wire.Request{Type: wire.CmdRead, Length: 512})
	}
	if got := s.exports.opened; !slices.Equal(got, []string{"web", "web", "web"}) {
		t.Errorf("opened %q: NBD_OPT_GO should serve what NBD_OPT_INFO opened", got)
	}
}

func TestGoOptionErrors(t *testing.T) {
	s := twoExports(t)
	s.exports.errs = map[string]error{
		"secret": fs.ErrPermission, "going": syscall.ESHUTDOWN, "broken": syscall.EIO, "gone": syscall.ENOENT,
	}
	c := greeted(t, s)
	for name, want := range map[string]wire.ReplyType{
		"none": wire.RepErrUnknown, "gone": wire.RepErrUnknown, "broken": wire.RepErrUnknown,
		"secret": wire.RepErrPolicy, "going": wire.RepErrShutdown,
	} {
		c.option(wire.OptGo, wire.AppendInfoRequest(nil, name))
		c.wantReply(want)
	}
	// The handshake goes on.
	c.option(wire.OptGo, wire.AppendInfoRequest(nil, "web"))
	c.wantReply(wire.RepInfo)
	c.wantReply(wire.RepAck)
	c.wantErrno(0, wire.Request{Type: wire.CmdRead, Length: 512})
}

func TestOptionsAreChecked(t *testing.T) {
	s := twoExports(t)
	long := strings.Repeat("x", wire.MaxString+1)
	meta := func(name string, queries ...string) []byte { return wire.AppendMetaRequest(nil, name, queries...) }
	info := wire.AppendInfoRequest(nil, "web", wire.InfoName)
	cases := []struct {
		name   string
		option wire.Option
		data   []byte
		want   wire.ReplyType
	}{
		{"unknown option", 4, nil, wire.RepErrUnsup},
		{"unknown option with data", 0xffffffff, []byte("data"), wire.RepErrUnsup},
		{"list with data", wire.OptList, []byte("x"), wire.RepErrInvalid},
		{"structured reply with data", wire.OptStructuredReply, []byte("x"), wire.RepErrInvalid},
		{"extended headers with data", wire.OptExtendedHeaders, []byte("x"), wire.RepErrInvalid},
		{"start TLS without TLS", wire.OptStartTLS, nil, wire.RepErrPolicy},
		{"start TLS with data", wire.OptStartTLS, []byte("x"), wire.RepErrInvalid},
		{"go without data", wire.OptGo, nil, wire.RepErrInvalid},
		{"go cut short", wire.OptGo, info[:len(info)-1], wire.RepErrInvalid},
		{"go with more", wire.OptGo, append(slices.Clone(info), 0), wire.RepErrInvalid},
		{"go with an over-long name", wire.OptGo, wire.AppendInfoRequest(nil, long), wire.RepErrInvalid},
		{"go with a name of 4 GiB", wire.OptGo, []byte("\xff\xff\xff\xffweb\x00\x00"), wire.RepErrInvalid},
		{"go with a NUL in the name", wire.OptGo, wire.AppendInfoRequest(nil, "we\x00b"), wire.RepErrInvalid},
		{"go with a name that is not UTF-8", wire.OptGo, wire.AppendInfoRequest(nil, "we\xffb"), wire.RepErrInvalid},
		{"info of no export", wire.OptInfo, wire.AppendInfoRequest(nil, "none"), wire.RepErrUnknown},
		{"list contexts of no export", wire.OptListMetaContext, meta("none"), wire.RepErrUnknown},
		{"set contexts of no export", wire.OptSetMetaContext, meta("none", "base:allocation"), wire.RepErrUnknown},
		{"set contexts without data", wire.OptSetMetaContext, nil, wire.RepErrInvalid},
		{"set contexts with an over-long query", wire.OptSetMetaContext, meta("web", long), wire.RepErrInvalid},
		{"4 Gi queries", wire.OptSetMetaContext, []byte("\x00\x00\x00\x03web\xff\xff\xff\xff"), wire.RepErrInvalid},
		{"too many queries", wire.OptListMetaContext, meta("web", make([]string, maxMetaQueries+1)...), wire.RepErrTooBig},
	}
	c := greeted(t, s)
	c.option(wire.OptListMetaContext, meta("web"))
	c.wantReply(wire.RepErrInvalid) // structured replies come first
	c.option(wire.OptSetMetaContext, meta("web", "base:allocation"))
	c.wantReply(wire.RepErrInvalid)
	c.choose(wire.Structured)
	for _, test := range cases {
		c.option(test.option, test.data)
		if r, data := c.optionReply(); r.Option != test.option || r.Type != test.want {
			t.Errorf("%s: reply to %d: %v %q, want %v", test.name, r.Option, r.Type, data, test.want)
		}
	}
	c.choose(wire.Structured) // again is no harm
	c.choose(wire.Extended)
	c.option(wire.OptStructuredReply, nil)
	c.wantReply(wire.RepErrExtHeaderReqd)
	c.option(wire.OptAbort, []byte("ignored"))
	c.wantReply(wire.RepAck)
	c.wantClosed()
}

func TestListOption(t *testing.T) {
	s := twoExports(t)
	c := greeted(t, s)
	c.option(wire.OptList, nil)
	var got []string
	for range 3 {
		got = append(got, string(c.wantReply(wire.RepServer)))
	}
	c.wantReply(wire.RepAck)
	want := []string{"\x00\x00\x00\x00", "\x00\x00\x00\x03webthe web server", "\x00\x00\x00\x0aweb@monday"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	s.exports.mu.Lock()
	s.exports.errs["*"] = fs.ErrPermission
	s.exports.mu.Unlock()
	c.option(wire.OptList, nil)
	c.wantReply(wire.RepErrPolicy)
}

func TestListOptionWithManyExports(t *testing.T) {
	exports := map[string]*Export{}
	for i := range 3000 {
		exports[strings.Repeat("x", 30)+string(rune('a'+i%26))+strings.Repeat("y", i/26)] = &Export{}
	}
	c := greeted(t, serve(t, Config{}, exports))
	c.option(wire.OptList, nil)
	for range exports {
		c.wantReply(wire.RepServer)
	}
	c.wantReply(wire.RepAck)
}

func TestMetaContextOptions(t *testing.T) {
	s := twoExports(t)
	all := []string{
		"base:allocation", "rowan:changed-since:monday", "qemu:dirty-bitmap:monday",
		"rowan:changed-since:tuesday", "qemu:dirty-bitmap:tuesday",
	}
	for _, test := range []struct {
		name      string
		queries   []string
		list, set []string
	}{
		{"all", nil, all, nil},
		{"by name", []string{"base:allocation", "qemu:dirty-bitmap:tuesday"},
			[]string{all[0], all[4]}, []string{all[0], all[4]}},
		{"named twice", []string{"base:allocation", "base:allocation", "base:"}, all[:1], all[:1]},
		{"base:", []string{"base:"}, all[:1], nil},
		{"rowan:", []string{"rowan:"}, []string{all[1], all[3]}, nil},
		{"qemu:dirty-bitmap:", []string{"qemu:dirty-bitmap:"}, []string{all[2], all[4]}, nil},
		{"unknown", []string{"base:unknown", "x-mine:all", "qemu:dirty-bitmap:none", "nonsense", "", ":"}, nil, nil},
	} {
		c := greeted(t, s)
		c.choose(wire.Structured)
		for o, want := range map[wire.Option][]string{wire.OptListMetaContext: test.list, wire.OptSetMetaContext: test.set} {
			c.option(o, wire.AppendMetaRequest(nil, "web", test.queries...))
			var got []string
			ids := map[uint32]bool{}
			for range want {
				id, name, err := wire.ParseMetaContext(c.wantReply(wire.RepMetaContext))
				if err != nil {
					t.Fatal(err)
				}
				got, ids[id] = append(got, name), true
			}
			c.wantReply(wire.RepAck)
			if !slices.Equal(got, want) {
				t.Errorf("%s: option %d: %q, want %q", test.name, o, got, want)
			}
			if o == wire.OptSetMetaContext && len(ids) != len(want) {
				t.Errorf("%s: ids %v are not unique", test.name, ids)
			}
		}
	}
}

func TestContextsAreOfferedOnlyIfTheDeviceCanTell(t *testing.T) {
	s := serve(t, Config{}, map[string]*Export{
		"": {Device: plainDevice{newMemDevice(4096)}, ChangeContexts: []string{"monday"}},
	})
	c := greeted(t, s)
	c.choose(wire.Structured)
	c.option(wire.OptListMetaContext, wire.AppendMetaRequest(nil, ""))
	c.wantReply(wire.RepAck)
}

// NBD_OPT_SET_META_CONTEXT counts only for the export that it named, and only
// the last one counts.
func TestContextsOfAnotherExportAreNotSelected(t *testing.T) {
	s := twoExports(t)
	status := wire.Request{Type: wire.CmdBlockStatus, Length: 4096}
	for name, prepare := range map[string]func(c *rawClient){
		"for another export": func(c *rawClient) {
			c.option(wire.OptSetMetaContext, wire.AppendMetaRequest(nil, "web", "base:allocation"))
			c.wantReply(wire.RepMetaContext)
			c.wantReply(wire.RepAck)
		},
		"failed afterwards": func(c *rawClient) {
			c.option(wire.OptSetMetaContext, wire.AppendMetaRequest(nil, "", "base:allocation"))
			c.wantReply(wire.RepMetaContext)
			c.wantReply(wire.RepAck)
			c.option(wire.OptSetMetaContext, []byte("nonsense"))
			c.wantReply(wire.RepErrInvalid)
		},
	} {
		c := greeted(t, s)
		c.choose(wire.Structured)
		prepare(c)
		c.option(wire.OptGo, wire.AppendInfoRequest(nil, ""))
		c.wantReply(wire.RepInfo)
		c.wantReply(wire.RepAck)
		if a := c.wantErrno(wire.EINVAL, status); !strings.Contains(a.message, "context") {
			t.Errorf("%s: %q", name, a.message)
		}
	}
}

func TestGreetingIsAnsweredBeforeAnythingElse(t *testing.T) {
	s := twoExports(t)
	c := dialRaw(t, s)
	mustReadFull(t, c, make([]byte, wire.GreetingSize))
	c.SetReadDeadline(noTime())
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("read %d, %v; the server should wait for the client's flags", n, err)
	}
}
