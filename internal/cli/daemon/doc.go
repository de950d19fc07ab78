// Package daemon is the command line of the program rowand: flags and signals.
//
// The first SIGTERM or SIGINT stops the daemon cleanly, a second one at once,
// which loses nothing that was acknowledged and flushed but makes the next
// start recover. The exit code is 0 after a clean stop, 1 after a failure, 2
// for bad flags or configuration and 11 if another daemon has the pool.
package daemon
