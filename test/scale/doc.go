// Command scale measures the engine at the sizes that it is made for, and writes
// the figures of docs/benchmarks.md.
//
//	go run ./test/scale [-only REGEXP] [-dir DIR] [-blocks N] [-snapshots N] [-luns N]
//
// It drives the engine itself, without NBD. Pools lie in a real directory, with
// one exception: what is written to segments is dropped, of which only the
// length is kept, and so are their syncs; for no machine at hand has 100 TiB.
// Catalogue, journals, presence maps and the spill file are real. So writing is
// cheaper than it would be, and the rates of reading are those of holes in the
// page cache.
//
// Maintenance runs beside what is measured, as it does in the daemon.
//
// A kill is one: the pool is opened and written by another process of this
// program, which ends itself by SIGKILL. Heap is what a garbage collection
// leaves, less what there was before the pool was opened.
package main
