package fusemount_test

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/imagetest"
)

// TestKilledWhileWaiting: who waits for a source that does not answer can be
// killed, long before the time limit of a read.
func TestKilledWhileWaiting(t *testing.T) {
	src := imagetest.NewSilent(t)
	src.Add(t, "web", "a", small(t, "one"))
	dir := mountSource(t, src, snapfs.Options{SourceTimeout: time.Hour})
	src.SetSilent(true)
	cmd := exec.Command("ls", filepath.Join(dir, "web/a"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-src.Asked()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("a process that was killed waits for an answer")
	}
	src.SetSilent(false)
}
