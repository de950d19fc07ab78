// Package attach gives this host block devices of LUNs and snapshots.
//
// A device is served by a process of its own, the holder, that lives from
// attach to detach: it is a client of the daemon like any other, and shows the
// export either through the kernel's NBD driver or, where that is not there, as
// a file in a FUSE mount. On that file the process that attaches puts a loop
// device, and the process that detaches takes it off.
//
// The holder itself never touches the loop device or the file that it serves.
// If it did, and were killed while it waits for an answer that only it can
// give, it could not die: its thread waits uninterruptibly, its end of the FUSE
// connection stays open, and every loop device of the host is locked up with it.
//
// # Files
//
// What is attached is recorded in a directory that belongs to one appliance and
// to root alone, so that neither another appliance nor another user can stand
// in the way:
//
//	lock        held while something is attached, detached or cleaned up
//	ID.lock     held by the holder as long as it lives
//	ID.json     the Record
//	ID.refused  why the holder could not end when it was told to
//	ID.log      what the holder logs
//	ID.mnt/     the FUSE mount
//
// ID is lun for a LUN, which can be attached once, and lun@snapshot.N for a
// snapshot, which is read-only and can be attached many times. When the last
// device is gone, so is the directory.
//
// # Detaching
//
// The device is opened exclusively. That fails while a filesystem is mounted on
// it or another driver has it, and keeps others from taking it in between. Then
// what is cached is written back and made durable, the device is taken away, and
// the holder is told by SIGTERM to end.
//
// # Failures
//
// When the connection to the daemon is lost, the holder ends, every request to
// the device fails, and a process that the holder has started takes the device
// away, as soon as nobody uses it any more. What a killed holder leaves (a loop
// device, a mount, files) is removed by the next attach or detach of any export
// of the appliance.
package attach
