// Package client speaks the API of an appliance over its unix socket. It is
// what the command line uses, and all that it uses.
//
// An error that the appliance answered with is a *wire.Problem, whose code
// tells what kind it is. An *UnreachableError says that there was no answer. A
// Client is safe for concurrent use.
package client
