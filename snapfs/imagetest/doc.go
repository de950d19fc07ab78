// Package imagetest makes disk images for the tests of snapfs: files, written
// by the real programs (sfdisk, sgdisk, mkfs), and the kernel's own mounts of
// them to compare with. Everything it makes is gone when the test ends.
package imagetest
