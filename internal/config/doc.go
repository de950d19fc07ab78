// Package config reads the configuration of the daemon: TOML files, overridden
// by the command line.
//
// A setting has a default, can be set in FILE (/etc/rowan/rowan.toml unless
// told otherwise), then by the files conf.d/*.toml beside FILE in the order of
// their names, then by a flag; the last one wins. A key that does not exist is
// an error, so that a misspelt one never passes for a default. Every error
// names the file, line and key, or the flag, that it is about, and all of them
// are reported at once.
//
// Secrets are named by file only. A file that holds a private key must be
// readable by its owner alone.
//
// The package reads files and starts nothing; a Config is a plain value.
package config
