package nbd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/nbd/wire"
)

// authority makes certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	n    int64
}

func newAuthority(t testing.TB) *authority {
	a := &authority{}
	a.cert, a.key = a.make(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// make signs a certificate, by itself if there is none yet.
func (a *authority) make(t testing.TB, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.n++
	c.SerialNumber = big.NewInt(a.n)
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err = x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, key
}

// pair makes a certificate for a name, also as a server on this host.
func (a *authority) pair(t testing.TB, name string) tls.Certificate {
	t.Helper()
	c, key := a.make(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// serverConfig asks clients for a certificate of the authority.
func (a *authority) serverConfig(t testing.TB) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{a.pair(t, "the server")},
		ClientCAs:    a.pool(), ClientAuth: tls.RequireAndVerifyClientCert,
	}
}

func (a *authority) clientConfig(t testing.TB) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{a.pair(t, "the client")}, RootCAs: a.pool(), ServerName: "localhost",
	}
}

// directory writes what libnbd's tls-certificates wants to find.
func (a *authority) directory(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	client := a.pair(t, "the client")
	key, err := x509.MarshalECPrivateKey(client.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"ca-cert.pem":     {Type: "CERTIFICATE", Bytes: a.cert.Raw},
		"client-cert.pem": {Type: "CERTIFICATE", Bytes: client.Leaf.Raw},
		"client-key.pem":  {Type: "EC PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// serveTLS serves a device with TLS on TCP, and without on the unix socket.
func serveTLS(t testing.TB, d Device) (s *testServer, a *authority, address string) {
	s = serveDevice(t, d)
	a = newAuthority(t)
	return s, a, s.listen(t, "tcp", "127.0.0.1:0", a.serverConfig(t))
}

// dialTLS makes a raw client of the TLS address, greeted in plain text.
func dialTLS(t testing.TB, address string) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(waitTime))
	c := &rawClient{TB: t, Conn: conn}
	c.greet(uint32(wire.FlagFixedNewstyle | wire.FlagNoZeroes))
	return c
}

// startTLS upgrades a raw client.
func (c *rawClient) startTLS(config *tls.Config) error {
	c.Helper()
	c.option(wire.OptStartTLS, nil)
	c.wantReply(wire.RepAck)
	t := tls.Client(c.Conn, config)
	if err := t.Handshake(); err != nil {
		return err
	}
	c.Conn = t
	return nil
}

func TestTLSClients(t *testing.T) {
	d := newMemDevice(8<<20 + 512)
	d.fill(1<<20, 6<<20)
	s, a, address := serveTLS(t, d)
	uri := "nbds://localhost" + strings.TrimPrefix(address, "127.0.0.1") + "/?tls-certificates=" + a.directory(t)
	if out := mustRun(t, "nbdinfo", uri); !strings.Contains(out, "with TLS") || !strings.Contains(out, "export-size: 8389120") {
		t.Error(out)
	}
	s.exports.mu.Lock()
	if !strings.Contains(s.exports.client, "(CN=the client)") {
		t.Errorf("the client is described as %q", s.exports.client)
	}
	s.exports.mu.Unlock()
	file := filepath.Join(t.TempDir(), "out")
	mustRun(t, "nbdcopy", uri, file)
	wantFile(t, file, d.data)

	c, err := Dial(t.Context(), "tcp", address, ClientOptions{TLS: a.clientConfig(t), Connections: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := make([]byte, 3<<20)
	if _, err := c.ReadAt(p, 1<<20); err != nil || !bytes.Equal(p, d.data[1<<20:4<<20]) {
		t.Errorf("reading: %v", err)
	}
	if _, err := c.WriteAt(p, 5); err != nil || !bytes.Equal(p, d.data[5:5+3<<20]) {
		t.Errorf("writing: %v", err)
	}
}

func TestTLSIsRequired(t *testing.T) {
	_, a, address := serveTLS(t, newMemDevice(1<<20))
	c := dialTLS(t, address)
	go_ := wire.AppendInfoRequest(nil, "")
	for o, data := range map[wire.Option][]byte{
		wire.OptGo: go_, wire.OptInfo: go_, wire.OptList: nil, wire.OptStructuredReply: nil, wire.OptExtendedHeaders: nil,
		wire.OptSetMetaContext: wire.AppendMetaRequest(nil, ""), 99: nil, wire.OptListMetaContext: []byte("nonsense"),
	} {
		c.option(o, data)
		if c.wantReply(wire.RepErrTLSReqd); t.Failed() {
			t.Fatal(o)
		}
	}
	c.option(wire.OptStartTLS, []byte("x"))
	c.wantReply(wire.RepErrInvalid)
	if err := c.startTLS(a.clientConfig(t)); err != nil {
		t.Fatal(err)
	}
	c.option(wire.OptGo, go_)
	c.wantReply(wire.RepInfo)
	c.wantReply(wire.RepAck)
	c.wantErrno(0, wire.Request{Type: wire.CmdRead, Length: 512})
	c.request(wire.Request{Type: wire.CmdDisc})
	c.wantClosed() // with TLS closed in order, else reading fails

	plain := dialTLS(t, address)
	plain.option(wire.OptExportName, nil)
	plain.wantClosed()

	aborted := dialTLS(t, address)
	aborted.option(wire.OptAbort, nil)
	aborted.wantReply(wire.RepAck)
	aborted.wantClosed()

	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	unfixed := &rawClient{TB: t, Conn: conn}
	unfixed.greet(0) // cannot start TLS
	unfixed.wantClosed()
}

func TestClientsWithoutTheRightCertificateAreRefused(t *testing.T) {
	_, a, address := serveTLS(t, newMemDevice(1<<20))
	other := newAuthority(t)
	for name, config := range map[string]*tls.Config{
		"none":     {RootCAs: a.pool()},
		"foreign":  {RootCAs: a.pool(), Certificates: []tls.Certificate{other.pair(t, "the client")}},
		"old TLS":  {RootCAs: a.pool(), Certificates: a.clientConfig(t).Certificates, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11},
		"no trust": {RootCAs: other.pool(), Certificates: a.clientConfig(t).Certificates},
	} {
		config.ServerName = "localhost"
		c := dialTLS(t, address)
		err := c.startTLS(config)
		if err == nil { // TLS 1.3: the client learns of it only later
			c.option(wire.OptList, nil)
			_, err = c.Read(make([]byte, 1))
		}
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// What was negotiated before TLS is forgotten: it may come from a stranger.
func TestTLSForgetsWhatWasNegotiatedBefore(t *testing.T) {
	s := serveStatus(t, statusDevice())
	a := newAuthority(t)
	config := a.serverConfig(t)
	h := &handshake{tlsConfig: config, exports: s.exports, limits: Limits{}.withDefaults()}
	server, client := net.Pipe()
	t.Cleanup(func() { server.Close(); client.Close() })
	h.conn, h.style, h.metaName, h.contexts = server, wire.Extended, "", []metaContext{{id: 1, name: allocation}}
	if err := h.open(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- h.startTLS(context.Background()) }()
	mustReadFull(t, client, make([]byte, wire.ReplyHeaderSize))
	if err := tls.Client(client, a.clientConfig(t)).Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if h.style != wire.Simple || h.contexts != nil || h.export != nil || s.exports.count() != 0 {
		t.Errorf("style %d, contexts %v, export %v remain", h.style, h.contexts, h.export)
	}
}

func TestStartTLSTwice(t *testing.T) {
	_, a, address := serveTLS(t, newMemDevice(1<<20))
	c := dialTLS(t, address)
	if err := c.startTLS(a.clientConfig(t)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c.option(wire.OptStartTLS, nil)
		c.wantReply(wire.RepErrInvalid)
	}
	c.option(wire.OptList, nil)
	c.wantReply(wire.RepServer)
}

// A stranger who can write to the wire puts options behind NBD_OPT_STARTTLS in
// plain text: they must not be answered as if they came through TLS.
func TestPlaintextInjectedBeforeTLS(t *testing.T) {
	s, a, address := serveTLS(t, newMemDevice(1<<20))
	c := dialTLS(t, address)
	injected := wire.AppendOption(nil, wire.OptStartTLS, nil)
	injected = wire.AppendOption(injected, wire.OptGo, wire.AppendInfoRequest(nil, ""))
	c.send(injected)
	c.wantReply(wire.RepAck)
	if err := tls.Client(c.Conn, a.clientConfig(t)).Handshake(); err == nil {
		t.Error("the handshake of TLS succeeds with plain text in it")
	}
	if len(s.exports.opened) != 0 {
		t.Errorf("exports %q were opened", s.exports.opened)
	}
}

// A stranger answers NBD_OPT_STARTTLS in place of the server, or puts replies
// behind the server's answer: the client must not go on.
func TestClientInsistsOnTLS(t *testing.T) {
	a := newAuthority(t)
	ack := wire.AppendOptionReply(nil, wire.OptStartTLS, wire.RepAck, nil)
	plain := wire.AppendOptionReply(nil, wire.OptExtendedHeaders, wire.RepAck, nil)
	for name, answer := range map[string][]byte{
		"stripped": wire.AppendOptionReply(nil, wire.OptStartTLS, wire.RepErrUnsup, nil),
		"refused":  wire.AppendOptionReply(nil, wire.OptStartTLS, wire.RepErrPolicy, nil),
		"injected": append(ack, plain...),
	} {
		address, received := fakeServer(t, wire.AppendGreeting(nil, 3), answer)
		_, err := Dial(t.Context(), "tcp", address, ClientOptions{TLS: a.clientConfig(t)})
		if err == nil {
			t.Errorf("%s: connected", name)
		}
		if bytes.Contains(received(), []byte("IHAVEOPT\x00\x00\x00\x07")) {
			t.Errorf("%s: the client went on in plain text", name)
		}
	}
	address, _ := fakeServer(t, wire.AppendGreeting(nil, 0))
	if _, err := Dial(t.Context(), "tcp", address, ClientOptions{TLS: a.clientConfig(t)}); err == nil {
		t.Error("a server without fixed newstyle: connected")
	}
}

func TestClientSaysWhyTLSFailed(t *testing.T) {
	s, a, address := serveTLS(t, newMemDevice(1<<20))
	_, err := Dial(t.Context(), "unix", s.socket, ClientOptions{TLS: a.clientConfig(t)})
	if err == nil || !strings.Contains(err.Error(), "the server has no TLS here") {
		t.Errorf("%v", err)
	}
	_, err = Dial(t.Context(), "tcp", address, ClientOptions{})
	if err == nil || !strings.Contains(err.Error(), "requires TLS") {
		t.Errorf("%v", err)
	}
	wrong := a.clientConfig(t)
	wrong.ServerName = "elsewhere"
	if _, err = Dial(t.Context(), "tcp", address, ClientOptions{TLS: wrong}); err == nil {
		t.Error("a certificate for another name was accepted")
	}
	if _, err = Dial(t.Context(), "unix", s.socket, ClientOptions{Export: "none"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// fakeServer sends each of these as soon as a client has sent anything, the
// first at once. received returns what the client has sent when it hung up.
func fakeServer(t testing.TB, says ...[]byte) (address string, received func() []byte) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan []byte, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			done <- nil
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(waitTime))
		var all []byte
		b := make([]byte, 4096)
		for _, say := range says {
			conn.Write(say)
			n, err := conn.Read(b)
			all = append(all, b[:n]...)
			if err != nil {
				break
			}
		}
		conn.(*net.TCPConn).CloseWrite()
		for {
			n, err := conn.Read(b)
			all = append(all, b[:n]...)
			if err != nil {
				break
			}
		}
		done <- all
	}()
	t.Cleanup(func() { l.Close() })
	return l.Addr().String(), func() []byte { l.Close(); return <-done }
}
