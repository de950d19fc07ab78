//go:build !race

package nbd

// raceDetector tells whether the race detector runs: it makes pools forget.
const raceDetector = false
