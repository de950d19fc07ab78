// Package workload writes to LUNs from many writers at once and knows
// afterwards, sector by sector, what they may hold.
//
// # What is written
//
// A [Workload] has a number of writers, each with one request in flight, so
// that the writers together keep that many in flight. Every sector of 512 bytes
// of every device has one writer that alone writes it. Most are handed out in
// chunks of 32 KiB; in one chunk of four, neighbouring sectors belong to
// different writers, so that their writes meet within blocks. A written sector
// says which write it came from, and is filled with a pattern made from that.
//
// # What is known
//
// Each writer keeps the list of its requests in order of submission. All but
// the last are acknowledged. So three things can be told of an image:
//
//   - after the writers came to rest it must hold exactly all of each list;
//   - after the daemon was killed (Settle) it must hold all that was
//     acknowledged, and of the one request in flight any sectors;
//   - a snapshot of all devices made while they were writing must hold, for
//     each writer, exactly some beginning of its list: no request acknowledged
//     before the snapshot was asked for may be missing, none submitted after it
//     was there may be in, and if a request is in, so are all that the writer
//     had acknowledged before it, on whichever device. That is what "one point
//     in time" means to an application.
//
// A Workload is not safe for concurrent use, except that Begin and End may be
// called while Run runs.
package workload
