// Command rowand is the daemon of a Rowan appliance.
package main

import (
	"os"

	"github.com/rowan-storage/rowan/internal/buildinfo"
	"github.com/rowan-storage/rowan/internal/cli/daemon"
)

// version is set by the linker: -X main.version=v1.2.3.
var version string

func main() {
	os.Exit(daemon.Main(os.Args[1:], os.Stdout, os.Stderr, buildinfo.Version(version)))
}
