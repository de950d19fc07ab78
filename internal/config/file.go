package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxFileBytes bounds a configuration file.
const maxFileBytes = 1 << 20

// document is a file as it is decoded. What is not in it stays nil.
type document struct {
	Pool              *string   `toml:"pool"`
	API               *string   `toml:"api"`
	NBD               *[]string `toml:"nbd"`
	NBDAllowPlaintext *bool     `toml:"nbd_allow_plaintext"`
	NBDTLS            struct {
		Cert     *string `toml:"cert"`
		Key      *string `toml:"key"`
		ClientCA *string `toml:"client_ca"`
	} `toml:"nbd_tls"`
	LogLevel    *string `toml:"log_level"`
	LogFormat   *string `toml:"log_format"`
	ScrubRate   *string `toml:"scrub_rate"`
	MapMemory   *string `toml:"map_memory"`
	StopTimeout *string `toml:"stop_timeout"`
}

// Load reads path and the files conf.d/*.toml beside it over the defaults. With
// path "" it reads DefaultFile, which need not exist. The result still wants
// Override and Finish.
func Load(path string) (Config, error) {
	c := Default()
	optional := path == ""
	if optional {
		path = DefaultFile
	}
	var errs []error
	if err := c.addFile(path); err != nil && (!optional || !errors.Is(err, fs.ErrNotExist)) {
		errs = append(errs, err)
	}
	// The pattern is well-formed, which is all that Glob reports.
	more, _ := filepath.Glob(filepath.Join(globQuote(filepath.Dir(path)), "conf.d", "*.toml"))
	for _, file := range more {
		if err := c.addFile(file); err != nil {
			errs = append(errs, err)
		}
	}
	return c, errors.Join(errs...)
}

// globQuote makes filepath.Glob take dir literally.
func globQuote(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

func (c *Config) addFile(path string) error {
	data, err := readFile(path)
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	keys := findKeys(data)
	if err := unknownKeys(path, keys); err != nil {
		return err
	}
	var doc document
	if err := toml.Unmarshal(data, &doc); err != nil {
		return decodeError(path, keys, err)
	}
	lines := map[string]int{}
	for _, k := range keys {
		lines[k.name] = k.line
	}
	s := setter{c: c, source: func(key string) Source {
		return Source{File: path, Line: lines[key]}
	}, path: absolute}
	s.apply(settings{
		pool: doc.Pool, api: doc.API, nbd: doc.NBD,
		nbdAllowPlaintext: doc.NBDAllowPlaintext,
		tlsCert:           doc.NBDTLS.Cert, tlsKey: doc.NBDTLS.Key, tlsClientCA: doc.NBDTLS.ClientCA,
		logLevel: doc.LogLevel, logFormat: doc.LogFormat, scrubRate: doc.ScrubRate, mapMemory: doc.MapMemory, stopTimeout: doc.StopTimeout,
	})
	return errors.Join(s.errs...)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("%s: longer than %d bytes", path, maxFileBytes)
	}
	return data, nil
}

// absolute refuses a relative path: what it is relative to would depend on how
// the daemon was started.
func absolute(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%q is not an absolute path", path)
	}
	return filepath.Clean(path), nil
}

// isKey tells whether name is a key, or a table that holds keys.
func isKey(name string) bool {
	switch name {
	case keyPool, keyAPI, keyNBD, keyAllowPlaintext, tableTLS, keyTLSCert, keyTLSKey, keyTLSClientCA,
		keyLogLevel, keyLogFormat, keyScrubRate, keyMapMemory, keyStopTimeout:
		return true
	}
	return false
}

// unknownKeys reports every key that does not exist. The decoder's own strict
// mode is not used: it panics on a quoted key with an escape.
func unknownKeys(path string, keys []keyLine) error {
	var errs []error
	unknown := ""
	for _, k := range keys {
		if isKey(k.name) || unknown != "" && strings.HasPrefix(k.name, unknown+".") {
			continue
		}
		unknown = k.name
		errs = append(errs, &Error{
			Source: Source{File: path, Line: k.line}, Key: k.name, Err: errors.New("there is no such key"),
		})
	}
	return errors.Join(errs...)
}

// decodeError puts the decoder's error into our words, with its place.
func decodeError(path string, keys []keyLine, err error) error {
	var decode *toml.DecodeError
	if !errors.As(err, &decode) {
		return &Error{Source: Source{File: path}, Err: err}
	}
	line, _ := decode.Position()
	key := ""
	for _, k := range keys {
		if k.line <= line {
			key = k.name
		}
	}
	return &Error{
		Source: Source{File: path, Line: line}, Key: key,
		Err: errors.New(strings.TrimPrefix(decode.Error(), "toml: ")),
	}
}

// keyLine is a key or a table, its parts joined by dots, and its line.
type keyLine struct {
	name string
	line int
}

// findKeys lists the keys and tables in their order, as far as data can be
// parsed.
func findKeys(data []byte) []keyLine {
	var keys []keyLine
	var p unstable.Parser
	p.Reset(data)
	table := ""
	for p.NextExpression() {
		node := p.Expression()
		switch node.Kind {
		case unstable.Table, unstable.ArrayTable:
			k := keyOf(&p, "", node)
			table = k.name + "."
			keys = append(keys, k)
		case unstable.KeyValue:
			keys = appendKeys(keys, &p, table, node)
		}
	}
	return keys
}

func appendKeys(keys []keyLine, p *unstable.Parser, prefix string, node *unstable.Node) []keyLine {
	k := keyOf(p, prefix, node)
	keys = append(keys, k)
	if value := node.Value(); value.Kind == unstable.InlineTable {
		for it := value.Children(); it.Next(); {
			keys = appendKeys(keys, p, k.name+".", it.Node())
		}
	}
	return keys
}

func keyOf(p *unstable.Parser, prefix string, node *unstable.Node) keyLine {
	var k keyLine
	var parts []string
	for it := node.Key(); it.Next(); {
		if k.line == 0 {
			k.line = p.Shape(it.Node().Raw).Start.Line
		}
		parts = append(parts, string(it.Node().Data))
	}
	k.name = prefix + strings.Join(parts, ".")
	return k
}
