package cli

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs/tree"
)

// typeName names a type for programs.
func typeName(t tree.Type) string {
	switch t {
	case tree.Regular:
		return "file"
	case tree.Directory:
		return "directory"
	case tree.Symlink:
		return "symlink"
	case tree.CharDevice:
		return "char_device"
	case tree.BlockDevice:
		return "block_device"
	case tree.FIFO:
		return "fifo"
	case tree.Socket:
		return "socket"
	}
	return "unknown"
}

// typeLetter is the first letter of ls -l.
func typeLetter(t tree.Type) byte {
	switch t {
	case tree.Regular:
		return '-'
	case tree.Directory:
		return 'd'
	case tree.Symlink:
		return 'l'
	case tree.CharDevice:
		return 'c'
	case tree.BlockDevice:
		return 'b'
	case tree.FIFO:
		return 'p'
	case tree.Socket:
		return 's'
	}
	return '?'
}

// modeString writes type and permissions as ls -l does.
func modeString(a tree.Attr) string {
	const letters = "rwxrwxrwx"
	b := []byte{typeLetter(a.Type)}
	for i := range letters {
		if a.Mode&(1<<(8-i)) != 0 {
			b = append(b, letters[i])
		} else {
			b = append(b, '-')
		}
	}
	for _, special := range []struct {
		bit    uint32
		at     int
		lower  byte // the execute bit is set too
		higher byte
	}{{unix.S_ISUID, 3, 's', 'S'}, {unix.S_ISGID, 6, 's', 'S'}, {unix.S_ISVTX, 9, 't', 'T'}} {
		if a.Mode&special.bit == 0 {
			continue
		}
		if b[special.at] == 'x' {
			b[special.at] = special.lower
		} else {
			b[special.at] = special.higher
		}
	}
	return string(b)
}

func deviceNumber(rdev uint64) string {
	return fmt.Sprintf("%d:%d", unix.Major(rdev), unix.Minor(rdev))
}
