package ext4

import (
	"errors"
	"fmt"
	"io"
	"syscall"
)

var (
	// ErrCorrupt is what every [*CorruptError] wraps.
	ErrCorrupt = errors.New("ext4: corrupt filesystem")

	// ErrUnsupported is wrapped by the refusal of a filesystem, or of a part
	// of it, that is of a kind this package does not read.
	ErrUnsupported = errors.New("ext4: unsupported")

	// ErrEncrypted is wrapped by the refusal of a file, directory or link that
	// is encrypted. Its attributes can be read; what it holds cannot.
	ErrEncrypted = errors.New("ext4: encrypted")

	// ErrNotExt4 says that there is no ext2, ext3 or ext4 filesystem.
	ErrNotExt4 = errors.New("ext4: not an ext2, ext3 or ext4 filesystem")

	// errBeyondImage is wrapped by the error of a read beyond the end of the
	// image, which will not succeed another time.
	errBeyondImage = fmt.Errorf("beyond its end: %w", io.ErrUnexpectedEOF)
)

// A CorruptError is a contradiction in the filesystem: a checksum that does
// not hold, or a number that cannot be. It wraps [ErrCorrupt] and
// syscall.EUCLEAN, the errno with which Linux reports such.
type CorruptError struct {
	Structure string // such as "inode 12" or "group descriptor 3"
	Offset    int64  // where it is, in bytes from the start of the filesystem; negative if unknown
	Problem   string
}

func (e *CorruptError) Error() string {
	if e.Offset < 0 {
		return fmt.Sprintf("ext4: corrupt %s: %s", e.Structure, e.Problem)
	}
	return fmt.Sprintf("ext4: corrupt %s at byte %d: %s", e.Structure, e.Offset, e.Problem)
}

// Unwrap gives ErrCorrupt and the errno.
func (e *CorruptError) Unwrap() []error { return []error{ErrCorrupt, syscall.EUCLEAN} }

// A refusal is an error of a class, with an errno.
type refusal struct {
	text  string
	class error
	errno syscall.Errno
}

func (e *refusal) Error() string   { return e.text }
func (e *refusal) Unwrap() []error { return []error{e.class, e.errno} }

func unsupportedf(format string, args ...any) error {
	return &refusal{"ext4: " + fmt.Sprintf(format, args...), ErrUnsupported, syscall.EOPNOTSUPP}
}

// errEncrypted refuses what of inode ino is encrypted.
func errEncrypted(ino uint32, what string) error {
	return &refusal{
		fmt.Sprintf("ext4: inode %d: %s encrypted, and the key is not in the image", ino, what),
		ErrEncrypted, syscall.ENOKEY,
	}
}

// wrongType says that inode ino is not of the type that an operation needs.
func wrongType(ino uint32, errno syscall.Errno) error {
	return fmt.Errorf("ext4: inode %d: %w", ino, errno)
}

// timedOut says whether a read failed because it took too long. It is not worth
// another one of a smaller part.
func timedOut(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && t.Timeout()
}

// unexpectedEOF turns the end of the image into an error that cannot be taken
// for the end of a file.
func unexpectedEOF(err error) error {
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
