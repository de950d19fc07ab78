// Package buildinfo tells which version of the programs this is.
package buildinfo
