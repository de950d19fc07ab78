//go:build race

package harness

// raceDetector tells whether the tests, and so the daemon, are built with the
// race detector.
const raceDetector = true
