package ext4_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs/ext4"
)

// encryptDir gives an empty directory an encryption policy with a new key.
func encryptDir(t *testing.T, dir string) {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var key struct {
		arg unix.FscryptAddKeyArg
		raw [64]byte
	}
	key.arg.Key_spec.Type = unix.FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER
	key.arg.Raw_size = uint32(len(key.raw))
	copy(key.raw[:], "not much of a key, but one that is long enough to be taken for one")
	ioctl := func(request uintptr, arg unsafe.Pointer) {
		t.Helper()
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), request, uintptr(arg)); errno != 0 {
			t.Fatalf("ioctl %#x: %v", request, errno)
		}
	}
	ioctl(unix.FS_IOC_ADD_ENCRYPTION_KEY, unsafe.Pointer(&key))
	policy := unix.FscryptPolicyV2{
		Version:                   unix.FSCRYPT_POLICY_V2,
		Contents_encryption_mode:  unix.FSCRYPT_MODE_AES_256_XTS,
		Filenames_encryption_mode: unix.FSCRYPT_MODE_AES_256_CTS,
	}
	copy(policy.Master_key_identifier[:], key.arg.Key_spec.U[:])
	ioctl(unix.FS_IOC_SET_ENCRYPTION_POLICY, unsafe.Pointer(&policy))
}

// TestEncrypted: what is encrypted says so, and the rest can be read.
func TestEncrypted(t *testing.T) {
	image := makeImage(t, 32<<20, "-t", "ext4", "-O", "encrypt")
	dir, unmount := mount(t, image)
	secret := filepath.Join(dir, "secret")
	if err := os.Mkdir(secret, 0o700); err != nil {
		t.Fatal(err)
	}
	encryptDir(t, secret)
	if err := errors.Join(
		os.WriteFile(filepath.Join(secret, "file"), []byte("hidden"), 0o600),
		os.Symlink("hidden", filepath.Join(secret, "link")),
		os.WriteFile(filepath.Join(dir, "open"), []byte("for all to see"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	var inos [2]uint64
	for i, name := range []string{"file", "link"} {
		info, err := os.Lstat(filepath.Join(secret, name))
		if err != nil {
			t.Fatal(err)
		}
		inos[i] = info.Sys().(*syscall.Stat_t).Ino
	}
	unmount()

	fsys := openImage(t, image)
	if content, err := readPath(fsys, "open"); err != nil || string(content) != "for all to see" {
		t.Errorf("%q, %v", content, err)
	}
	ino := lookup(t, fsys, "secret")
	if a, err := fsys.Stat(ino); err != nil || a.Mode != 0o700 {
		t.Errorf("Stat: %+v, %v", a, err)
	}
	entries, err := fsys.ReadDir(ino)
	refused(t, "ReadDir", err)
	if len(entries) != 0 {
		t.Errorf("%d entries", len(entries))
	}
	_, err = fsys.Lookup(ino, "file")
	refused(t, "Lookup", err)

	// What is inside has attributes all the same.
	if a, err := fsys.Stat(treeIno(inos[0])); err != nil || a.Size != 6 {
		t.Errorf("Stat of the file: %+v, %v", a, err)
	}
	_, err = fsys.Open(treeIno(inos[0]))
	refused(t, "Open", err)
	_, err = fsys.Readlink(treeIno(inos[1]))
	refused(t, "Readlink", err)
	if _, err := fsys.Xattrs(treeIno(inos[0])); err != nil {
		t.Errorf("Xattrs: %v", err)
	}
}

// refused checks the refusal of something encrypted.
func refused(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, ext4.ErrEncrypted) || !errors.Is(err, syscall.ENOKEY) || !strings.Contains(err.Error(), "encrypted") {
		t.Errorf("%s: %v", what, err)
	}
}
