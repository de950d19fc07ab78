// Package wire holds what goes over the API: the types of requests and
// answers, the codes of errors, and the paths.
//
// It is a contract of its own, apart from the engine's types, so that the
// engine can change without the API changing. Sizes, offsets and lengths are
// in bytes, times in RFC 3339 and UTC. The package does no I/O and imports
// neither the engine nor the server.
package wire
