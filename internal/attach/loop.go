package attach

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// loopTries bounds how often a loop device that is free may turn out to be
// taken by another process.
const loopTries = 64

// logicalBlockBytes is the sector size that a device shows.
const logicalBlockBytes = 512

// attachLoop puts a loop device on a file. The file's cache is bypassed: it
// would hold everything a second time. It must not be called by the process
// that serves the file.
func attachLoop(file string, readOnly bool) (device string, err error) {
	fd, err := unix.Open(file, accessMode(readOnly)|unix.O_CLOEXEC, 0)
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
		err = configureLoop(device, fd, file, readOnly)
		if err == nil {
			return device, nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return "", err
		}
	}
	return "", fmt.Errorf("attach: other processes keep taking the free loop devices: %w", unix.EBUSY)
}

// accessMode is the mode to open a device or its file in.
func accessMode(readOnly bool) int {
	if readOnly {
		return unix.O_RDONLY
	}
	return unix.O_RDWR
}

// configureLoop puts a loop device that is free on an open file.
func configureLoop(device string, backing int, name string, readOnly bool) error {
	fd, err := unix.Open(device, accessMode(readOnly)|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("attach: %s: %w", device, err)
	}
	defer unix.Close(fd)
	config := unix.LoopConfig{Fd: uint32(backing), Size: logicalBlockBytes}
	config.Info.Flags = unix.LO_FLAGS_DIRECT_IO | unix.LO_FLAGS_PARTSCAN
	if readOnly {
		config.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], name)
	if err := unix.IoctlLoopConfigure(fd, &config); err != nil {
		return fmt.Errorf("attach: setting up %s (Linux 5.8 or later is needed): %w", device, err)
	}
	return nil
}

// detachLoop takes the loop device of r away, unless somebody uses it. What is
// cached is durable first.
func detachLoop(r Record) error {
	if !isDeviceOf(r) {
		return nil
	}
	fd, err := claim(r)
	if err != nil {
		return err
	}
	if !r.ReadOnly {
		err = unix.Fsync(fd)
	}
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("attach: writing back what is cached of %s: %w", r.Device, err)
	}
	err = unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0)
	unix.Close(fd)
	if err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("attach: freeing %s: %w", r.Device, err)
	}
	for deadline := time.Now().Add(releaseLimit); isDeviceOf(r); time.Sleep(pollEvery) {
		if time.Now().After(deadline) {
			// Somebody opened it without claiming it and keeps it.
			return &InUseError{Device: r.Device, Users: r.users()}
		}
	}
	return nil
}

// claim opens the device of r for nobody else, or says that it is in use.
func claim(r Record) (fd int, err error) {
	fd, err = unix.Open(r.Device, accessMode(r.ReadOnly)|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return -1, &InUseError{Device: r.Device, Users: r.users()}
	}
	if err != nil {
		return -1, fmt.Errorf("attach: %s: %w", r.Device, err)
	}
	return fd, nil
}

// freeLoops takes the loop devices off the files in a directory that nobody
// serves any more. A device in use goes when its last user is gone.
func freeLoops(dir string) error {
	paths, err := filepath.Glob(filepath.Join(sysBlock, "loop*", "loop", "backing_file"))
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	var errs []error
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil || !strings.HasPrefix(string(text), dir+"/") {
			continue
		}
		errs = append(errs, clearLoop("/dev/"+filepath.Base(filepath.Dir(filepath.Dir(path)))))
	}
	return errors.Join(errs...)
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
