package main

import (
	"fmt"
	"strings"
	"time"
)

// goal is a figure that the appliance is to reach: rowand's, in one job,
// against another's, or its own, in the same job or another.
type goal struct {
	job     string // rowand's
	than    string // the other's, "" if the same
	server  string
	measure string // rate or processor time
	want    float64
}

const (
	byRate = "rate"
	byCPU  = "CPU per request"
)

// goals are the figures to reach; of the processor time at most that, of rates
// at least.
var goals = []goal{
	{randomRead, "", nbdkit, byRate, 1.3},
	{randomWrite, "", nbdkit, byRate, 1.3},
	{randomRead, "", qemuNBD, byRate, 1.5},
	{randomWrite, "", qemuNBD, byRate, 1.5},
	{randomRead, "", nbdkit, byCPU, 0.8},
	{randomWrite, "", nbdkit, byCPU, 0.8},
	{sequentialRead, "", nbdkit, byRate, 1.2},
	{sequentialWrite, "", nbdkit, byRate, 1.2},
	{eachBlockOnce + afterSnapshot, eachBlockOnce + beforeSnapshot, rowand, byRate, 1},
	{eachBlockOnce + afterSnapshot, "", overlayQCOW2, byRate, 3},
	{eachBlockOnce + afterSnapshot, "", overlayExtendedL2, byRate, 1.3},
	{flushedDepth1 + beforeSnapshot, "", nbdkit, byRate, 1},
	{flushedDepth8 + beforeSnapshot, "", nbdkit, byRate, 1},
	{flushedDepth1 + afterSnapshot, flushedDepth1 + beforeSnapshot, nbdkit, byRate, 0.7},
	{flushedDepth8 + afterSnapshot, flushedDepth8 + beforeSnapshot, nbdkit, byRate, 0.7},
}

// maxStall is how long the longest stall by a snapshot may be, the 99th
// percentile of many.
const maxStall = 2 * time.Millisecond

// goals writes which figures are reached.
func (t *table) goals() string {
	var s strings.Builder
	for _, g := range goals {
		than := g.than
		if than == "" {
			than = g.job
		}
		ours, theirs := t.figures[g.job][rowand], t.figures[than][g.server]
		if len(ours) == 0 || len(theirs) == 0 {
			continue
		}
		against, bound, seen := g.server, "at least", ratio(ours, theirs, rate)
		if g.than != "" {
			against += ": " + than
		}
		if g.measure == byCPU {
			bound, seen = "at most", ratio(ours, theirs, cpu)
		}
		fmt.Fprintf(&s, "| %s | %s | %s | %s %.1f × | %.2f × |\n", g.job, against, g.measure, bound, g.want, seen)
	}
	for _, stalled := range t.stalls {
		fmt.Fprintf(&s, "| longest stall by a snapshot, 99th percentile, LUN of %s | – | time | at most %v | %.1f ms |\n",
			stalled.size(), maxStall, millis(stalled.beside(99)))
	}
	if s.Len() == 0 {
		return ""
	}
	return "| rowand | against | measure | asked | seen |\n| --- | --- | --- | ---: | ---: |\n" + s.String() + "\n"
}
