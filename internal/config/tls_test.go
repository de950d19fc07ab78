package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/internal/config"
)

// selfSigned writes a certificate and its key.
func selfSigned(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert = write(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	key = write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	return cert, key
}

func withTLS(t *testing.T, cert, key, ca string) error {
	t.Helper()
	text := "nbd = ['0.0.0.0:10809']\n[nbd_tls]\n"
	for _, line := range []struct{ key, value string }{{"cert", cert}, {"key", key}, {"client_ca", ca}} {
		if line.value != "" {
			text += line.key + " = '" + line.value + "'\n"
		}
	}
	c, err := config.Load(write(t, filepath.Join(t.TempDir(), "c.toml"), text))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Finish(); err != nil {
		return err
	}
	server, err := c.ServerTLS()
	if err == nil && server.ClientAuth != tls.RequireAndVerifyClientCert {
		t.Errorf("client certificates are not demanded: %v", server.ClientAuth)
	}
	return err
}

func TestTLSFiles(t *testing.T) {
	dir := t.TempDir()
	cert, key := selfSigned(t, dir)
	_, otherKey := selfSigned(t, filepath.Join(dir, "other"))
	junk := write(t, filepath.Join(dir, "junk"), "not PEM")
	cases := []struct{ name, cert, key, ca, want string }{
		{"complete", cert, key, cert, ""},
		{"no key", cert, "", cert, "nbd_tls.key: is missing"},
		{"no authorities", cert, key, "", "nbd_tls.client_ca: is missing"},
		{"key of another", cert, otherKey, cert, "c.toml:3: nbd_tls.cert: "},
		{"absent key", cert, key + "x", cert, "c.toml:4: nbd_tls.key: "},
		{"key is a directory", cert, dir, cert, "is not a regular file"},
		{"authorities are junk", cert, key, junk, "c.toml:5: nbd_tls.client_ca: "},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := withTLS(t, c.cert, c.key, c.ca)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestKeyOthersCanReadIsRefused(t *testing.T) {
	cert, key := selfSigned(t, t.TempDir())
	for _, mode := range []os.FileMode{0o640, 0o604, 0o610, 0o602} {
		if err := os.Chmod(key, mode); err != nil {
			t.Fatal(err)
		}
		err := withTLS(t, cert, key, cert)
		if err == nil || !strings.Contains(err.Error(), "chmod 600 "+key) {
			t.Errorf("mode %04o: error is %v", mode, err)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", filepath.Dir(key))
	if err := withTLS(t, cert, key, cert); err != nil {
		t.Errorf("a credential of the service manager is refused: %v", err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if err := os.Chmod(key, 0o400); err != nil {
		t.Fatal(err)
	}
	if err := withTLS(t, cert, key, cert); err != nil {
		t.Errorf("mode 0400: %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	for _, seed := range []string{
		"pool = '/p'\n", "[nbd_tls]\ncert='/c'\n", "nbd_tls = {key = '/k', x = {y = 1}}\n", "[[nbd]]\n",
		"\"po\\u006fl\" = '/p'\n", "a.b.c = 1\n", "nbd = [\n'unix:/x', # c\n]\n", "\x00", "pool = \"",
	} {
		f.Add(seed)
	}
	file := filepath.Join(f.TempDir(), "c.toml")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := config.Load(file); err != nil && !strings.Contains(err.Error(), file) {
			t.Errorf("error does not name the file: %v", err)
		}
	})
}
