package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/internal/lockfile"
)

// The ways of making a device.
const (
	MethodNBD  = "nbd"  // the kernel's NBD driver
	MethodLoop = "loop" // a loop device on a file in a FUSE mount
)

// Record describes an attached device.
type Record struct {
	Export   string    `json:"export"` // lun or lun@snapshot
	Device   string    `json:"device"` // such as /dev/loop3
	Method   string    `json:"method"` // MethodNBD or MethodLoop
	ReadOnly bool      `json:"read_only"`
	PID      int       `json:"pid"` // of the holder
	Attached time.Time `json:"attached"`
	Log      string    `json:"log,omitempty"` // file that the holder logs to
	// Users says who uses the device, as List found it.
	Users []string `json:"users,omitempty"`

	// DiskSeq tells this use of a device's name from later ones.
	DiskSeq string `json:"disk_seq,omitempty"`
	// Refusals counts how often the holder was told to detach and could not,
	// Refused says why the last time.
	Refusals int    `json:"refusals,omitempty"`
	Refused  string `json:"refused,omitempty"`

	id string // file name without extension
}

// files are the paths of what belongs to one attachment.
type files struct{ lock, record, log, mount string }

func filesOf(dir, id string) files {
	base := filepath.Join(dir, id)
	return files{lock: base + ".lock", record: base + ".json", log: base + ".log", mount: base + ".mnt"}
}

// openDir makes the directory if it is missing, and refuses one that another
// user could write to.
func openDir(dir string) error {
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("attach: the directory for what is attached: %w", err)
		}
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("attach: %s: %w", dir, err)
	}
	if !info.IsDir() || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("attach: %s is not a directory of this user's own: %w", dir, fs.ErrPermission)
	}
	return nil
}

// removeDir removes the directory if nothing is in it, and the one above too.
func removeDir(dir string) {
	if os.Remove(dir) == nil {
		// It may hold the directories of other appliances.
		_ = os.Remove(filepath.Dir(dir))
	}
}

// readRecord reads the record of id.
func readRecord(dir, id string) (Record, error) {
	r := Record{id: id}
	data, err := os.ReadFile(filesOf(dir, id).record)
	if err != nil {
		return r, fmt.Errorf("attach: %w", err)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("attach: record of %s: %w", id, err)
	}
	return r, nil
}

// writeRecord replaces the record of r.id.
func writeRecord(dir string, r Record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	path := filesOf(dir, r.id).record
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	return nil
}

// ids lists everything in dir that belongs to an attachment, dead or alive.
func ids(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	seen := map[string]bool{}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".new")
		for _, ext := range []string{".lock", ".json", ".log", ".mnt"} {
			if id, ok := strings.CutSuffix(name, ext); ok && id != "" {
				seen[id] = true
			}
		}
	}
	list := make([]string, 0, len(seen))
	for id := range seen {
		list = append(list, id)
	}
	sort.Strings(list)
	return list, nil
}

// alive tells whether the holder of id lives.
func alive(dir, id string) bool { return lockfile.Held(filesOf(dir, id).lock) }

// living lists the records whose holders live.
func living(dir string) ([]Record, error) {
	all, err := ids(dir)
	if err != nil {
		return nil, err
	}
	var list []Record
	for _, id := range all {
		if !alive(dir, id) {
			continue
		}
		r, err := readRecord(dir, id)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it is only beginning, or just ending
		}
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}
