package main

import (
	"context"
	"encoding/json"
	"fmt"
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

// jobs returns the jobs that run for a time on a filled LUN.
func jobs(runtime time.Duration) []job {
	timed := func(args ...string) []string {
		return append(args, "--time_based", fmt.Sprintf("--runtime=%dms", runtime.Milliseconds()))
	}
	return []job{
		{"4 KiB random read, depth 32", iops, timed("--rw=randread", "--bs=4k", "--iodepth=32")},
		{"4 KiB random write, depth 32", iops, timed("--rw=randwrite", "--bs=4k", "--iodepth=32")},
		{"1 MiB sequential read, depth 8", mibs, timed("--rw=read", "--bs=1m", "--iodepth=8")},
		{"1 MiB sequential write, depth 8", mibs, timed("--rw=write", "--bs=1m", "--iodepth=8")},
	}
}

// fill writes every block once.
func fill() job {
	return job{name: "fill", unit: mibs, args: []string{"--rw=write", "--bs=1m", "--iodepth=8"}}
}

// firstWrites writes some of the blocks, each once, in an order that differs
// from round to round.
func firstWrites(bytes int64, round int) job {
	return job{
		name: "4 KiB random write, each block once, depth 32",
		unit: iops,
		args: []string{
			"--rw=randwrite", "--bs=4k", "--iodepth=32", "--norandommap=0",
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
	args := append([]string{
		"--name=bench", "--ioengine=nbd", "--uri=" + s.uri(), fmt.Sprintf("--size=%d", b.sizeBytes),
		"--output-format=json", "--randrepeat=0",
	}, j.args...)
	cmd := exec.CommandContext(ctx, "fio", args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return figure{}, fmt.Errorf("%s, %s: fio: %w\n%s%s", s.name, j.name, err, out, stderr.String())
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
