// Package blockdevtest is the test kit of the block engine. It imports nothing
// of the engine, so that the engine's own tests can use all of it.
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
// Disk is safe for concurrent use.
package blockdevtest
