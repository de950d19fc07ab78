package config

import "errors"

// settings are the values of one source. A nil one was not given.
type settings struct {
	pool, api                    *string
	nbd                          *[]string
	nbdAllowPlaintext            *bool
	tlsCert, tlsKey, tlsClientCA *string
	logLevel, logFormat          *string
	scrubRate, mapMemory         *string
	stopTimeout                  *string
}

// setter checks the values of one source and puts them into a Config.
type setter struct {
	c      *Config
	source func(key string) Source
	path   func(string) (string, error) // makes a path absolute or refuses it
	errs   []error
}

func (s *setter) apply(v settings) {
	set(s, keyPool, v.pool, &s.c.Pool, s.nonEmptyPath)
	set(s, keyAPI, v.api, &s.c.API, s.socketPath)
	if v.nbd != nil {
		s.c.nbdSet = true
		set(s, keyNBD, v.nbd, &s.c.NBD, s.addresses)
	}
	set(s, keyAllowPlaintext, v.nbdAllowPlaintext, &s.c.NBDAllowPlaintext,
		func(b bool) (bool, error) { return b, nil })
	set(s, keyTLSCert, v.tlsCert, &s.c.NBDTLS.Cert, s.nonEmptyPath)
	set(s, keyTLSKey, v.tlsKey, &s.c.NBDTLS.Key, s.nonEmptyPath)
	set(s, keyTLSClientCA, v.tlsClientCA, &s.c.NBDTLS.ClientCA, s.nonEmptyPath)
	set(s, keyLogLevel, v.logLevel, &s.c.LogLevel, parseLevel)
	set(s, keyLogFormat, v.logFormat, &s.c.LogFormat, parseFormat)
	set(s, keyScrubRate, v.scrubRate, &s.c.ScrubRate, parseRate)
	set(s, keyMapMemory, v.mapMemory, &s.c.MapMemory, parseMapMemory)
	set(s, keyStopTimeout, v.stopTimeout, &s.c.StopTimeout, parseStopTimeout)
}

// set parses one value, if it was given, and notes where it comes from.
func set[In, Out any](s *setter, key string, in *In, out *Out, parse func(In) (Out, error)) {
	if in == nil {
		return
	}
	source := s.source(key)
	value, err := parse(*in)
	if err != nil {
		s.errs = append(s.errs, &Error{Source: source, Key: key, Err: err})
		return
	}
	*out = value
	s.c.sources[key] = source
}

func (s *setter) nonEmptyPath(path string) (string, error) {
	if path == "" {
		return "", errors.New("the path is empty")
	}
	return s.path(path)
}

func (s *setter) socketPath(path string) (string, error) {
	full, err := s.nonEmptyPath(path)
	if err != nil {
		return "", err
	}
	return full, checkSocketPath(full)
}

func (s *setter) addresses(texts []string) ([]Address, error) {
	list := make([]Address, 0, len(texts))
	var errs []error
	for _, text := range texts {
		a, err := ParseAddress(text)
		if err == nil && a.Network == "unix" {
			a.Addr, err = s.socketPath(a.Addr)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, a)
	}
	return list, errors.Join(errs...)
}
