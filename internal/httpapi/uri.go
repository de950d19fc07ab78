package httpapi

import (
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

// nbdURIs gives the NBD URIs of an export, by the NBD URI specification. An
// address that stands for all of this machine's is given as localhost.
func nbdURIs(addresses []wire.NBD, export string) []string {
	uris := make([]string, 0, len(addresses))
	for _, a := range addresses {
		u := url.URL{Scheme: "nbd", Path: "/" + export}
		if a.TLS {
			u.Scheme = "nbds"
		}
		if a.Network == "unix" {
			u.Scheme += "+unix"
			u.RawQuery = "socket=" + escapeQuery(a.Address)
		} else {
			u.Host = dialable(a.Address)
		}
		uris = append(uris, withAuthority(u))
	}
	return uris
}

// escapeQuery escapes a path for a query. Slashes may stand in one (RFC 3986,
// section 3.4) and stay legible; a space becomes %20, since not all readers of
// URIs take a plus for one.
func escapeQuery(path string) string {
	return strings.NewReplacer("%2F", "/", "+", "%20").Replace(url.QueryEscape(path))
}

// withAuthority writes u with the // that the form wants even without a host.
func withAuthority(u url.URL) string {
	if u.Host != "" {
		return u.String()
	}
	s := u.Scheme + "://" + u.EscapedPath()
	if u.RawQuery != "" {
		s += "?" + u.RawQuery
	}
	return s
}

// dialable puts localhost where an address to listen on names no host.
func dialable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		return net.JoinHostPort("localhost", port)
	}
	return address
}
