package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ServerTLS reads the files of nbd_tls: the server shows its certificate and
// demands one that client_ca signed. It returns nil if none is configured.
func (c *Config) ServerTLS() (*tls.Config, error) {
	if c.NBDTLS.IsZero() {
		return nil, nil
	}
	var errs []error
	for _, f := range []struct{ key, value string }{
		{keyTLSCert, c.NBDTLS.Cert}, {keyTLSKey, c.NBDTLS.Key}, {keyTLSClientCA, c.NBDTLS.ClientCA},
	} {
		if f.value == "" {
			errs = append(errs, &Error{Source: c.tlsSource(), Key: f.key,
				Err: errors.New("is missing: TLS needs cert, key and client_ca")})
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if err := checkSecret(c.NBDTLS.Key); err != nil {
		return nil, c.errorf(keyTLSKey, "%w", err)
	}
	cert, err := tls.LoadX509KeyPair(c.NBDTLS.Cert, c.NBDTLS.Key)
	if err != nil {
		return nil, c.errorf(keyTLSCert, "%w", err)
	}
	pem, err := readFile(c.NBDTLS.ClientCA)
	if err != nil {
		return nil, c.errorf(keyTLSClientCA, "%w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, c.errorf(keyTLSClientCA, "%s holds no certificate in PEM", c.NBDTLS.ClientCA)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
	}, nil
}

// tlsSource is where any of the files of TLS was named.
func (c *Config) tlsSource() Source {
	for _, key := range []string{keyTLSCert, keyTLSKey, keyTLSClientCA} {
		if s, ok := c.sources[key]; ok {
			return s
		}
	}
	return Source{}
}

// checkSecret refuses a file that others than its owner could read. The service
// manager's credentials pass: it guards them by access lists, which show up as
// group permissions.
func checkSecret(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	credentials := os.Getenv("CREDENTIALS_DIRECTORY")
	if credentials != "" && filepath.Dir(path) == filepath.Clean(credentials) {
		return nil
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s has mode %04o and others can read it: chmod 600 %s", path, mode, path)
	}
	return nil
}
