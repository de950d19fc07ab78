package nbd

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/fstest"
	"time"
)

func TestFreeKernelDevice(t *testing.T) {
	file := &fstest.MapFile{}
	for _, test := range []struct {
		files []string
		want  string
	}{
		{nil, ""},
		{[]string{"sda/size", "nbd/pid"}, ""},
		{[]string{"nbd0/size", "nbd1/size"}, "/dev/nbd0"},
		{[]string{"nbd0/size", "nbd0/pid", "nbd1/size", "nbd1/pid", "nbd10/size", "nbd2/size"}, "/dev/nbd2"},
		{[]string{"nbd0/pid", "nbd0p1/size"}, ""},
	} {
		sys := fstest.MapFS{}
		for _, name := range test.files {
			sys[name] = file
		}
		got, err := freeKernelDevice(sys)
		if got != test.want || (test.want == "") != errors.Is(err, ErrNoKernelDevice) {
			t.Errorf("of %q: %q, %v; want %q", test.files, got, err, test.want)
		}
	}
}

func TestAttachKernelErrors(t *testing.T) {
	s := serveDevice(t, newMemDevice(1<<20))
	file := filepath.Join(t.TempDir(), "no-device")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		address string
		options KernelOptions
		want    error
	}{
		"no device":  {s.socket, KernelOptions{Device: filepath.Join(t.TempDir(), "none")}, os.ErrNotExist},
		"a file":     {s.socket, KernelOptions{Device: file}, syscall.ENOTTY},
		"no export":  {s.socket, KernelOptions{Device: file, Export: "none"}, os.ErrNotExist},
		"no server":  {s.socket + "x", KernelOptions{Device: file}, os.ErrNotExist},
		"block size": {s.socket, KernelOptions{Device: file, BlockBytes: 1000}, nil},
		"timeout":    {s.socket, KernelOptions{Device: file, Timeout: time.Second / 2}, nil},
	} {
		_, err := AttachKernel(t.Context(), "unix", test.address, test.options)
		if err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
