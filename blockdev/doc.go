// Package blockdev is the engine: it keeps thin LUNs and their snapshots in
// one directory, the pool.
//
// # Layers
//
// What is written to a LUN between two freezes forms a layer. A LUN has one
// open layer, its head; all others are sealed and never change. Layers form a
// tree: a freeze puts a new head over the old one, a revert or a clone a new
// branch over a snapshot's layer. A snapshot is a name for a sealed layer.
//
// A layer's data lies in segments, sparse files in which each block has the
// place that it has on the LUN, so that there is no allocator. Its presence
// map says for which blocks it has data, or zeros. The extent map of a LUN or
// snapshot is the presence maps of its layer and all below laid over one
// another; it is in memory only and can be rebuilt.
//
// A write to a block that the head does not own is redirected: it goes, whole,
// to the head's segment, and the map is changed; nothing is copied. A write to
// a block that the head owns goes in place. A change of the map is recorded in
// the layer's journal before the write is acknowledged.
//
// # Crash behaviour
//
// An acknowledged write survives the death of the process. A write that was
// followed by an acknowledged Flush survives a power cut. After a power cut, a
// 512-byte sector that was written and not flushed reads as one of the values
// it has had since the last flush. A group of snapshots is taken or not taken
// as a whole. Whatever is needed for that is done when a pool is opened.
//
// A failed sync is final: the LUN takes no more writes (ErrFailed) and stays
// readable.
//
// A full disk makes writes fail with ErrNoSpace; nothing is lost. Reads,
// overwriting, flushes, discards, deletes and opening the pool go on: what they
// have to write takes its space from the reserve, a file of the pool that holds
// some back (reserve.go). While the reserve is not whole nothing that needs new
// space is let in; it is filled up from what is given back, then writes go on.
// PoolInfo.Space says how the pool stands.
//
// # Checksums
//
// Once a layer is sealed, the CRC32C of each of its data blocks is computed in
// the background and kept. Reads of a snapshot verify the blocks that have one:
// a damaged block is an error (ErrCorrupt), never data. Reads of a LUN are not
// verified.
//
// # Compaction
//
// A layer that is deleted is merged into the one that stands on it, which takes
// over its segments. In the background those of a layer that has too many are
// merged (compact.go), so that the number of files does not grow with the number
// of snapshots that there ever were. It copies each block a number of times that
// the logarithm of the layer's size bounds, at Options.BackgroundBytesPerSecond,
// and only while the pool has room.
//
// # Damage
//
// Every byte of metadata is covered by a checksum or has to be zero. A LUN or
// snapshot that stands on a layer with damaged metadata, or with metadata that
// the disk could not read when the pool was opened, is shown as failed and
// cannot be opened; the others are served. Only a catalogue or pool header that
// is damaged or cannot be read keeps the pool from being opened.
//
// # Memory
//
// Extent maps take as much memory as what they hold needs, and all of a pool's
// together no more than Options.MapMemoryBytes: beyond that, parts of them are
// in a file that does not outlive the process (docs/decisions/0006).
//
// # Files
//
// See docs/formats/pool.md. In short:
//
//	pool                          what this directory is
//	lock                          held by the one daemon that has it open
//	catalogue                     LUNs, layers, snapshots (bbolt)
//	reserve                       space held back for metadata
//	layers/<layer>/presence       the layer's presence map
//	layers/<layer>/journal-<gen>  map changes of an open layer
//	layers/<layer>/sums           checksums of a sealed layer's data
//	segments/<origin>/<shard>.seg data written by a layer
//
// # Concurrency
//
// All exported methods are safe for concurrent use. Operations on the
// structure of the pool (create, freeze, revert, delete and so on) run one at
// a time; I/O goes on beside them. The locks and their order are described at
// type lun.
package blockdev
