package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rowan-storage/rowan/internal/httpapi/client"
	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

// stall is how long the slowest request took while a snapshot was made under
// load, for each of many, and in as many windows without one for comparison.
type stall struct {
	sizeBytes int64
	during    []time.Duration
	without   []time.Duration
}

func (s stall) size() string {
	if s.sizeBytes >= 1<<40 {
		return fmt.Sprintf("%d TiB", s.sizeBytes>>40)
	}
	return fmt.Sprintf("%d GiB", s.sizeBytes>>30)
}

// beside is a percentile of the windows with a snapshot.
func (s stall) beside(percent int) time.Duration { return percentile(s.during, percent) }

func percentile(d []time.Duration, percent int) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[(len(d)-1)*percent/100]
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

const (
	// stallJob is the name that -only selects the measurement by.
	stallJob = "stall by a snapshot"
	// stallEvery is how often a snapshot is made.
	stallEvery = 50 * time.Millisecond
	// stallRegion is the part of the LUN that is written meanwhile.
	stallRegion = 1 << 30
	// scatteredBytes is what is written at random places all over the LUN first.
	scatteredBytes = 256 << 20
)

// stalls measures what snapshots do to a LUN of 1 GiB and to one of 100 TiB.
func (b *setup) stalls(ctx context.Context, o options, t *table) error {
	if o.snapshots == 0 || !o.selects(stallJob) {
		return nil
	}
	for _, bytes := range []int64{1 << 30, 100 << 40} {
		s, err := b.stall(ctx, bytes, o.snapshots)
		if err != nil {
			return err
		}
		t.stalls = append(t.stalls, s)
		progress("%s, %s: %.1f ms", stallJob, s.size(), millis(s.beside(99)))
	}
	return nil
}

// stall makes snapshots of a new LUN while fio writes to it.
func (b *setup) stall(ctx context.Context, bytes int64, snapshots int) (out stall, err error) {
	out.sizeBytes = bytes
	if err := b.api(ctx, "lun", "create", "stall", "--size", strconv.FormatInt(bytes, 10)); err != nil {
		return out, err
	}
	defer func() {
		// Interrupted or not, the LUN has to go.
		err = errors.Join(err, b.api(context.WithoutCancel(ctx), "lun", "delete", "stall", "--with-snapshots", "--yes"))
	}()
	s := *b.ours
	s.export = "stall"
	scatter := job{name: "scatter", unit: iops, args: []string{
		"--rw=randwrite", "--bs=4k", "--iodepth=32", "--norandommap", "--end_fsync=1", fmt.Sprintf("--size=%d", bytes),
		fmt.Sprintf("--io_size=%d", scatteredBytes),
	}}
	if _, err := b.run(ctx, &s, scatter); err != nil {
		return out, err
	}
	taken := make(chan error, 1)
	loaded, stop := context.WithCancel(ctx)
	defer stop()
	var windows, between []window
	go func() {
		defer stop()
		windows, between, err = b.snapshotsUnderLoad(ctx, snapshots)
		taken <- err
	}()
	requests, err := b.slowest(loaded, &s)
	if err := errors.Join(<-taken, err); err != nil {
		return out, err
	}
	out.during, out.without = slowestIn(requests, windows), slowestIn(requests, between)
	if len(out.during) < snapshots/2 || len(out.without) < snapshots/2 {
		return out, fmt.Errorf("%s: fio reports requests beside %d of %d snapshots only", stallJob, len(out.during), snapshots)
	}
	return out, nil
}

// window is a span of time.
type window struct{ from, to time.Time }

// snapshotsUnderLoad makes snapshots, and returns when each was made, and spans
// between them of the same length.
func (b *setup) snapshotsUnderLoad(ctx context.Context, n int) (during, between []window, err error) {
	api := client.New(b.path("api.sock"))
	defer api.Close()
	rest := func() error {
		select {
		case <-time.After(stallEvery / 2):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	time.Sleep(time.Second) // until fio is at it
	for i := range n {
		began := time.Now()
		item := wire.SnapshotItem{LUN: "stall", Name: fmt.Sprint("s", i)}
		if _, err := api.CreateSnapshots(ctx, wire.CreateSnapshots{Items: []wire.SnapshotItem{item}}); err != nil {
			return nil, nil, err
		}
		ended := time.Now()
		during = append(during, window{began, ended})
		if err := rest(); err != nil {
			return nil, nil, err
		}
		now := time.Now()
		between = append(between, window{now, now.Add(ended.Sub(began))})
		if err := rest(); err != nil {
			return nil, nil, err
		}
	}
	return during, between, nil
}

// slow is the slowest request that ended in the millisecond before a moment.
type slow struct {
	at   time.Time
	took time.Duration
}

// slowest writes to the LUN until ctx ends, and returns how long the slowest
// request of each millisecond took.
func (b *setup) slowest(ctx context.Context, s *server) ([]slow, error) {
	prefix := b.path("stall")
	load := job{name: stallJob, unit: iops, args: []string{
		"--rw=randwrite", "--bs=4k", "--iodepth=32", fmt.Sprintf("--size=%d", stallRegion),
		"--time_based", "--runtime=1h", "--write_lat_log=" + prefix,
		"--log_avg_msec=1", "--log_max_value=1", "--log_unix_epoch=1",
	}}
	if _, err := b.fio(ctx, s, load); err != nil && ctx.Err() == nil {
		return nil, err
	}
	return readLatencies(prefix + "_lat.1.log")
}

// readLatencies reads a log of fio's: milliseconds since 1970, nanoseconds, and
// more.
func readLatencies(path string) ([]slow, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []slow
	for lines := bufio.NewScanner(f); ; {
		if !lines.Scan() {
			return out, lines.Err()
		}
		fields := strings.SplitN(lines.Text(), ",", 3)
		if len(fields) < 3 {
			return nil, fmt.Errorf("%s: the line %q is cut short", path, lines.Text())
		}
		at, err1 := strconv.ParseInt(strings.TrimSpace(fields[0]), 10, 64)
		took, err2 := strconv.ParseInt(strings.TrimSpace(fields[1]), 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, slow{time.UnixMilli(at), time.Duration(took)})
	}
}

// slowestIn returns for each window how long the longest request took that was
// under way in it. Windows in which none was are left out.
func slowestIn(requests []slow, windows []window) []time.Duration {
	const longestOfAll = time.Second
	var out []time.Duration
	for _, w := range windows {
		from, _ := slices.BinarySearchFunc(requests, w.from, func(r slow, at time.Time) int { return r.at.Compare(at) })
		var longest time.Duration
		for _, r := range requests[from:] {
			if r.at.After(w.to.Add(longestOfAll)) {
				break
			}
			if r.at.Add(-r.took).Before(w.to) {
				longest = max(longest, r.took)
			}
		}
		if longest > 0 {
			out = append(out, longest)
		}
	}
	return out
}

// renderStalls writes the table of stalls, if there is any.
func (t *table) renderStalls() string {
	if len(t.stalls) == 0 {
		return ""
	}
	var s strings.Builder
	fmt.Fprintf(&s, "\nThe slowest request of 4 KiB random writes at depth 32 while a snapshot is made, in ms:\n\n")
	fmt.Fprintf(&s, "| LUN | snapshots | median | 99th percentile | longest | without a snapshot: median | 99th percentile | longest |\n")
	fmt.Fprintf(&s, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	for _, st := range t.stalls {
		fmt.Fprintf(&s, "| %s | %d", st.size(), len(st.during))
		for _, d := range [][]time.Duration{st.during, st.without} {
			fmt.Fprintf(&s, " | %.2f | %.2f | %.2f", millis(percentile(d, 50)), millis(percentile(d, 99)), millis(percentile(d, 100)))
		}
		fmt.Fprintf(&s, " |\n")
	}
	return s.String()
}
