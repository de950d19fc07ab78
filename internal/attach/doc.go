// Package attach gives this host block devices of LUNs and snapshots.
//
// A device is served by a process of its own, the holder, that lives from
// attach to detach: it is a client of the daemon like any other, and shows the
// export either through the kernel's NBD driver or, where that is not there, as
// a file in a FUSE mount under a loop device.
//
// # Files
//
// What is attached is recorded in a directory that belongs to one appliance and
// to root alone, so that neither another appliance nor another user can stand
// in the way:
//
//	lock       held while something is attached, detached or cleaned up
//	ID.lock    held by the holder as long as it lives
//	ID.json    the Record
//	ID.log     what the holder logs
//	ID.mnt/    the FUSE mount
//
// ID is lun for a LUN, which can be attached once, and lun@snapshot.N for a
// snapshot, which is read-only and can be attached many times. When the last
// device is gone, so is the directory.
//
// # Detaching
//
// The holder detaches when it is told to by SIGTERM. First it opens the device
// exclusively: that fails while a filesystem is mounted on it or another driver
// has it, and keeps others from taking it in between. If it fails, the holder
// notes in its record who uses the device and goes on serving. Otherwise it
// writes back what is cached, takes the device away and ends.
//
// # Failures
//
// When the connection to the daemon is lost, the device answers with I/O errors
// and goes away as soon as nobody uses it any more; the holder ends and removes
// its files. What a killed holder leaves (a loop device, a mount, files) is removed by the next
// attach or detach of any export of the appliance.
package attach
