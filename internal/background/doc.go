// Package background runs a part of a program as a process of its own that
// outlives its caller: a session of its own, no terminal, and a pipe over which
// it says once that it is ready or why it cannot be.
//
// The caller uses Start, the new process a Notifier. Between the two goes one
// line of JSON.
package background
