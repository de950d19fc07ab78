package interop

import (
	"os/exec"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/test/harness"
)

// TestKillUnderFio kills the daemon while fio writes one half of a LUN: the
// other half, which fio had written before and never flushed, still has fio's
// checksums, and fio can go on.
func TestKillUnderFio(t *testing.T) {
	harness.Need(t, "fio")
	d := harness.Start(t)
	create(d, "web", 64)
	fio := func(name, offset string, more ...string) []string {
		return append([]string{
			"--name=" + name, "--ioengine=nbd", "--uri=" + d.URI("web"), "--rw=randwrite", "--bs=4k", "--iodepth=32",
			"--offset=" + offset, "--size=32M", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0",
			"--randseed=3",
		}, more...)
	}
	for round := range 4 {
		done, busy := "0", "32M"
		if round%2 == 1 {
			done, busy = busy, done
		}
		harness.Run(t, "fio", fio("done", done, "--do_verify=0")...)
		if round%2 == 0 {
			d.Rowan("snapshot", "create", "web")
		}
		writer := exec.Command("fio", fio("busy", busy, "--do_verify=0", "--time_based", "--runtime=60")...)
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(100+150*round) * time.Millisecond)
		d.Kill()
		if err := writer.Wait(); err == nil {
			t.Fatal("fio was not writing when the daemon was killed")
		}
		d.Start()
		harness.Run(t, "fio", fio("done", done, "--verify_only")...)
	}
}
