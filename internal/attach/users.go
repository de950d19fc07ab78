package attach

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	sysBlock = "/sys/block"
	procDir  = "/proc"
)

// disk is a block device and its partitions.
type disk struct {
	names map[string]bool // loop3, loop3p1
	devs  map[string]bool // 7:3, 259:0
}

func diskOf(device string) disk {
	base := filepath.Base(device)
	d := disk{names: map[string]bool{}, devs: map[string]bool{}}
	dirs, _ := filepath.Glob(filepath.Join(sysBlock, base, base+"p*"))
	for _, dir := range append(dirs, filepath.Join(sysBlock, base)) {
		text, err := os.ReadFile(filepath.Join(dir, "dev"))
		if err != nil {
			continue
		}
		d.names[filepath.Base(dir)] = true
		d.devs[strings.TrimSpace(string(text))] = true
	}
	return d
}

// users says who uses the device or a partition of it, for people: where it is
// mounted, which driver has it, which process has it open. The holder is none of
// them: it keeps a device of the NBD driver open. It tells what can be seen from
// here, which need not be all.
func (r Record) users() []string {
	d := diskOf(r.Device)
	var users []string
	users = append(users, d.mounts()...)
	users = append(users, d.holders()...)
	users = append(users, d.swaps()...)
	users = append(users, d.openers(r.PID)...)
	slices.Sort(users)
	return slices.Compact(users)
}

// mounts finds the mounts of all mount namespaces.
func (d disk) mounts() []string {
	var found []string
	seen := map[string]bool{}
	processes, _ := filepath.Glob(filepath.Join(procDir, "[0-9]*"))
	for _, p := range append([]string{filepath.Join(procDir, "self")}, processes...) {
		namespace, err := os.Readlink(filepath.Join(p, "ns", "mnt"))
		if err != nil || seen[namespace] {
			continue
		}
		seen[namespace] = true
		found = append(found, d.mountsIn(filepath.Join(p, "mountinfo"))...)
	}
	return found
}

// mountsIn reads a file as described in proc_pid_mountinfo(5).
func (d disk) mountsIn(file string) []string {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	var found []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 2 {
			continue
		}
		// Some filesystems show a device number of their own.
		if d.devs[left[2]] || strings.HasPrefix(right[1], "/dev/") && d.names[filepath.Base(right[1])] {
			found = append(found, "mounted on "+unescapeMount(left[4]))
		}
	}
	return found
}

// unescapeMount undoes the octal escapes of mountinfo.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// holders finds the drivers, such as device-mapper, that stand on the device.
func (d disk) holders() []string {
	var found []string
	for name := range d.names {
		for _, pattern := range []string{filepath.Join(name, "holders", "*"), filepath.Join("*", name, "holders", "*")} {
			paths, _ := filepath.Glob(filepath.Join(sysBlock, pattern))
			for _, p := range paths {
				found = append(found, "used by "+filepath.Base(p))
			}
		}
	}
	return found
}

func (d disk) swaps() []string {
	text, err := os.ReadFile(filepath.Join(procDir, "swaps"))
	if err != nil {
		return nil
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 0 && d.names[filepath.Base(fields[0])] && strings.HasPrefix(fields[0], "/dev/") {
			found = append(found, "used as swap")
		}
	}
	return found
}

// openers finds the processes, this one and the holder apart, that have the
// device open.
func (d disk) openers(holder int) []string {
	var found []string
	besides := []string{strconv.Itoa(os.Getpid()), strconv.Itoa(holder)}
	descriptors, _ := filepath.Glob(filepath.Join(procDir, "[0-9]*", "fd", "*"))
	for _, path := range descriptors {
		pid := strings.Split(path, "/")[2]
		if slices.Contains(besides, pid) {
			continue
		}
		target, err := os.Readlink(path)
		if err != nil || !strings.HasPrefix(target, "/dev/") {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
			continue
		}
		if d.devs[fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))] {
			found = append(found, fmt.Sprintf("open in process %s (%s)", pid, commandOf(pid)))
		}
	}
	return found
}

func commandOf(pid string) string {
	text, err := os.ReadFile(filepath.Join(procDir, pid, "comm"))
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(text))
}
