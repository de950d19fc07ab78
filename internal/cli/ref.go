package cli

import (
	"strings"

	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

// checkName refuses what cannot be the name of a LUN or a snapshot, before it
// becomes part of a request.
func checkName(kind, name string) error {
	switch {
	case name == "":
		return usagef("the name of the %s is empty", kind)
	case len(name) > wire.MaxNameBytes:
		return usagef("the name of the %s is %d bytes long, it can have %d", kind, len(name), wire.MaxNameBytes)
	case !alphanumeric(name[0]):
		return usagef("%q is not the name of a %s: it must begin with a letter or a digit", name, kind)
	}
	for i := range len(name) {
		if !alphanumeric(name[i]) && !strings.ContainsRune("._-", rune(name[i])) {
			return usagef("%q is not the name of a %s: letters, digits, '.', '_' and '-' are allowed", name, kind)
		}
	}
	return nil
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// parseLUN reads the name of a LUN.
func parseLUN(text string) (string, error) {
	if lun, name, ok := strings.Cut(text, "@"); ok {
		return "", usagef("%q names the snapshot %s of the LUN %s, where a LUN is wanted", text, name, lun)
	}
	return text, checkName("LUN", text)
}

// ref is a LUN, or a snapshot of it if snapshot is not "".
type ref struct{ lun, snapshot string }

func (r ref) String() string {
	if r.snapshot == "" {
		return r.lun
	}
	return r.lun + "@" + r.snapshot
}

// parseRef reads LUN or LUN@NAME.
func parseRef(text string) (ref, error) {
	lun, name, isSnapshot := strings.Cut(text, "@")
	if err := checkName("LUN", lun); err != nil {
		return ref{}, err
	}
	if isSnapshot {
		if err := checkName("snapshot", name); err != nil {
			return ref{}, err
		}
	}
	return ref{lun, name}, nil
}

// parseSnapshot reads LUN@NAME.
func parseSnapshot(text string) (ref, error) {
	r, err := parseRef(text)
	if err == nil && r.snapshot == "" {
		err = usagef("%q is a LUN, where a snapshot is wanted: write %s@NAME", text, text)
	}
	return r, err
}

// parseSnapshotPath reads LUN@NAME:/PATH. Without a path it is the root.
func parseSnapshotPath(text string) (ref, string, error) {
	text, path, _ := strings.Cut(text, ":")
	r, err := parseSnapshot(text)
	if err != nil {
		return ref{}, "", err
	}
	if strings.ContainsRune(path, 0) {
		return ref{}, "", usagef("a path cannot hold a NUL byte")
	}
	return r, "/" + strings.TrimLeft(path, "/"), nil
}
