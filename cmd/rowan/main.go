// Command rowan manages the LUNs and snapshots of a Rowan appliance.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/rowan-storage/rowan/internal/buildinfo"
	"github.com/rowan-storage/rowan/internal/cli"
)

// version is set by the linker: -X main.version=v1.2.3.
var version string

func main() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	os.Exit(cli.Run(context.Background(), cli.Env{
		Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.Getenv, Version: buildinfo.Version(version), Interrupt: signals,
	}))
}
