package interop

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/test/harness"
)

// authority is a certificate authority made for one test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key, a.pem = a.issue(template)
	return a
}

// issue signs a certificate for a new key; with the new key itself as long as
// the authority has none.
func (a *authority) issue(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey, []byte) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// write puts a certificate for 127.0.0.1, its key and the authority's own
// certificate into dir under the names that libnbd and QEMU look for.
func (a *authority) write(dir, role string, usage x509.ExtKeyUsage) {
	a.t.Helper()
	_, key, certPEM := a.issue(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: role},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		KeyUsage: x509.KeyUsageDigitalSignature,
	})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	for name, data := range map[string][]byte{
		"ca-cert.pem": a.pem, role + "-cert.pem": certPEM, role + "-key.pem": keyPEM,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
}

// TestTLS lets libnbd and QEMU in with a certificate of the right authority,
// and nobody else.
func TestTLS(t *testing.T) {
	harness.Need(t, "nbdinfo", "nbdcopy", "qemu-img")
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	server, client, stranger, nobody := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	ours.write(server, "server", x509.ExtKeyUsageServerAuth)
	ours.write(client, "client", x509.ExtKeyUsageClientAuth)
	theirs.write(stranger, "client", x509.ExtKeyUsageClientAuth)
	for _, dir := range []string{stranger, nobody} { // they know our authority, it does not know them
		if err := os.WriteFile(filepath.Join(dir, "ca-cert.pem"), ours.pem, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := harness.Start(t,
		"--nbd-tls-cert", filepath.Join(server, "server-cert.pem"),
		"--nbd-tls-key", filepath.Join(server, "server-key.pem"),
		"--nbd-tls-client-ca", filepath.Join(server, "ca-cert.pem"))
	create(d, "web", 32)
	uri := func(dir string) string {
		return strings.Replace(d.TCPURI("web"), "nbd://", "nbds://", 1) + "?tls-certificates=" + dir
	}

	info := harness.Run(t, "nbdinfo", "--json", uri(client))
	if !strings.Contains(info, `"TLS": true`) {
		t.Errorf("nbdinfo sees no TLS: %s", info)
	}
	image := randomFile(t, "image.raw", 32*mib, 9)
	harness.Run(t, "nbdcopy", "--flush", image, uri(client))
	same(t, "copied through TLS", image, copyOut(t, uri(client)))
	host, port, err := net.SplitHostPort(d.TCP)
	if err != nil {
		t.Fatal(err)
	}
	harness.Run(t, "qemu-img", "compare", "--object", "tls-creds-x509,id=tls,endpoint=client,dir="+client,
		"--image-opts", "driver=raw,file.filename="+image,
		"driver=nbd,export=web,server.type=inet,server.host="+host+",server.port="+port+",tls-creds=tls")

	for name, uri := range map[string]string{
		"in plaintext":                            d.TCPURI("web"),
		"without a certificate":                   uri(nobody),
		"with a certificate of another authority": uri(stranger),
	} {
		if r := harness.Try(t, "nbdinfo", uri); r.Code == 0 {
			t.Errorf("a client was let in %s", name)
		}
	}
	harness.Run(t, "nbdinfo", d.URI("web")) // the unix socket wants none
}
