package attach

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// loopTries bounds how often a loop device that is free may turn out to be
// taken by another process.
const loopTries = 64

// logicalBlockBytes is the sector size that a device shows.
const logicalBlockBytes = 512

// attachLoop puts a loop device on a file. The file's cache is bypassed: it
// would hold everything a second time.
func attachLoop(file string, readOnly bool) (device string, err error) {
	mode, flags := unix.O_RDWR, uint32(unix.LO_FLAGS_DIRECT_IO|unix.LO_FLAGS_PARTSCAN)
	if readOnly {
		mode, flags = unix.O_RDONLY, flags|unix.LO_FLAGS_READ_ONLY
	}
	// Not os.Open, whose poller would ask the server of the file, which may be
	// this process.
	fd, err := unix.Open(file, mode|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("attach: %s: %w", file, err)
	}
	defer unix.Close(fd)
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("attach: no loop devices on this host: /dev/loop-control: %w", err)
	}
	defer unix.Close(control)
	for range loopTries {
		n, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", fmt.Errorf("attach: finding a free loop device: %w", err)
		}
		device := fmt.Sprintf("/dev/loop%d", n)
		err = configureLoop(device, fd, file, mode, flags)
		if err == nil {
			return device, nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return "", err
		}
	}
	return "", fmt.Errorf("attach: other processes keep taking the free loop devices: %w", unix.EBUSY)
}

func configureLoop(device string, backing int, name string, mode int, flags uint32) error {
	fd, err := unix.Open(device, mode|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("attach: %s: %w", device, err)
	}
	defer unix.Close(fd)
	config := unix.LoopConfig{Fd: uint32(backing), Size: logicalBlockBytes}
	config.Info.Flags = flags
	copy(config.Info.File_name[:len(config.Info.File_name)-1], name)
	if err := unix.IoctlLoopConfigure(fd, &config); err != nil {
		return fmt.Errorf("attach: setting up %s (Linux 5.8 or later is needed): %w", device, err)
	}
	return nil
}

// clearLoop takes a loop device off its file when its last user closes it,
// which is at once if there is none.
func clearLoop(device string) error {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("attach: %s: %w", device, err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("attach: freeing %s: %w", device, err)
	}
	return nil
}

// isDeviceOf tells whether the device still is what r says. A loop device is
// given to somebody else once it is free.
func isDeviceOf(r Record) bool {
	if r.Method != MethodLoop {
		return true
	}
	_, err := os.Stat(filepath.Join(sysBlock, filepath.Base(r.Device), "loop"))
	return err == nil && diskSeq(r.Device) == r.DiskSeq
}

// diskSeq is a number that the kernel gives to each use of a device's name, ""
// before Linux 5.15.
func diskSeq(device string) string {
	text, err := os.ReadFile(filepath.Join(sysBlock, filepath.Base(device), "diskseq"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
