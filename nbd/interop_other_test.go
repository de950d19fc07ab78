package nbd

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// nbdkit's nbd plugin is a client here, and exports what it gets anew.
func TestNbdkitPlugin(t *testing.T) {
	d := newMemDevice(8<<20 + 512)
	d.fill(2<<20, 1<<20)
	d.fill(8<<20, 512)
	s := serveDevice(t, d)
	again := filepath.Join(socketDir(t), "again")
	start(t, again, need(t, "nbdkit"), "-f", "-U", again, "nbd", "socket="+s.socket, "shared=1")
	uri := "nbd+unix:///?socket=" + again
	out := filepath.Join(t.TempDir(), "out")
	mustRun(t, "nbdcopy", uri, out)
	wantFile(t, out, d.data)
	info := mustRun(t, "nbdinfo", uri)
	for _, want := range []string{"export-size: 8389120", "can_multi_conn: true", "can_fast_zero: true", "can_cache: true"} {
		if !strings.Contains(info, want) {
			t.Errorf("%s is missing in %s", want, info)
		}
	}
	mustRun(t, "nbdcopy", "--flush", "--destination-is-zero", out, uri)
	wantEqual(t, d.bytes(0, len(d.data)), d.data)
}

// fio writes, trims, and verifies what it reads, over one connection for each
// job.
func TestFioVerify(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		jobs int
	}{
		{"4 KiB", []string{"--rw=randwrite", "--bs=4k", "--iodepth=32", "--verify=crc32c"}, 1},
		{"unaligned sizes", []string{"--rw=randwrite", "--bsrange=512-40k", "--bs_unaligned=1", "--iodepth=16", "--verify=crc32c"}, 2},
		{"1 MiB", []string{"--rw=write", "--bs=1m", "--iodepth=8", "--verify=crc32c"}, 2},
		{"mixed", []string{"--rw=randrw", "--bssplit=4k/60:64k/20:128k/20", "--iodepth=16", "--verify=crc32c", "--fsync=20"}, 4},
		{"trim", []string{"--rw=trimwrite", "--bs=16k", "--iodepth=16"}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			const size = 8 << 20 // for each job
			s := serveDevice(t, newMemDevice(size*test.jobs))
			args := append([]string{
				"--name=verify", "--ioengine=nbd", "--uri=" + s.uri(""), fmt.Sprintf("--size=%d", size),
				fmt.Sprintf("--offset_increment=%d", size), fmt.Sprintf("--numjobs=%d", test.jobs),
				"--group_reporting", "--verify_fatal=1", "--verify_state_save=0", "--thread",
			}, test.args...)
			mustRun(t, "fio", args...)
		})
	}
}
