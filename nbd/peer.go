package nbd

import (
	"crypto/tls"
	"fmt"
	"net"
	"syscall"
)

// describePeer says who is at the other end: an address, or the process on
// this host.
func describePeer(nc net.Conn) string {
	unix, ok := nc.(*net.UnixConn)
	if !ok {
		return nc.RemoteAddr().String()
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return "unix"
	}
	var cred *syscall.Ucred
	raw.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err != nil || cred == nil {
		return "unix"
	}
	return fmt.Sprintf("unix pid %d uid %d", cred.Pid, cred.Uid)
}

// describeCertificate adds to a description whom the client's certificate
// names, if it gave one.
func describeCertificate(peer string, state tls.ConnectionState) string {
	if len(state.PeerCertificates) == 0 {
		return peer
	}
	return fmt.Sprintf("%s (%s)", peer, state.PeerCertificates[0].Subject)
}
