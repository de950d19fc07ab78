package interop

import (
	"os"
	"testing"

	"github.com/rowan-storage/rowan/test/harness"
)

// TestNBDSh runs the scripts of testdata, which assert by themselves.
func TestNBDSh(t *testing.T) {
	harness.Need(t, "nbdsh")
	// nbdsh starts the first python3 in the path; the one it was packaged for
	// has its module.
	t.Setenv("PATH", "/usr/bin:"+os.Getenv("PATH"))
	for _, name := range []string{"commands.py", "errors.py", "pipeline.py"} {
		t.Run(name, func(t *testing.T) {
			script, err := os.ReadFile("testdata/" + name)
			if err != nil {
				t.Fatal(err)
			}
			d := harness.Start(t)
			create(d, "web", 64)
			harness.Run(t, "nbdsh", "-c", "uri = '"+d.URI("web")+"'", "-c", string(script))
			harness.Run(t, "nbdsh", "-c", "uri = '"+d.TCPURI("web")+"'", "-c", string(script))
		})
	}
}
