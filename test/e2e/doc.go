// Package e2e holds tests of the whole appliance: the real daemon, killed and
// started again, the real command line, real filesystems mounted by the real
// kernel, and the demo.
package e2e
