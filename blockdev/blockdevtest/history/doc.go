// Package history records what concurrent clients of block devices asked for
// and were told, and finds out whether there is an order of events that
// explains it: whether the devices are linearizable, and each snapshot of a
// group of them is one point in time.
//
// # What is recorded
//
// Every request has the two readings of one monotonic counter between which it
// was under way, and every write a stamp of its own, which is in each 8 bytes
// of what it wrote together with the place. Discards and writes of zeros have
// a stamp that cannot be read back.
//
// # Registers
//
// The first and the last 8 bytes of each sector of 512 bytes are a register
// each. Requests have no promise to be atomic beyond a word, no more than
// those of a disk, so a read may find one sector old and the next new, and is
// taken apart into one read for each register. Linearizability is local: the
// devices are linearizable exactly if each register is. The words in between
// must hold what somebody wrote to that sector.
//
// As each written value is unique, a register needs no search (Gibbons and
// Korach, Testing Shared Memories, SIAM J. Comput. 26(4), 1997, section 4): a
// write and the reads of its value stand together in every order that explains
// the history. One such cluster must stand before another if any request of it
// returned before any of the other was called. An order exists exactly if no
// two clusters must each stand before the other.
//
// Zeros are not unique. A read of zeros belongs to a discard if there is one
// only that it can belong to; if there are several it is passed over, and
// counted in Result.Ambiguous; if there is none the history is wrong.
//
// # Freezes
//
// A freeze of a group reads all registers of all its devices at one point T
// between its call and its return. Each cluster of each register excludes some
// points, by the rule above; a point must be left that no register of any
// device excludes. That includes that every write acknowledged before the
// freeze was called is in the snapshot and none submitted after it returned is,
// and that with a write all those are in that were acknowledged before it was
// submitted, on whichever device of the group.
//
// A Log is safe for concurrent use; a Client is one goroutine's.
package history
