// Package systemd takes over from systemd the sockets that it listens on for
// the daemon (socket activation, sd_listen_fds(3)), so that no client is refused
// while the daemon restarts.
package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/coreos/go-systemd/v22/activation"
)

// Sockets are the listening sockets that systemd passed to this process.
type Sockets struct {
	byAddress map[string]net.Listener // "unix:/run/x", "tcp:127.0.0.1:10809"
}

// TakeSockets takes what systemd passed, nothing if this process was started
// otherwise. It must be called once; the variables by which systemd tells are
// removed. The error names a descriptor that is no listening stream socket.
func TakeSockets() (*Sockets, error) {
	return take(activation.Files(true))
}

func take(files []*os.File) (*Sockets, error) {
	s := &Sockets{byAddress: make(map[string]net.Listener)}
	var errs []error
	for _, f := range files {
		l, err := net.FileListener(f) // of a copy of f
		if err == nil {
			a := l.Addr()
			s.byAddress[a.Network()+":"+a.String()] = l
		} else {
			err = fmt.Errorf("systemd: descriptor %s is no listening socket: %w", f.Name(), err)
		}
		errs = append(errs, err, f.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Listener returns the socket that listens on an address as in net.Listen, and
// hands it over; nil if there is none. Closing it leaves a unix socket's file
// alone: that belongs to systemd.
func (s *Sockets) Listener(network, address string) net.Listener {
	key := network + ":" + address
	l, ok := s.byAddress[key]
	if !ok {
		return nil
	}
	delete(s.byAddress, key)
	return l
}

// Close closes the sockets that were not handed over. The error names them:
// they are not in the configuration.
func (s *Sockets) Close() error {
	var errs []error
	for address, l := range s.byAddress {
		errs = append(errs, fmt.Errorf("systemd: a socket was passed for %s, which the configuration does not name", address), l.Close())
	}
	clear(s.byAddress)
	return errors.Join(errs...)
}
