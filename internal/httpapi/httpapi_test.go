package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os/user"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/blockdev"
	"github.com/rowan-storage/rowan/internal/httpapi"
	"github.com/rowan-storage/rowan/internal/httpapi/client"
	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

// fixture is a server over a fake engine, and a client of it.
type fixture struct {
	engine *fakeEngine
	server *httpapi.Server
	client *client.Client
	socket string
}

func start(t *testing.T) *fixture {
	t.Helper()
	created := time.Date(2025, 3, 1, 12, 0, 0, 0, time.FixedZone("", 3600))
	until := created.Add(time.Hour)
	f := &fixture{
		socket: filepath.Join(t.TempDir(), "api.sock"),
		engine: &fakeEngine{
			lun: blockdev.LUNInfo{
				ID: 7, UUID: "lun-uuid", Name: "web", SizeBytes: 1 << 30, Created: created, Clients: 1, Snapshots: 2,
				Origin: "base@gold", MappedBytes: 5, UniqueBytes: 6, Failed: "lost a disk",
			},
			snap: blockdev.SnapshotInfo{
				ID: 9, LUN: "web", Name: "mon", Created: created, SizeBytes: 1 << 29, Group: "g", CreatedBy: "root",
				Comment: "c", Consistency: blockdev.Crash, Evidence: json.RawMessage(`{"a":1}`), Locked: true,
				LockedUntil: &until, Clients: 3, MappedBytes: 4, UniqueBytes: 5,
			},
		},
	}
	f.server = httpapi.New(httpapi.Options{
		Engine: f.engine, Version: "v1", Started: created, API: f.socket, PID: 42,
		NBD: func() []wire.NBD {
			return []wire.NBD{
				{Network: "unix", Address: "/run/my rowan/R&D+1 #?/nbd.sock"},
				{Network: "tcp", Address: "[::]:10809", TLS: true},
			}
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.server.Serve(l) }()
	f.client = client.New(f.socket)
	t.Cleanup(func() {
		f.client.Close()
		if err := f.server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f
}

// send sends a request as it is and returns the status and the body.
func (f *fixture) send(t *testing.T, method, target, contentType, body string) (int, string) {
	t.Helper()
	h := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return net.Dial("unix", f.socket)
		},
	}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequest(method, "http://rowan"+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := h.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(data)
}

func TestEveryCallReachesTheEngine(t *testing.T) {
	f := start(t)
	ctx := context.Background()
	name, size := "web2", int64(1<<31)
	until := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	cases := []struct {
		call func() error
		want string
	}{
		{func() error { _, err := f.client.LUNs(ctx); return err }, "LUNs"},
		{func() error { _, err := f.client.LUN(ctx, "web"); return err }, `LUN "web"`},
		{func() error { _, err := f.client.CreateLUN(ctx, "web", 4096); return err }, `CreateLUN "web" 4096`},
		{func() error { return f.client.DeleteLUN(ctx, "web", true, false) }, `DeleteLUN "web" true false`},
		{func() error { return f.client.DeleteLUN(ctx, "web", false, true) }, `DeleteLUN "web" false true`},
		{func() error { _, err := f.client.Snapshots(ctx, ""); return err }, `Snapshots ""`},
		{func() error { _, err := f.client.Snapshots(ctx, "web"); return err }, `Snapshots "web"`},
		{func() error { _, err := f.client.Snapshot(ctx, "web", "mon"); return err }, `SnapshotInfo "web" "mon"`},
		{func() error { _, err := f.client.RenameSnapshot(ctx, "web", "mon", "tue"); return err }, `RenameSnapshot "web" "mon" "tue"`},
		{func() error { _, err := f.client.LockSnapshot(ctx, "web", "mon", &until); return err }, `LockSnapshot "web" "mon"`},
		{func() error { _, err := f.client.UnlockSnapshot(ctx, "web", "mon"); return err }, `UnlockSnapshot "web" "mon"`},
		{func() error { return f.client.DeleteSnapshot(ctx, "web", "mon", true) }, `DeleteSnapshot "web" "mon" true`},
		{func() error { return f.client.DeleteSnapshot(ctx, "web", "mon", false) }, `DeleteSnapshot "web" "mon" false`},
		{func() error { _, err := f.client.Clone(ctx, "web", "mon", "copy"); return err }, `Clone "web" "mon" "copy"`},
		{func() error { _, err := f.client.Revert(ctx, "web", "mon", wire.Revert{Force: true}); return err }, `Revert "web" "mon" true`},
	}
	for _, c := range cases {
		if err := c.call(); err != nil {
			t.Errorf("%s: %v", c.want, err)
		}
		if got := f.engine.last(); got != c.want {
			t.Errorf("the engine got %s, want %s", got, c.want)
		}
	}
	if !f.engine.until.Equal(until) {
		t.Errorf("locked until %v, want %v", f.engine.until, until)
	}
	if _, err := f.client.ChangeLUN(ctx, "web", wire.ChangeLUN{Name: &name, SizeBytes: &size}); err != nil {
		t.Error(err)
	}
	got := f.engine.calls[len(f.engine.calls)-3:]
	want := []string{`RenameLUN "web" "web2"`, `ResizeLUN "web2" 2147483648`, `LUN "web2"`}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the engine got %q, want %q", got, want)
	}
}

func TestSnapshotRequestCarriesWhoAndWhat(t *testing.T) {
	f := start(t)
	_, err := f.client.CreateSnapshots(context.Background(), wire.CreateSnapshots{
		Items: []wire.SnapshotItem{{LUN: "a", Name: "x"}, {LUN: "b"}}, Comment: "before the upgrade",
	})
	if err != nil {
		t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	want := blockdev.SnapshotRequest{
		Items:     []blockdev.SnapshotItem{{LUN: "a", Name: "x"}, {LUN: "b"}},
		CreatedBy: me.Username, Comment: "before the upgrade", Consistency: blockdev.Crash,
	}
	if !reflect.DeepEqual(f.engine.request, want) {
		t.Errorf("the engine got %+v, want %+v", f.engine.request, want)
	}
	if _, err := f.client.Revert(context.Background(), "a", "x", wire.Revert{SavedName: "s"}); err != nil {
		t.Fatal(err)
	}
	if f.engine.revert.CreatedBy != me.Username || f.engine.revert.SavedName != "s" {
		t.Errorf("the engine got %+v", f.engine.revert)
	}
}

func TestAnswersCarryAllThatTheEngineSays(t *testing.T) {
	f := start(t)
	lun, err := f.client.LUN(context.Background(), "web")
	if err != nil {
		t.Fatal(err)
	}
	uris := func(export string) []string {
		return []string{
			"nbd+unix:///" + export + "?socket=/run/my%20rowan/R%26D%2B1%20%23%3F/nbd.sock",
			"nbds://localhost:10809/" + export,
		}
	}
	e := f.engine.lun
	if want := (wire.LUN{
		ID: e.ID, UUID: e.UUID, Name: e.Name, SizeBytes: e.SizeBytes, Created: e.Created.UTC(), Failed: e.Failed,
		Clients: e.Clients, Snapshots: e.Snapshots, Origin: e.Origin, MappedBytes: e.MappedBytes,
		UniqueBytes: e.UniqueBytes, NBDURIs: uris("web"),
	}); !reflect.DeepEqual(lun, want) {
		t.Errorf("LUN is\n%+v, want\n%+v", lun, want)
	}
	snap, err := f.client.Snapshot(context.Background(), "web", "mon")
	if err != nil {
		t.Fatal(err)
	}
	s, until := f.engine.snap, f.engine.snap.LockedUntil.UTC()
	if want := (wire.Snapshot{
		ID: s.ID, LUN: s.LUN, Name: s.Name, Created: s.Created.UTC(), SizeBytes: s.SizeBytes, Group: s.Group,
		CreatedBy: s.CreatedBy, Comment: s.Comment, Consistency: "crash", Evidence: s.Evidence, Locked: true,
		LockedUntil: &until, Clients: 3, MappedBytes: 4, UniqueBytes: 5, NBDURIs: uris("web@mon"),
	}); !reflect.DeepEqual(snap, want) {
		t.Errorf("snapshot is\n%+v, want\n%+v", snap, want)
	}
	status, err := f.client.Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if status.Version != "v1" || status.PID != 42 || status.API != f.socket || len(status.NBD) != 2 ||
		status.Pool != (wire.Pool{
			UUID: "u", Dir: "/pool", LUNs: 1, Snapshots: 2, TotalBytes: 3, FreeBytes: 4, Pending: 5,
			Space: wire.SpaceLow, WarnBytes: 6, ReserveBytes: 7, ReservedBytes: 8,
		}) || !slices.Equal(status.Failures, []wire.Failure{{Name: "web@mon", Why: "reasons"}}) || status.MoreFailures != 9 {
		t.Errorf("status is %+v", status)
	}
}

func TestErrorsOfTheEngineHaveCodes(t *testing.T) {
	f := start(t)
	cases := []struct {
		err    error
		code   wire.Code
		status int
	}{
		{blockdev.ErrNotFound, wire.NotFound, 404},
		{blockdev.ErrExists, wire.Exists, 409},
		{blockdev.ErrInvalid, wire.Invalid, 422},
		{blockdev.ErrInUse, wire.InUse, 409},
		{blockdev.ErrLocked, wire.Locked, 423},
		{blockdev.ErrReadOnly, wire.ReadOnly, 403},
		{blockdev.ErrNoSpace, wire.NoSpace, 507},
		{blockdev.ErrStale, wire.Stale, 410},
		{blockdev.ErrFailed, wire.Failed, 500},
		{blockdev.ErrCorrupt, wire.Damaged, 500},
		{blockdev.ErrClosed, wire.Stopping, 503},
		{syscall.ENOTTY, wire.Internal, 500},
	}
	for _, c := range cases {
		f.engine.err = &blockdev.Error{Object: "LUN web", Class: c.err, Detail: "do this next"}
		_, err := f.client.LUN(context.Background(), "web")
		var p *wire.Problem
		if !errors.As(err, &p) {
			t.Errorf("%v: got %v, want a problem", c.err, err)
			continue
		}
		if p.Code != c.code || p.Status != c.status || !strings.Contains(p.Error(), "LUN web: ") ||
			!strings.Contains(p.Error(), "do this next") {
			t.Errorf("%v: got %+v, want code %s, status %d", c.err, p, c.code, c.status)
		}
	}
}

func TestHostileRequests(t *testing.T) {
	f := start(t)
	deep := strings.Repeat("[", 100000)
	cases := []struct {
		name, method, target, contentType, body string
		status                                  int
	}{
		{"no JSON", "POST", "/v1/luns", "", "{", 400},
		{"empty body", "POST", "/v1/luns", "", "", 400},
		{"another type", "POST", "/v1/luns", "", "[]", 422},
		{"null", "POST", "/v1/luns", "", "null", 422},
		{"unknown field", "POST", "/v1/luns", "", `{"name":"a","size_bytes":4096,"color":"red"}`, 422},
		{"missing field", "POST", "/v1/luns", "", `{"name":"a"}`, 422},
		{"negative size", "POST", "/v1/luns", "", `{"name":"a","size_bytes":-4096}`, 422},
		{"fraction", "POST", "/v1/luns", "", `{"name":"a","size_bytes":4096.5}`, 422},
		{"past 63 bits", "POST", "/v1/luns", "", `{"name":"a","size_bytes":9223372036854775808}`, 422},
		{"huge number", "POST", "/v1/luns", "", `{"name":"a","size_bytes":1e400}`, 400},
		{"number as text", "POST", "/v1/luns", "", `{"name":"a","size_bytes":"4096"}`, 422},
		{"long name", "POST", "/v1/luns", "", `{"name":"` + strings.Repeat("a", 65) + `","size_bytes":4096}`, 422},
		{"large body", "POST", "/v1/luns", "", `{"name":"` + strings.Repeat("a", 300<<10) + `"}`, 413},
		{"deep body", "POST", "/v1/luns", "", deep, 400},
		{"no items", "POST", "/v1/snapshots", "", `{"items":[]}`, 422},
		{"null items", "POST", "/v1/snapshots", "", `{"items":null}`, 422},
		{"many items", "POST", "/v1/snapshots", "", `{"items":[` + strings.Repeat(`{"lun":"a"},`, 1000) + `{"lun":"a"}]}`, 422},
		{"form", "POST", "/v1/luns", "application/x-www-form-urlencoded", "name=a", 415},
		{"plus after the semicolon", "POST", "/v1/luns", "a;b=c+json", "{}", 415},
		{"no media type", "POST", "/v1/luns", ";;;", "{}", 415},
		{"charset", "POST", "/v1/luns", "application/json; charset=utf+8", `{"name":"a","size_bytes":4096}`, 201},
		{"bad query", "DELETE", "/v1/luns/web?force=maybe", "", "", 422},
		{"bad offset", "GET", "/v1/luns/web/diff?offset_bytes=-1", "", "", 422},
		{"offset past the end", "GET", "/v1/luns/web/diff?offset_bytes=9223372036854775807", "", "", 422},
		{"large limit", "GET", "/v1/luns/web/diff?limit=10001", "", "", 422},
		{"no such path", "GET", "/v2/luns", "", "", 404},
		{"no such method", "PUT", "/v1/luns", "", "{}", 405},
		{"schema that is not there", "GET", "/schemas/LUN.json", "", "", 404},
		{"documentation that loads scripts", "GET", "/docs", "", "", 404},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			status, body := f.send(t, c.method, c.target, c.contentType, c.body)
			if status != c.status {
				t.Fatalf("status %d, want %d: %.200s", status, c.status, body)
			}
			if status < 300 {
				return
			}
			var p wire.Problem
			if err := json.Unmarshal([]byte(body), &p); err != nil || p.Code == "" || p.Status != status {
				t.Errorf("not a problem: %.200s", body)
			}
			if len(body) > 4096 {
				t.Errorf("the answer of %d bytes repeats what was sent", len(body))
			}
		})
	}
	if _, err := f.client.Status(context.Background()); err != nil {
		t.Errorf("the server does not answer any more: %v", err)
	}
}

func TestNamesGoThroughAsTheyAre(t *testing.T) {
	f := start(t)
	for _, name := range []string{
		"a/b", "../../etc", "//", "a%2fb", "ä\u0000", "a b", "a?b#c", "{lun}", "\xff", strings.Repeat("n", 4000), "…",
	} {
		if _, err := f.client.LUN(context.Background(), name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if got, want := f.engine.last(), fmt.Sprintf("LUN %q", name); got != want {
			t.Errorf("the engine got %s, want %s", got, want)
		}
	}
	before := len(f.engine.calls)
	for _, name := range []string{"", ".", "..", "/"} {
		_, err := f.client.LUN(context.Background(), name)
		var p *wire.Problem
		if !errors.As(err, &p) || p.Code != wire.Invalid && p.Code != wire.NotFound {
			t.Errorf("%q: %v, want a problem", name, err)
		}
	}
	if len(f.engine.calls) != before {
		t.Errorf("a name that is none reached the engine: %v", f.engine.calls[before:])
	}
}

func TestOpenAPI(t *testing.T) {
	f := start(t)
	status, body := f.send(t, "GET", "/openapi.json", "", "")
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string
			Summary     string
			Parameters  []struct{ Name, In string }
			Responses   map[string]struct {
				Content map[string]any
			}
		}
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil || status != 200 {
		t.Fatalf("status %d: %v", status, err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") || len(doc.Paths) != 10 {
		t.Errorf("version %s with %d paths", doc.OpenAPI, len(doc.Paths))
	}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			if op.OperationID == "" || op.Summary == "" {
				t.Errorf("%s %s is not described", method, path)
			}
			if op.Responses["default"].Content["application/problem+json"] == nil {
				t.Errorf("%s %s does not say what an error looks like", method, path)
			}
			inPath := 0
			for _, p := range op.Parameters {
				if p.In == "path" {
					inPath++
				}
			}
			if inPath != strings.Count(path, "{") {
				t.Errorf("%s %s has %d parameters in its path", method, path, inPath)
			}
		}
	}
	for _, name := range []string{"LUN", "Snapshot", "Problem", "Range", "Scrub", "Status"} {
		if doc.Components.Schemas[name] == nil {
			t.Errorf("schema %s is missing", name)
		}
	}
	direct, err := f.server.OpenAPI()
	if err != nil || !json.Valid(direct) {
		t.Errorf("%v: %.100s", err, direct)
	}
}
