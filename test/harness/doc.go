// Package harness runs a real appliance for tests: bin/rowand, built once per
// test binary, on a pool in a directory of its own, spoken to through bin/rowan
// and through real clients on its unix and TCP sockets.
//
// What it starts it also ends, whatever becomes of the test: daemons, mounts,
// loop devices and directories are gone when the test is over, and their
// failure to go fails the test. Under the race detector the daemon is built
// with it too, and a race that it reports fails the test.
//
// A test names the programs and rights it needs with Need and NeedRoot. Where
// they are missing it is skipped, but in CI (ROWAN_CI set) it fails.
package harness
