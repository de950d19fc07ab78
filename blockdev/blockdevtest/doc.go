// Package blockdevtest is the test kit of the block engine: a simulated disk
// that crashes, a model of what a pool must hold after a crash, and a harness
// that runs sequences of operations on an engine, crashes it at any call that
// changes the disk, reopens it and compares it with the model. It imports
// nothing of the engine, so that the engine's own tests can use all of it.
//
// # The disk
//
// Disk implements blockfile.FS in memory. It keeps for every file what the
// page cache holds and what is surely on the disk, in sectors of 512 bytes, and
// for every directory its names now and its names on the disk. File.Sync
// brings the bytes of a file to the disk, but not its name; FS.SyncDir brings
// the names of one directory, but not the directory's own name. A change of
// names is atomic, a rename between directories too, which is durable when both
// were synced. Changes of different names are not ordered; those of one name
// are. Table.Update is atomic and durable.
//
// Every call that changes the disk is numbered. Disk.StopAt stops the disk at
// one of them, and Disk.Crash then ends the process (Kill) or the power
// (PowerCut): after a power cut each unsynced write, hole punch, truncation and
// change of a name was kept or lost, and a write or punch also torn into pieces
// of 512 bytes or 4 KiB, each by a seed. So any sector reads as one of the
// values it was given since the last Sync, whatever its neighbours do. Disk.Clone
// lets one run be crashed in many ways.
//
// Disk.Inject makes calls fail. A Sync that fails leaves clean pages that are
// not on the disk, as Linux does: reads find them until Disk.DropCaches, the
// next Sync does not write them.
//
// # The model
//
// Model holds, for each 512-byte sector of each LUN, the values it may read as.
// An acknowledged write is exactly there after a Kill; a write that was under
// way is there or not, sector by sector. After a power cut a sector has the
// value that it had when the last acknowledged flush began, or one given to it
// since. What was read after a crash stays. An acknowledged snapshot has exactly
// the content of the moment when it was taken, which is then durable for the
// LUN as well. Snapshot (of a group), revert, clone, delete, resize and rename
// happen wholly or not at all, and wholly once acknowledged. Every write
// puts its own stamp into every 16 bytes, with the place, so that misplaced data
// does not pass for right.
//
// # The harness
//
// A Target is an engine under test. A Case is rounds of operations, each ended
// by crashes: the first at some call of the operations, each further one at a
// call of the recovery from the one before. Run runs a Case, and reads and
// compares everything, differences and extents included, after each round, and
// once more after a clean restart; after each recovery it also has the engine
// check the files, and compare the maps that it has in memory with those that
// it would rebuild. A Search tries every call of a list of operations, or of
// all lists up to a length, in several ways to crash, and every call of the
// recovery; Random makes Cases by seed. A failure is reduced by Shrink and
// printed as a Case in Go, ready to be a test of its own with Replay.
//
// Faults make operations fail, or a recovery; then they must have happened
// wholly or not at all, and nothing that was acknowledged may be lost. A LUN
// that the engine says has failed must stay so and take no writes; the others
// must work when the pool is opened again. Search.FailEverywhere has every call
// fail in turn.
//
// Disk and Model are safe for concurrent use.
package blockdevtest
