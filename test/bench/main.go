package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

// The names of what is measured, as the table shows them.
const (
	rowand       = "rowand"
	nbdkit       = "nbdkit file"
	qemuNBD      = "qemu-nbd raw"
	overlayQCOW2 = "qcow2 overlay, 64 KiB clusters"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are what the command line says.
type options struct {
	rounds     int
	runtime    time.Duration
	sizeBytes  int64
	firstBytes int64
	dir        string
	bin        string
	doc        string
	only       *regexp.Regexp
	peersOnly  bool
}

func parse(args []string) (options, error) {
	var o options
	var sizeMiB, firstMiB int64
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&o.rounds, "rounds", 5, "how often each figure is measured")
	flags.DurationVar(&o.runtime, "runtime", 5*time.Second, "how long each timed job runs")
	flags.Int64Var(&sizeMiB, "size", 4096, "size of the LUN and files, in MiB")
	flags.Int64Var(&firstMiB, "first", 128, "how much is written after a snapshot, in MiB")
	flags.StringVar(&o.dir, "dir", os.TempDir(), "a directory on the filesystem to measure on")
	flags.StringVar(&o.bin, "bin", "bin", "the folder of rowand and rowan")
	flags.StringVar(&o.doc, "doc", "docs/benchmarks.md", "the page whose table is written; none if empty")
	flags.Func("only", "measure only the jobs whose names match this regular expression, and write no page", func(text string) (err error) {
		o.only, err = regexp.Compile(text)
		return err
	})
	flags.BoolVar(&o.peersOnly, "peers-only", false, "leave rowand out and write no page")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.sizeBytes, o.firstBytes = sizeMiB<<20, firstMiB<<20
	if flags.NArg() > 0 || o.rounds < 1 || o.runtime <= 0 || sizeMiB < 1 || firstMiB < 1 || firstMiB > sizeMiB {
		return o, errors.New("bad arguments, see -help")
	}
	return o, nil
}

// selects tells whether a job is to be measured.
func (o *options) selects(j job) bool { return o.only == nil || o.only.MatchString(j.name) }

func bench(ctx context.Context, args []string) (err error) {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "rowan-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &setup{
		dir:       dir,
		sizeBytes: o.sizeBytes,
		rowand:    filepath.Join(o.bin, "rowand"),
		rowan:     filepath.Join(o.bin, "rowan"),
	}

	starts := []func(context.Context) (*server, error){b.startRowand, b.startNBDKit, b.startQEMU}
	if o.peersOnly {
		starts = starts[1:]
	}
	var servers []*server
	for _, begin := range starts {
		s, err := begin(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.stop()) }()
		servers = append(servers, s)
		progress("filling %s", s.name)
		if _, err := b.run(ctx, s, fill()); err != nil {
			return err
		}
	}

	t := newTable()
	for round := range o.rounds {
		if err := b.round(ctx, o, servers, round, t); err != nil {
			return err
		}
	}
	text := t.render(o, facts(dir))
	fmt.Println(text)
	if o.peersOnly || o.only != nil || o.doc == "" {
		return nil
	}
	return writePage(o.doc, text)
}

// round measures everything once.
func (b *setup) round(ctx context.Context, o options, servers []*server, round int, t *table) error {
	for _, j := range jobs(o.runtime) {
		if !o.selects(j) {
			continue
		}
		for i := range servers {
			s := servers[(i+round)%len(servers)] // each is first in its turn
			f, err := b.run(ctx, s, j)
			if err != nil {
				return err
			}
			progress("round %d: %s: %s: %.0f %s", round+1, j.name, s.name, f.rate, j.unit)
			t.add(j, s.name, f)
		}
	}
	first := firstWrites(o.firstBytes, round)
	if !o.selects(first) {
		return nil
	}
	return b.firstWriteRound(ctx, servers, first, round, t)
}

// firstWriteRound measures the same writes on every server as it is, on our
// LUN after a snapshot, which is then deleted, and on a new qcow2 overlay.
func (b *setup) firstWriteRound(ctx context.Context, servers []*server, first job, round int, t *table) error {
	before, after := first, first
	before.name += ", before the snapshot"
	after.name += ", after the snapshot"
	measure := func(j job, s *server) error {
		f, err := b.run(ctx, s, j)
		if err != nil {
			return err
		}
		progress("round %d: %s: %s: %.0f %s", round+1, j.name, s.name, f.rate, j.unit)
		t.add(j, s.name, f)
		return nil
	}
	for _, s := range servers {
		if err := measure(before, s); err != nil {
			return err
		}
		if s.name != rowand {
			continue
		}
		if err := b.api(ctx, "snapshot", "create", "bench@round"); err != nil {
			return err
		}
		if err := measure(after, s); err != nil {
			return err
		}
		if err := b.api(ctx, "snapshot", "delete", "bench@round", "--yes"); err != nil {
			return err
		}
	}
	overlay, err := b.startOverlay(ctx)
	if err != nil {
		return err
	}
	return errors.Join(measure(after, overlay), overlay.stop())
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}
