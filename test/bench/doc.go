// Command bench measures an appliance's NBD server beside others' on the same
// filesystem, in one run, and writes the tables of docs/benchmarks.md.
//
//	go run ./test/bench [-rounds 5] [-runtime 5s] [-size MIB] [-images ext4,xfs] [-only REGEXP] [-dir DIR]
//
// Each server has a file, or a LUN, of the same size, filled through the server
// with writes of 64 KiB. All run throughout; in each round each server in turn is
// measured with each job of fio, so that what disturbs the machine for a while
// disturbs all alike. The medians over the rounds are reported; rates are
// compared round by round, of which the median counts. Before each job dirty
// pages are written out. The processor time of a server is the user and system
// time of its process during the job. What fio does to a file of its own by
// io_uring, with no server between, shows what the machine can do.
//
// First writes after a snapshot: 4 KiB blocks in random order, each once, few
// against the size, so that a copy-on-write format meets most of its clusters
// for the first time; the flush at the end counts. The same job is measured
// before the snapshot; on qcow2 a new overlay over the filled file stands for
// the snapshot.
//
// Stalls: snapshots are made every 50 ms while fio writes; for each, the longest
// request that was under way meanwhile counts, and for comparison the longest in
// a span of the same length between two snapshots.
package main
