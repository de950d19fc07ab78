package wire

import (
	"context"
	"errors"
	"strconv"
	"syscall"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// Errno is an error number of the protocol ("Error values"), 0 for success.
// Whatever else arrives is to be taken for EINVAL.
type Errno uint32

// The error numbers.
const (
	EPERM           = Errno(protocol.TRANSMISSION_ERROR_EPERM)
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL          = Errno(protocol.TRANSMISSION_ERROR_EINVAL)
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

// FromError returns the number that tells a client of err: what its errno is
// mapped to, ESHUTDOWN for a cancelled context, EIO for all else, 0 for nil.
func FromError(err error) Errno {
	if err == nil {
		return 0
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return fromErrno(errno)
	}
	if errors.Is(err, context.Canceled) {
		return ESHUTDOWN
	}
	return EIO
}

func fromErrno(errno syscall.Errno) Errno {
	switch errno {
	case 0:
		return 0
	case syscall.EPERM, syscall.EACCES, syscall.EROFS:
		return EPERM
	case syscall.ENOMEM:
		return ENOMEM
	case syscall.EINVAL:
		return EINVAL
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		return ENOSPC
	case syscall.EOVERFLOW:
		return EOVERFLOW
	case syscall.ENOTSUP:
		return ENOTSUP
	case syscall.ESHUTDOWN:
		return ESHUTDOWN
	default:
		return EIO
	}
}

// Errno returns the system's error number of the same meaning.
func (e Errno) Errno() syscall.Errno {
	switch e {
	case 0:
		return 0
	case EPERM:
		return syscall.EPERM
	case EIO:
		return syscall.EIO
	case ENOMEM:
		return syscall.ENOMEM
	case ENOSPC:
		return syscall.ENOSPC
	case EOVERFLOW:
		return syscall.EOVERFLOW
	case ENOTSUP:
		return syscall.ENOTSUP
	case ESHUTDOWN:
		return syscall.ESHUTDOWN
	default:
		return syscall.EINVAL
	}
}

func hexadecimal(n uint64) string { return "0x" + strconv.FormatUint(n, 16) }
