package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// job is one workload of fio.
type job struct {
	name string
	unit string // what a rate is counted in
	args []string
}

// timed makes a job run for a time.
func timed(runtime time.Duration, args ...string) []string {
	return append(args, "--time_based", fmt.Sprintf("--runtime=%dms", runtime.Milliseconds()))
}

// The names of the jobs that run for a time on a filled LUN.
const (
	randomRead      = "4 KiB random read, depth 32"
	randomWrite     = "4 KiB random write, depth 32"
	sequentialRead  = "1 MiB sequential read, depth 8"
	sequentialWrite = "1 MiB sequential write, depth 8"
	flushedDepth1   = "4 KiB random write and flush, depth 1"
	flushedDepth8   = "4 KiB random write and flush, depth 8"
	eachBlockOnce   = "4 KiB random write, each block once, depth 32, flushed at the end"
)

// jobs returns the jobs that run on a LUN without a snapshot.
func jobs(runtime time.Duration) []job {
	return []job{
		{randomRead, iops, timed(runtime, "--rw=randread", "--bs=4k", "--iodepth=32")},
		{randomWrite, iops, timed(runtime, "--rw=randwrite", "--bs=4k", "--iodepth=32")},
		{sequentialRead, mibs, timed(runtime, "--rw=read", "--bs=1m", "--iodepth=8")},
		{sequentialWrite, mibs, timed(runtime, "--rw=write", "--bs=1m", "--iodepth=8")},
	}
}

// flushedJobs write blocks of which each is followed by a flush.
func flushedJobs(runtime time.Duration) []job {
	return []job{
		{flushedDepth1, iops, timed(runtime, "--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1")},
		{flushedDepth8, iops, timed(runtime, "--rw=randwrite", "--bs=4k", "--iodepth=8", "--fsync=1")},
	}
}

// fill writes every block once, by pieces of 64 KiB: the page cache then holds
// files in pieces that no server has to pay for later.
func fill() job {
	return job{name: "fill", unit: mibs, args: []string{"--rw=write", "--bs=64k", "--iodepth=32"}}
}

// firstWrites writes some of the blocks, each once, in an order that differs
// from round to round, and flushes at the end.
func firstWrites(bytes int64, round int) job {
	return job{
		name: eachBlockOnce,
		unit: iops,
		args: []string{
			"--rw=randwrite", "--bs=4k", "--iodepth=32", "--norandommap=0", "--end_fsync=1",
			fmt.Sprintf("--io_size=%d", bytes), fmt.Sprintf("--randseed=%d", round+1),
		},
	}
}

// The units of rates.
const (
	iops = "I/O per second"
	mibs = "MiB/s"
)

// figure is what one job measured.
type figure struct {
	rate      float64       // in the job's unit
	cpuPerIO  time.Duration // of the server
	latency99 time.Duration
}

// run measures one job on one server.
func (b *setup) run(ctx context.Context, s *server, j job) (figure, error) {
	syscall.Sync() // let no job pay for the dirty pages of the one before
	before, err := s.cpu()
	if err != nil {
		return figure{}, err
	}
	out, err := b.fio(ctx, s, j)
	if err != nil {
		return figure{}, err
	}
	after, err := s.cpu()
	if err != nil {
		return figure{}, err
	}
	f, ios, err := parseFio(out, j.unit)
	if err != nil {
		return figure{}, fmt.Errorf("%s, %s: %w", s.name, j.name, err)
	}
	f.cpuPerIO = (after - before) / time.Duration(ios)
	return f, nil
}

// fio runs one job on one server and returns the report.
func (b *setup) fio(ctx context.Context, s *server, j job) ([]byte, error) {
	args := append([]string{
		"--name=bench", fmt.Sprintf("--size=%d", b.sizeBytes), "--output-format=json", "--randrepeat=0",
	}, append(s.client(), j.args...)...)
	cmd := exec.CommandContext(ctx, "fio", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it still reports
	cmd.WaitDelay = 10 * time.Second
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s, %s: fio: %w\n%s%s", s.name, j.name, err, out, stderr.String())
	}
	return out, nil
}

// parseFio reads fio's report of a job that only reads or only writes, and
// returns the number of its requests beside the figures.
func parseFio(report []byte, unit string) (figure, int64, error) {
	type direction struct {
		IOPS     float64 `json:"iops"`
		Bytes    float64 `json:"bw_bytes"`
		TotalIOs int64   `json:"total_ios"`
		Latency  struct {
			Percentile map[string]int64 `json:"percentile"`
		} `json:"clat_ns"`
	}
	var parsed struct {
		Jobs []struct {
			Error int       `json:"error"`
			Read  direction `json:"read"`
			Write direction `json:"write"`
		} `json:"jobs"`
	}
	// fio writes its warnings in front of the report.
	text := string(report)
	if err := json.Unmarshal([]byte(text[max(0, strings.Index(text, "{")):]), &parsed); err != nil {
		return figure{}, 0, fmt.Errorf("fio's report: %w", err)
	}
	if len(parsed.Jobs) != 1 || parsed.Jobs[0].Error != 0 {
		return figure{}, 0, fmt.Errorf("fio's report has no single job without an error: %s", text)
	}
	d := parsed.Jobs[0].Read
	if w := parsed.Jobs[0].Write; w.TotalIOs > 0 {
		d = w
	}
	if d.TotalIOs == 0 {
		return figure{}, 0, fmt.Errorf("fio's report counts no request")
	}
	f := figure{rate: d.IOPS, latency99: time.Duration(d.Latency.Percentile["99.000000"])}
	if unit == mibs {
		f.rate = d.Bytes / (1 << 20)
	}
	return f, d.TotalIOs, nil
}
