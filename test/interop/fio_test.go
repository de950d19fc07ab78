package interop

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/test/harness"
)

// TestFioVerify lets fio write and read back, on several connections, while
// snapshots of the same LUN are made, cloned, reverted to and deleted.
func TestFioVerify(t *testing.T) {
	harness.Need(t, "fio", "nbdcopy", "qemu-io")
	d := harness.Start(t)
	create(d, "web", 128)

	stop, churned := make(chan struct{}), make(chan error, 1)
	rounds := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				churned <- nil
				return
			default:
			}
			if err := churn(t.Context(), d, rounds); err != nil {
				churned <- fmt.Errorf("round %d: %w", rounds, err)
				return
			}
			rounds++
		}
	})
	fio := func(uri string, args ...string) {
		t.Helper()
		harness.Run(t, "fio", append([]string{
			"--ioengine=nbd", "--uri=" + uri, "--numjobs=4", "--size=32M", "--offset_increment=32M",
			"--verify=crc32c", "--verify_fatal=1", "--verify_backlog=512", "--verify_state_save=0", "--group_reporting", "--randrepeat=0",
		}, args...)...)
	}
	loops := fmt.Sprintf("--loops=%d", max(1, 5/harness.Slow()))
	fio(d.URI("web"), "--name=blocks", "--rw=randwrite", "--bs=4k", "--iodepth=16", loops)
	fio(d.TCPURI("web"), "--name=mixed", "--rw=randrw", "--bsrange=4k-128k", "--iodepth=8", loops)
	fio(d.URI("web"), "--name=sectors", "--rw=randwrite", "--bs=1536", "--iodepth=16", "--io_size=4M")
	fio(d.URI("web"), "--name=flushed", "--rw=randwrite", "--bs=4k", "--iodepth=4", "--fsync=32", "--io_size=4M")
	close(stop)
	wg.Wait()
	if err := <-churned; err != nil {
		t.Fatal(err)
	}
	t.Logf("%d rounds of snapshot, clone, revert and delete", rounds)
	if rounds == 0 {
		t.Error("nothing happened beside fio")
	}
}

// churn makes a snapshot of a LUN in use and tries what can be done with it.
// The snapshot and what is made of it must not change while fio goes on.
func churn(ctx context.Context, d *harness.Daemon, n int) error {
	snap, clone := fmt.Sprintf("web@s%d", n), fmt.Sprintf("c%d", n)
	rowan := func(args ...string) []string {
		return append([]string{harness.Bin("rowan"), "--api", d.API}, args...)
	}
	hash := func(export string) []string {
		return []string{"sh", "-c", "nbdcopy '" + d.URI(export) + "' - | sha256sum"}
	}
	must := func(line []string) (string, error) {
		r, err := harness.Exec(ctx, line[0], line[1:]...)
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("%v: exit code %d: %s%s", line, r.Code, r.Stdout, r.Stderr)
		}
		return r.Stdout, err
	}
	var hashes []string
	steps := []struct {
		line []string
		keep bool
	}{
		{line: rowan("snapshot", "create", snap)},
		{line: hash(snap), keep: true},
		{line: rowan("snapshot", "clone", snap, clone)},
		{line: hash(clone), keep: true},
		{line: rowan("snapshot", "create", clone+"@kept")},
		{line: []string{"qemu-io", "-f", "raw", "-c", "write -P 1 5M 3M", "-c", "discard 60M 9M", d.URI(clone)}},
		{line: rowan("snapshot", "revert", clone+"@kept", "--yes")},
		{line: hash(clone), keep: true},
		{line: hash(snap), keep: true},
		{line: rowan("lun", "delete", clone, "--with-snapshots", "--yes")},
		{line: hash(snap), keep: true},
	}
	if n%3 != 0 { // some stay
		steps = append(steps, steps[0])
		steps[len(steps)-1].line = rowan("snapshot", "delete", snap, "--yes")
	}
	for _, s := range steps {
		out, err := must(s.line)
		if err != nil {
			return err
		}
		if s.keep {
			hashes = append(hashes, out)
		}
	}
	for _, h := range hashes {
		if h != hashes[0] {
			return fmt.Errorf("the content of %s or its clone changed: %v", snap, hashes)
		}
	}
	return nil
}

// TestRevert checks by fio's own checksums that a revert brings everything back.
func TestRevert(t *testing.T) {
	harness.Need(t, "fio", "nbdcopy")
	d := harness.Start(t)
	create(d, "web", 32)
	write := []string{
		"--name=v", "--ioengine=nbd", "--uri=" + d.URI("web"), "--rw=randwrite", "--bs=4k", "--iodepth=16",
		"--size=32M", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--randseed=1",
	}
	harness.Run(t, "fio", write...)
	before := copyOut(t, d.URI("web"))
	d.Rowan("snapshot", "create", "web@good")
	harness.Run(t, "fio", "--name=damage", "--ioengine=nbd", "--uri="+d.URI("web"), "--rw=write", "--bs=1M", "--size=16M")
	damaged := copyOut(t, d.URI("web"))
	if r := harness.Try(t, "fio", append(write, "--verify_only")...); r.Code == 0 {
		t.Fatal("fio does not see the damage")
	}

	d.Rowan("snapshot", "revert", "web@good", "--yes")
	same(t, "the LUN reverted", before, copyOut(t, d.URI("web")))
	harness.Run(t, "fio", append(write, "--verify_only")...)

	// What was there before the revert was kept.
	type snapshot struct{ Name string }
	list := harness.Decode[[]snapshot](t, d.Rowan("snapshot", "list", "web", "-o", "json"))
	if len(list) != 2 {
		t.Fatalf("snapshots after the revert: %+v", list)
	}
	for _, s := range list {
		if s.Name != "good" {
			same(t, "the state before the revert", damaged, copyOut(t, d.URI("web@"+s.Name)))
		}
	}
}

// TestRevertUnderAClient checks that a LUN in use is reverted by force only.
func TestRevertUnderAClient(t *testing.T) {
	harness.Need(t, "qemu-io")
	d := harness.Start(t)
	create(d, "web", 32)
	client := exec.Command("qemu-io", "-f", "raw", d.URI("web"))
	stdin, err := client.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	client.Stdout = &out
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	send := func(line string) {
		if _, err := io.WriteString(stdin, line+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	type lun struct{ Clients int }
	harness.Eventually(t, time.Minute, "the client is connected", func() bool {
		return harness.Decode[lun](t, d.Rowan("lun", "show", "web", "-o", "json")).Clients == 1
	})
	d.Rowan("snapshot", "create", "web@empty")
	send("write -P 7 0 64k")
	harness.Eventually(t, time.Minute, "the client has written", func() bool {
		return strings.Contains(d.Rowan("snapshot", "diff", "web@empty", "-o", "json"), "65536")
	})
	if r := d.TryRowan("snapshot", "revert", "web@empty", "--yes"); r.Code != 11 || r.Stderr == "" {
		t.Errorf("a revert under a client: exit code %d, %q; want 11 and a reason", r.Code, r.Stderr)
	}
	d.Rowan("snapshot", "revert", "web@empty", "--yes", "--force")
	// In one piece, then the end of the input: qemu-io does not look at lines
	// that it has read ahead before there is something new to read.
	send("read -P 0 0 64k\nwrite -P 8 0 4k\nread -P 8 0 4k\nquit")
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := client.Wait(); err != nil || strings.Contains(out.String(), "Pattern verification failed") ||
		strings.Count(out.String(), "read 65536/65536") != 1 || strings.Count(out.String(), "read 4096/4096") != 1 {
		t.Errorf("the client that was connected all the time: %v\n%s", err, out.String())
	}
}
