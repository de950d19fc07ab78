package jbd2

import (
	"errors"
	"fmt"
)

// ErrCorrupt is what every error that tells of damage in the journal wraps. An
// error that does not wrap it, nor [ErrUnsupported], came from the reader.
var ErrCorrupt = errors.New("jbd2: corrupt journal")

// ErrUnsupported is what an error wraps that tells of a journal which is
// sound, as far as can be seen, but of a kind that this package cannot read.
var ErrUnsupported = errors.New("jbd2: unsupported journal")

func corruptf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

func unsupportedf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
}
