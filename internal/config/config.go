package config

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// DefaultFile is read when no file is named, if it exists.
const DefaultFile = "/etc/rowan/rowan.toml"

// Config is what the daemon needs to know to start.
type Config struct {
	// Pool is the directory of the pool.
	Pool string
	// API is the path of the unix socket of the API.
	API string
	// NBD holds the addresses to serve NBD on. If no source set them, Finish
	// puts in nbd.sock beside the API's socket.
	NBD []Address
	// NBDAllowPlaintext permits TCP addresses beyond loopback without TLS.
	NBDAllowPlaintext bool
	// NBDTLS makes every TCP address demand TLS with a client certificate.
	NBDTLS TLSFiles
	// LogLevel is the lowest level that is logged.
	LogLevel slog.Level
	// LogFormat is "text" or "json".
	LogFormat string
	// ScrubRate bounds how many bytes per second are read to make checksums, as
	// many again to merge segments, and
	// as many again by a scrub; negative for no bound.
	ScrubRate int64
	// MapMemory bounds the bytes of memory that the maps of all LUNs and
	// snapshots take; negative for no bound, 0 for a share of the machine's.
	MapMemory int64
	// StopTimeout bounds how long a clean stop waits for requests in flight.
	StopTimeout time.Duration

	nbdSet  bool
	sources map[string]Source // where each key was set, if it was
}

// TLSFiles names the PEM files of a TLS server that authenticates its clients.
type TLSFiles struct {
	Cert     string // certificate chain of the server
	Key      string // its private key, mode 0600 or stricter
	ClientCA string // authorities that clients' certificates must come from
}

// IsZero tells whether no file is named.
func (t TLSFiles) IsZero() bool { return t == TLSFiles{} }

// The keys, as they stand in the files and in errors.
const (
	keyPool           = "pool"
	keyAPI            = "api"
	keyNBD            = "nbd"
	keyAllowPlaintext = "nbd_allow_plaintext"
	tableTLS          = "nbd_tls"
	keyTLSCert        = "nbd_tls.cert"
	keyTLSKey         = "nbd_tls.key"
	keyTLSClientCA    = "nbd_tls.client_ca"
	keyLogLevel       = "log_level"
	keyLogFormat      = "log_format"
	keyScrubRate      = "scrub_rate"
	keyMapMemory      = "map_memory"
	keyStopTimeout    = "stop_timeout"
)

// maxStopTimeout keeps a stop from outlasting the patience of a supervisor.
const maxStopTimeout = 10 * time.Minute

// Default returns the configuration that nobody has changed.
func Default() Config {
	return Config{
		Pool:        "/var/lib/rowan/pool",
		API:         "/run/rowan/api.sock",
		LogLevel:    slog.LevelInfo,
		LogFormat:   "text",
		ScrubRate:   64 << 20,
		StopTimeout: 10 * time.Second,
		sources:     map[string]Source{},
	}
}

// Source is where a setting comes from: a line of a file, or a flag.
type Source struct {
	File string
	Line int
	Flag string
}

func (s Source) String() string {
	switch {
	case s.Flag != "":
		return s.Flag
	case s.Line > 0:
		return fmt.Sprintf("%s:%d", s.File, s.Line)
	case s.File != "":
		return s.File
	}
	return "default"
}

// Error is one thing that is wrong with the configuration.
type Error struct {
	Source Source
	Key    string // "" where the error is about the whole source
	Err    error
}

func (e *Error) Error() string {
	if e.Source.Flag != "" || e.Key == "" {
		return fmt.Sprintf("%s: %v", e.Source, e.Err)
	}
	return fmt.Sprintf("%s: %s: %v", e.Source, e.Key, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Overrides are settings of the command line. A nil one was not given.
type Overrides struct {
	Pool              *string
	API               *string
	NBD               []string
	NBDAllowPlaintext *bool
	NBDTLSCert        *string
	NBDTLSKey         *string
	NBDTLSClientCA    *string
	LogLevel          *string
	LogFormat         *string
	ScrubRate         *string
	MapMemory         *string
	StopTimeout       *string
}

// Override applies the command line. Relative paths are taken from the working
// directory.
func (c *Config) Override(o Overrides) error {
	s := setter{c: c, source: func(key string) Source {
		return Source{Flag: "--" + flagOf(key)}
	}, path: filepath.Abs}
	s.apply(settings{
		pool: o.Pool, api: o.API, nbd: nilIfEmpty(o.NBD),
		nbdAllowPlaintext: o.NBDAllowPlaintext,
		tlsCert:           o.NBDTLSCert, tlsKey: o.NBDTLSKey, tlsClientCA: o.NBDTLSClientCA,
		logLevel: o.LogLevel, logFormat: o.LogFormat, scrubRate: o.ScrubRate, mapMemory: o.MapMemory, stopTimeout: o.StopTimeout,
	})
	return errors.Join(s.errs...)
}

func nilIfEmpty(list []string) *[]string {
	if len(list) == 0 {
		return nil
	}
	return &list
}

// flagOf gives the flag that sets a key.
func flagOf(key string) string {
	b := []byte(key)
	for i, c := range b {
		if c == '_' || c == '.' {
			b[i] = '-'
		}
	}
	return string(b)
}

// Finish fills in what depends on other settings and checks what no single
// setting shows: that the files for TLS are complete and usable, and that
// nothing is served in plaintext beyond this machine unless that is asked for.
func (c *Config) Finish() error {
	if !c.nbdSet {
		c.NBD = []Address{{Network: "unix", Addr: filepath.Join(filepath.Dir(c.API), "nbd.sock")}}
	}
	var errs []error
	seen := map[string]bool{c.API: true}
	for _, a := range c.NBD {
		if seen[a.Addr] {
			errs = append(errs, c.errorf(keyNBD, "%s is given twice", a.Addr))
		}
		seen[a.Addr] = true
		if a.Network == "tcp" && !a.Loopback() && c.NBDTLS.IsZero() && !c.NBDAllowPlaintext {
			errs = append(errs, c.errorf(keyNBD,
				"%s can be reached from other machines: set nbd_tls.cert, nbd_tls.key and nbd_tls.client_ca, "+
					"or say nbd_allow_plaintext = true (--%s) if the network is trusted",
				a.Addr, flagOf(keyAllowPlaintext)))
		}
	}
	if !c.NBDTLS.IsZero() {
		if _, err := c.ServerTLS(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// errorf makes an error that points at where key was set.
func (c *Config) errorf(key, format string, args ...any) error {
	return &Error{Source: c.sources[key], Key: key, Err: fmt.Errorf(format, args...)}
}

// parseLevel reads a log level: debug, info, warn or error.
func parseLevel(text string) (slog.Level, error) {
	switch text {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("%q is none of debug, info, warn, error", text)
}

func parseFormat(text string) (string, error) {
	if text != "text" && text != "json" {
		return "", fmt.Errorf("%q is neither text nor json", text)
	}
	return text, nil
}

// parseBytes reads a number of bytes: a whole number, alone or with K, M or G for
// powers of 1024, or "unlimited", which is negative.
func parseBytes(text string) (n int64, ok bool) {
	if text == "unlimited" {
		return -1, true
	}
	number, shift := strings.TrimSuffix(strings.ToUpper(text), "IB"), 0
	if n := len(number); n > 0 {
		if i := strings.IndexByte("KMG", number[n-1]); i >= 0 {
			number, shift = number[:n-1], 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(number, 10, 32)
	return n << shift, err == nil && n >= 0
}

// parseRate reads a number of bytes per second as parseBytes does.
func parseRate(text string) (int64, error) {
	n, ok := parseBytes(text)
	if !ok {
		return 0, fmt.Errorf("%q is neither a rate such as 64M, in bytes per second, nor unlimited", text)
	}
	if n >= 0 && n < minScrubRate {
		return 0, fmt.Errorf("%q is less than %d bytes per second", text, minScrubRate)
	}
	return n, nil
}

// minMapMemory is the least that maps may be given: with less, each read of a
// large LUN would first read a part of its map.
const minMapMemory = 16 << 20

// parseMapMemory reads a number of bytes as parseBytes does, or "auto", which is
// 0.
func parseMapMemory(text string) (int64, error) {
	if text == "auto" {
		return 0, nil
	}
	n, ok := parseBytes(text)
	if !ok {
		return 0, fmt.Errorf("%q is none of auto, unlimited or a size such as 512M", text)
	}
	if n >= 0 && n < minMapMemory {
		return 0, fmt.Errorf("%q is less than %d bytes", text, minMapMemory)
	}
	return n, nil
}

// minScrubRate is the lowest rate: 64 KiB per second read 5 GiB a day.
const minScrubRate = 64 << 10

func parseStopTimeout(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration such as 10s or 1m30s", text)
	}
	if d <= 0 || d > maxStopTimeout {
		return 0, fmt.Errorf("%s is not more than 0 and at most %s", text, maxStopTimeout)
	}
	return d, nil
}
