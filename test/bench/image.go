package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
)

// mountImage makes an image with a filesystem in dir, with the options that
// mkfs and mount choose, and mounts it. A filesystem of its own is in the same
// state in each run, and unmount removes it in one go.
func mountImage(ctx context.Context, o options, dir, fs string) (at string, unmount func() error, err error) {
	image, at := filepath.Join(dir, fs+".image"), filepath.Join(dir, fs)
	// The LUN and the files of the peers, the LUN once more after snapshots, and
	// what the snapshots under load hold.
	bytes := strconv.FormatInt(6*o.sizeBytes+16<<30, 10)
	for _, line := range [][]string{
		{"fallocate", "-l", bytes, image},
		{"mkfs." + fs, "-q", image},
		{"mkdir", at},
		{"mount", "-o", "loop", image, at},
	} {
		if err := command(ctx, line[0], line[1:]...); err != nil {
			return "", nil, err
		}
	}
	return at, func() error {
		err := command(context.Background(), "umount", at)
		return errors.Join(err, os.Remove(image))
	}, nil
}
