// Package cli is the command line of the program rowan.
//
// A command turns its arguments into calls of the API, asks before it destroys
// anything, and shows the outcome as a table, as JSON or YAML, or as bare names
// for scripts. What it says to a person who has to act goes to standard error,
// what was asked for goes to standard output, so that output can always be
// piped. What takes longer than a second shows its progress if standard error
// is a terminal.
//
// The exit code tells what happened: see the constants. An error is a sentence
// with what went wrong and with which object, followed by what to do next.
package cli
