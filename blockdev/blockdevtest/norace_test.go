//go:build !race

package blockdevtest_test

const raceDetector = false
