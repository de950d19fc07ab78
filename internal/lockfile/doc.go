// Package lockfile keeps other processes out by locks on files (flock(2)).
//
// A lock belongs to the process: the kernel drops it when the process ends, in
// whatever way. The file is made by whoever comes first and removed by whoever
// releases the lock, so that nothing is left behind; the name counts, not an
// inode that had the name once.
package lockfile
