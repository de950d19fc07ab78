// Package interop holds tests in which other people's NBD clients use a real
// daemon: libnbd's tools, QEMU's, nbdkit and fio. What these programs print and
// compare is the proof; our own client is not asked.
package interop
