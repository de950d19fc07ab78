// Package archive writes files and directories of a snapshot as a tar archive,
// in the pax format (POSIX.1-2001): contents, owners, modes, times of
// modification with nanoseconds, symbolic and hard links, devices, and extended
// attributes as GNU tar, star and bsdtar keep them (SCHILY.xattr), POSIX ACLs
// among them.
//
// What tar cannot hold is left out and reported: sockets. Holes of files are
// written as zeros.
//
// A file that cannot be opened is left out and reported, and the rest is
// written. A file that fails later has its length in the archive already, and
// no bytes stand in for those that cannot be read: the archive ends there with
// an error. Nothing that a directory says makes the archive endless: each
// directory is entered once, and none below maxDepth others.
package archive
