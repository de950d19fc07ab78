package buildinfo

import "runtime/debug"

// Version returns the version that the linker was told, if it is not "",
// otherwise the one that the Go toolchain recorded from the module or the
// repository.
func Version(linked string) string {
	if linked != "" {
		return linked
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}
