package wire

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestGreeting(t *testing.T) {
	b := AppendGreeting(nil, FlagFixedNewstyle|FlagNoZeroes)
	if want := "NBDMAGICIHAVEOPT\x00\x03"; string(b) != want {
		t.Fatalf("%q, want %q", b, want)
	}
	if flags, err := ParseGreeting(b); flags != 3 || err != nil {
		t.Errorf("flags %#x, %v", flags, err)
	}
	for name, bad := range map[string]string{
		"short":    "NBDMAGICIHAVEOPT\x00",
		"long":     "NBDMAGICIHAVEOPT\x00\x03\x00",
		"magic":    "NBDMAGIQIHAVEOPT\x00\x03",
		"oldstyle": "NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\x00\x00",
	} {
		if _, err := ParseGreeting([]byte(bad)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestOption(t *testing.T) {
	b := AppendOption(nil, OptGo, []byte("data"))
	if want := "IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x04data"; string(b) != want {
		t.Fatalf("%q, want %q", b, want)
	}
	if o, n, err := ParseOptionHeader(b[:OptionHeaderSize]); o != OptGo || n != 4 || err != nil {
		t.Errorf("option %d, %d bytes, %v", o, n, err)
	}
	b[0] = 'X'
	if _, _, err := ParseOptionHeader(b[:OptionHeaderSize]); !errors.Is(err, ErrMalformed) {
		t.Errorf("wrong magic: %v", err)
	}
}

func TestOptionReply(t *testing.T) {
	b := AppendOptionReply(nil, OptList, RepErrPolicy, []byte("no"))
	if want := "\x00\x03\xe8\x89\x04\x55\x65\xa9\x00\x00\x00\x03\x80\x00\x00\x02\x00\x00\x00\x02no"; string(b) != want {
		t.Fatalf("%q, want %q", b, want)
	}
	r, err := ParseOptionReply(b[:ReplyHeaderSize])
	if want := (OptionReply{OptList, RepErrPolicy, 2}); r != want || err != nil {
		t.Errorf("%v, %v; want %v", r, err, want)
	}
	if !RepErrPolicy.IsError() || RepAck.IsError() || !ReplyType(1<<31|99).IsError() {
		t.Error("errors are not told from other replies")
	}
	b[7] = 0
	if _, err := ParseOptionReply(b[:ReplyHeaderSize]); !errors.Is(err, ErrMalformed) {
		t.Errorf("wrong magic: %v", err)
	}
}

func TestReplyTypeNames(t *testing.T) {
	for _, r := range []ReplyType{0, RepAck, repError, RepErrUnsup, RepErrUnknown, RepErrExtHeaderReqd, repError | 11, 1<<32 - 1} {
		if r.String() == "" {
			t.Errorf("%#x has no name", uint32(r))
		}
	}
	if RepErrTLSReqd.String() != "the server requires TLS" || RepErrUnknown.String() != "no such export" {
		t.Error("names are out of order")
	}
}

func TestInfoRequest(t *testing.T) {
	b := AppendInfoRequest(nil, "web", InfoName, InfoBlockSize)
	if want := "\x00\x00\x00\x03web\x00\x02\x00\x01\x00\x03"; string(b) != want {
		t.Fatalf("%q, want %q", b, want)
	}
	name, infos, err := ParseInfoRequest(b)
	if name != "web" || !slices.Equal(infos, []InfoType{InfoName, InfoBlockSize}) || err != nil {
		t.Errorf("%q %v %v", name, infos, err)
	}
	for n := range len(b) {
		if _, _, err := ParseInfoRequest(b[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	if _, _, err := ParseInfoRequest(append(b, 0)); !errors.Is(err, ErrMalformed) {
		t.Errorf("with more: %v", err)
	}
}

func TestMetaRequest(t *testing.T) {
	b := AppendMetaRequest(nil, "web", "base:", "x-y:z")
	if want := "\x00\x00\x00\x03web\x00\x00\x00\x02\x00\x00\x00\x05base:\x00\x00\x00\x05x-y:z"; string(b) != want {
		t.Fatalf("%q, want %q", b, want)
	}
	name, queries, err := ParseMetaRequest(b, 2)
	if name != "web" || !slices.Equal(queries, []string{"base:", "x-y:z"}) || err != nil {
		t.Errorf("%q %q %v", name, queries, err)
	}
	if _, _, err := ParseMetaRequest(b, 1); !errors.Is(err, ErrTooMany) {
		t.Errorf("too many: %v", err)
	}
	for n := range len(b) {
		if _, _, err := ParseMetaRequest(b[:n], 2); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	if _, _, err := ParseMetaRequest(append(b, 0), 2); !errors.Is(err, ErrMalformed) {
		t.Errorf("with more: %v", err)
	}
}

func TestStringsAreChecked(t *testing.T) {
	for name, s := range map[string]string{
		"too long": strings.Repeat("x", MaxString+1), "NUL": "a\x00b", "not UTF-8": "a\xffb",
	} {
		if _, err := ParseExportName([]byte(s)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s as a name: %v", name, err)
		}
		if _, _, err := ParseInfoRequest(AppendInfoRequest(nil, s)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s in an info request: %v", name, err)
		}
		if _, _, err := ParseMetaContext(AppendMetaContext(nil, 1, s)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s as a context: %v", name, err)
		}
	}
	for _, s := range []string{"", strings.Repeat("x", MaxString), "größe/ü"} {
		if got, err := ParseExportName([]byte(s)); got != s || err != nil {
			t.Errorf("%.20q: %.20q, %v", s, got, err)
		}
	}
}

func TestMetaContext(t *testing.T) {
	b := AppendMetaContext(nil, 7, "base:allocation")
	if id, name, err := ParseMetaContext(b); id != 7 || name != "base:allocation" || err != nil {
		t.Errorf("%d %q %v", id, name, err)
	}
	if _, _, err := ParseMetaContext(b[:3]); !errors.Is(err, ErrMalformed) {
		t.Errorf("cut short: %v", err)
	}
}

func TestExportInfo(t *testing.T) {
	b := AppendExportInfo(nil, 1<<40, FlagHasFlags|FlagReadOnly)
	if want := "\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03"; string(b) != want {
		t.Fatalf("%q, want %q", b, want)
	}
	if size, flags, err := ParseExportInfo(b); size != 1<<40 || flags != 3 || err != nil {
		t.Errorf("%d %#x %v", size, flags, err)
	}
	if kind, err := ParseInfoType(b); kind != InfoExport || err != nil {
		t.Errorf("%d %v", kind, err)
	}
	if _, err := ParseInfoType(b[:1]); !errors.Is(err, ErrMalformed) {
		t.Errorf("cut short: %v", err)
	}
	if _, _, err := ParseExportInfo(AppendExportInfo(nil, 1<<63, 1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a size of 2^63: %v", err)
	}
	if _, _, err := ParseExportInfo(b[:11]); !errors.Is(err, ErrMalformed) {
		t.Errorf("cut short: %v", err)
	}
	if got := AppendStringInfo(nil, InfoDescription, "x"); !bytes.Equal(got, []byte{0, 2, 'x'}) {
		t.Errorf("%q", got)
	}
}

func TestBlockSizeInfo(t *testing.T) {
	for _, test := range []struct {
		sizes BlockSizes
		ok    bool
	}{
		{BlockSizes{1, 4096, 32 << 20}, true},
		{BlockSizes{512, 512, 1<<32 - 1}, true},
		{BlockSizes{4096, 65536, 4096 * 3}, true},
		{BlockSizes{0, 4096, 32 << 20}, false},
		{BlockSizes{3, 4096, 3 << 20}, false},
		{BlockSizes{1 << 17, 1 << 17, 1 << 25}, false},
		{BlockSizes{1, 256, 32 << 20}, false},
		{BlockSizes{4096, 512, 32 << 20}, false},
		{BlockSizes{512, 4096, 0}, false},
		{BlockSizes{512, 4096, 1000}, false},
		{BlockSizes{1, 0, 32 << 20}, false},
	} {
		got, err := ParseBlockSizeInfo(AppendBlockSizeInfo(nil, test.sizes))
		if test.ok != (err == nil) || test.ok && got != test.sizes {
			t.Errorf("%v: %v, %v", test.sizes, got, err)
		}
	}
	if _, err := ParseBlockSizeInfo(make([]byte, 13)); !errors.Is(err, ErrMalformed) {
		t.Errorf("cut short: %v", err)
	}
}

func TestServer(t *testing.T) {
	if got := AppendServer(nil, "web", "text"); string(got) != "\x00\x00\x00\x03webtext" {
		t.Errorf("%q", got)
	}
}
