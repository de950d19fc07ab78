package config

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

// maxSocketPath is what sockaddr_un holds less the terminating NUL: unix(7).
const maxSocketPath = 107

// Address is where to serve NBD.
type Address struct {
	Network string // "unix" or "tcp"
	Addr    string // an absolute path, or HOST:PORT
}

func (a Address) String() string {
	if a.Network == "unix" {
		return "unix:" + a.Addr
	}
	return a.Addr
}

// Loopback tells whether only this machine reaches the address. A host name
// other than localhost may resolve to anything and does not count.
func (a Address) Loopback() bool {
	if a.Network == "unix" {
		return true
	}
	host, _, err := net.SplitHostPort(a.Addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// ParseAddress reads unix:PATH or HOST:PORT. An empty HOST means all of this
// machine's addresses, port 0 any that is free. A PATH may be relative.
func ParseAddress(text string) (Address, error) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		if err := checkSocketPath(path); err != nil {
			return Address{}, err
		}
		return Address{Network: "unix", Addr: filepath.Clean(path)}, nil
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return Address{}, fmt.Errorf("%q is neither unix:PATH nor HOST:PORT", text)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return Address{}, fmt.Errorf("%q: the port is not a number from 0 to 65535", text)
	}
	if strings.ContainsAny(host, "/ ") {
		return Address{}, fmt.Errorf("%q: %q is not a host", text, host)
	}
	return Address{Network: "tcp", Addr: text}, nil
}

func checkSocketPath(path string) error {
	if path == "" {
		return fmt.Errorf("the path of the socket is empty")
	}
	if len(path) > maxSocketPath {
		return fmt.Errorf("%q is %d bytes long, a socket's path can have %d", path, len(path), maxSocketPath)
	}
	return nil
}
