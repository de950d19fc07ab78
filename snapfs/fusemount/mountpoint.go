package fusemount

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// maxDeadMounts bounds how many dead mounts on one directory are taken away.
const maxDeadMounts = 16

// maxLinks bounds the symbolic links on the way to a mount point.
const maxLinks = 40

// mountPoint checks that a directory can be mounted on, takes away what an
// earlier process has left dead on it, and returns its path without symbolic
// links.
func mountPoint(given string) (string, error) {
	dir, err := realPath(given)
	if err != nil {
		return "", fmt.Errorf("fusemount: mount point %s: %w", given, err)
	}
	for range maxDeadMounts {
		info, err := os.Stat(dir)
		if errors.Is(err, syscall.ENOTCONN) {
			if err := removeDead(dir); err != nil {
				return "", err
			}
			continue
		}
		if err != nil {
			return "", fmt.Errorf("fusemount: mount point: %w", err)
		}
		if !info.IsDir() {
			return "", fmt.Errorf("fusemount: mount point %s: %w", dir, syscall.ENOTDIR)
		}
		top, err := topMount(dir)
		if err != nil {
			return "", err
		}
		if top.isOurs() {
			return "", fmt.Errorf("fusemount: %s is a mount of %s already: unmount it first: %w", dir, top.source, syscall.EBUSY)
		}
		return dir, nil
	}
	return "", fmt.Errorf("fusemount: more than %d dead mounts on %s: %w", maxDeadMounts, dir, syscall.ENOTCONN)
}

// removeDead unmounts what the kernel has no connection to, if it was one of
// ours.
func removeDead(dir string) error {
	top, err := topMount(dir)
	if err != nil {
		return err
	}
	if !top.isOurs() {
		return fmt.Errorf("fusemount: %s is a mount (%s) whose server is gone: unmount it with \"fusermount3 -u %s\": %w", dir, top.kind, dir, syscall.ENOTCONN)
	}
	return detach(dir)
}

// realPath is the absolute path of dir without symbolic links. Its last element
// is not looked into: it may be a dead mount.
func realPath(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	for range maxLinks {
		if err != nil {
			return "", err
		}
		var parent string
		if parent, err = filepath.EvalSymlinks(filepath.Dir(dir)); err != nil {
			return "", err
		}
		dir = filepath.Join(parent, filepath.Base(dir))
		target, linkErr := os.Readlink(dir)
		if linkErr != nil {
			return dir, nil // it is no link, or is found missing when it is used
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(parent, target)
		}
		dir = filepath.Clean(target)
	}
	return "", syscall.ELOOP
}

// mountEntry is a line of /proc/self/mountinfo (proc(5)).
type mountEntry struct {
	device string // "0:52"
	kind   string // "fuse.rowan"
	source string
}

func (m mountEntry) isOurs() bool { return m.kind == "fuse."+subtype }

// topMount is what is mounted last on a directory, the zero mountEntry if
// nothing is.
func topMount(dir string) (mountEntry, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return mountEntry{}, fmt.Errorf("fusemount: %w", err)
	}
	defer f.Close()
	var top mountEntry
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if ok && len(fields) >= 5 && len(rest) >= 2 && unescape(fields[4]) == dir {
			top = mountEntry{device: fields[2], kind: rest[0], source: unescape(rest[1])}
		}
	}
	if err := lines.Err(); err != nil {
		return mountEntry{}, fmt.Errorf("fusemount: /proc/self/mountinfo: %w", err)
	}
	return top, nil
}

// unescape decodes the octal escapes (\040) of /proc/self/mountinfo.
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// checkHelper checks what a mount by another user than root needs.
func checkHelper(allowOther bool) error {
	if _, err := exec.LookPath("fusermount3"); err != nil {
		return fmt.Errorf("fusemount: mounting without root needs the program fusermount3: install the package fuse3: %w", err)
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("fusemount: mounting without root needs leave to open /dev/fuse, whose mode is 0666 on most systems: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("fusemount: /dev/fuse: %w", err)
	}
	if !allowOther {
		return nil
	}
	const conf = "/etc/fuse.conf"
	text, err := os.ReadFile(conf)
	if err != nil {
		return fmt.Errorf("fusemount: letting other users look needs the line \"user_allow_other\" in %s: %w", conf, err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) == "user_allow_other" {
			return nil
		}
	}
	return fmt.Errorf("fusemount: letting other users look needs the line \"user_allow_other\" in %s: %w", conf, syscall.EPERM)
}
