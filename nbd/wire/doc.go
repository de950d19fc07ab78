// Package wire is the format of the NBD protocol: its constants, and the
// encoding and decoding of everything that the two sides send. It does no I/O.
//
// The reference is doc/proto.md of the NetworkBlockDevice project ("the
// specification"), with its extended headers (NBD_OPT_EXTENDED_HEADERS).
// Constants and structures come from github.com/pojntfx/go-nbd where it has
// them; constants.go holds the rest. All numbers are in network byte order.
//
// Every decoder takes bytes that a stranger may have sent: it checks each
// length before it believes it, allocates no more than its input is long, and
// returns an error that says what was wrong. None panics.
package wire
