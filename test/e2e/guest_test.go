package e2e

import (
	"testing"

	"github.com/rowan-storage/rowan/test/harness"
)

// TestAttachByKernel attaches a LUN by the kernel's NBD driver, in a guest that
// has one, as an administrator does.
func TestAttachByKernel(t *testing.T) {
	t.Log(harness.Guest{
		Modules:  []string{"crc16", "crc32c_generic", "libcrc32c", "mbcache", "jbd2", "ext4", "nbd"},
		Programs: harness.GuestCommands(t),
		Script: `
export ROWAN_API=/run/api.sock
rowand --pool /tmp/pool --api $ROWAN_API --nbd unix:/run/nbd.sock --log-level warn &
until rowan status >/dev/null 2>&1; do sleep 0.2; done
rowan lun create web --size 16M

# The driver is there and not loaded.
rmmod nbd
rm /bin/modprobe
printf '#!/bin/sh\ninsmod /modules/nbd.ko\n' >/bin/modprobe
chmod +x /bin/modprobe

# Attached, formatted, written, and in use while it is mounted.
rowan attach web
rowan attach --list
rowan attach --list | grep -q '/dev/nbd0 .*nbd'
if rowan attach --list | grep -q 'open in process'; then exit 1; fi
mke2fs -F /dev/nbd0 >/dev/null
mount -t ext4 /dev/nbd0 /mnt
echo hello >/mnt/letter
if rowan detach web; then exit 1; fi
umount /mnt
rowan snapshot create web@a

# A snapshot beside it, on a device of its own.
rowan attach web@a
mount -t ext4 -o ro,noload /dev/nbd1 /mnt
grep -q hello /mnt/letter
umount /mnt
rowan detach web@a
rowan detach /dev/nbd0
test -z "$(rowan attach --list -q)"

# What was written is there the next time.
rowan attach web
mount -t ext4 /dev/nbd0 /mnt
grep -q hello /mnt/letter
umount /mnt

# When the daemon is killed the device goes, and comes again with it.
kill -9 $(pidof rowand)
rm -f /run/*.sock
until test -z "$(rowan attach --list -q)"; do sleep 0.2; done
rowand --pool /tmp/pool --api $ROWAN_API --nbd unix:/run/nbd.sock --log-level warn &
until rowan status >/dev/null 2>&1; do sleep 0.2; done
rowan attach web
mount -t ext4 /dev/nbd0 /mnt
grep -q hello /mnt/letter
umount /mnt
rowan detach web
kill $(pidof rowand)
wait
`,
	}.Run(t))
}
