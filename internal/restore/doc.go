// Package restore copies files and directories out of a snapshot onto this
// host: contents with their holes, and owners, modes, times, extended
// attributes, symbolic and hard links as they are in the snapshot.
//
// What comes out of a snapshot is hostile. No path of it is ever resolved on
// this host: everything is made relative to the open directory that it belongs
// to, by a single name, never through a symbolic link and never over something
// that exists. Directories are private to their owner until all is copied.
//
// A file that cannot be read is left out and reported, and the rest is copied;
// a file is never left with less than its whole content. What the destination
// cannot take because of who copies (owners, devices) or where to (extended
// attributes) is counted. Nothing that a directory says makes the copy endless:
// each directory is entered once.
package restore
