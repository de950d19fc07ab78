// Package nbd serves block devices by the NBD protocol, and reads and writes
// them as a client, in user space or through the kernel's nbd driver.
//
// The reference is doc/proto.md of the NetworkBlockDevice project ("the
// specification"); package wire has the format of what is sent. Quoted names
// in comments are the specification's headings.
//
// # Server
//
// A Server serves the Exports that it is given over any number of listeners,
// each with or without TLS. It speaks fixed newstyle, with simple, structured
// and extended replies, whichever the client negotiates, and every command of
// the specification. It knows the metadata contexts base:allocation,
// rowan:changed-since:NAME and qemu:dirty-bitmap:NAME; the last two tell which
// blocks differ from the snapshot NAME (bit 0 of the status flags).
//
// Of the ways that data can take (see session):
//
//	socket -> inbox -> Device.WriteAt                      writes up to 64 KiB
//	socket -> buffer -> Device.WriteAt, as it arrives      longer ones
//	socket -> buffer -> worker: Device.WriteAt             those with FUA, and all while writes are slow
//	Device.TryReadAt -> batch -> socket                    reads up to 32 KiB
//	Device.TryReadAt -> buffer -> socket                   up to 256 KiB
//	worker: Device.ReadAt -> buffer -> socket              longer ones, and those that have to wait
//
// no byte is copied between buffers on any, save the part of a payload that
// arrived together with its header where it goes to a buffer of its own, and
// the part of a block at the end of a piece. Reads that a worker serves show
// holes as holes if they are 64 KiB or longer.
//
// Invariants:
//   - A request is answered once, or the connection is broken.
//   - A reply to FLUSH, and to a command with FUA, is sent only after
//     Device.Flush has returned. Writes are acknowledged when Device.WriteAt
//     has returned. What both mean for a crash is the device's matter.
//   - Replies that are made are sent without the client having to do anything
//     more. They may wait for a write that the reader is carrying out.
//   - Memory is bounded by Limits, whatever clients send or fail to take.
//   - What a client sends before TLS has no effect within TLS.
//   - A client that breaks the protocol loses its connection and nothing else
//     is affected.
//
// Each connection has one goroutine that reads, and up to Limits.Workers that
// carry out what may have to wait. None of its own sends: see outbox.
//
// # Client
//
// Dial returns a Client, which is a Device itself. It trusts its server with
// the content of the export and nothing else: see link.
//
// # Kernel
//
// AttachKernel hands a connection to the kernel's nbd driver, which makes a
// block device of it.
package nbd
