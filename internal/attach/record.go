package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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

	// File is what a loop device is put on.
	File string `json:"file,omitempty"`
	// DiskSeq tells this use of a device's name from later ones.
	DiskSeq string `json:"disk_seq,omitempty"`

	id string // file name without extension
}

// files are the paths of what belongs to one attachment.
type files struct{ lock, record, refused, log, mount string }

func filesOf(dir, id string) files {
	base := filepath.Join(dir, id)
	return files{
		lock: base + ".lock", record: base + ".json", refused: base + ".refused", log: base + ".log", mount: base + ".mnt",
	}
}

// openDir makes the directory if it is missing, and refuses one that another
// user could write to.
func openDir(dir string) error {
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("attach: the directory for what is attached: %w", err)
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("attach: %s: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
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
	return replaceFile(filesOf(dir, r.id).record, append(data, '\n'))
}

// replaceFile puts a new content into the place of a file at once.
func replaceFile(path string, data []byte) error {
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	return nil
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
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
	var list []string
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".new")
		for _, ext := range []string{".lock", ".json", ".refused", ".log", ".mnt"} {
			if id, ok := strings.CutSuffix(name, ext); ok && id != "" {
				list = append(list, id)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

// alive tells whether the holder of id lives.
func alive(dir, id string) bool { return lockfile.Held(filesOf(dir, id).lock) }

// living lists the records whose holders live and that have a device.
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
		if r.Device != "" {
			list = append(list, r)
		}
	}
	return list, nil
}
