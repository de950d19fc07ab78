// Command rowan manages the LUNs and snapshots of a Rowan appliance.
package main

import (
	"os"

	"github.com/rowan-storage/rowan/internal/buildinfo"
	"github.com/rowan-storage/rowan/internal/cli"
)

// version is set by the linker: -X main.version=v1.2.3.
var version string

func main() {
	os.Exit(cli.Main(os.Args[1:], buildinfo.Version(version)))
}
