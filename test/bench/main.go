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
	"strings"
	"syscall"
	"time"

	"github.com/rowan-storage/rowan/test/page"
)

// The names of what is measured, as the table shows them.
const (
	rowand  = "rowand"
	nbdkit  = "nbdkit file"
	qemuNBD = "qemu-nbd raw"
	direct  = "no server: io_uring on the file"

	overlayQCOW2      = "qcow2 overlay, 64 KiB clusters"
	overlayExtendedL2 = "qcow2 overlay, extended L2"
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
	snapshots  int
	dir        string
	images     []string
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
	flags.IntVar(&o.snapshots, "snapshots", 1000, "how many snapshots are made under load")
	flags.StringVar(&o.dir, "dir", os.TempDir(), "a directory on the filesystem to measure on")
	flags.Func("images", "measure on these filesystems, in images that a loop device shows, such as ext4,xfs: needs root", func(text string) error {
		o.images = strings.Split(text, ",")
		return nil
	})
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
	if flags.NArg() > 0 || o.rounds < 1 || o.runtime <= 0 || sizeMiB < 1 || firstMiB < 1 || firstMiB > sizeMiB || o.snapshots < 0 {
		return o, errors.New("bad arguments, see -help")
	}
	return o, nil
}

// selects tells whether what has a name is to be measured.
func (o *options) selects(name string) bool { return o.only == nil || o.only.MatchString(name) }

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
	text := introduction(o)
	if len(o.images) == 0 {
		section, err := measure(ctx, o, dir)
		if err != nil {
			return err
		}
		text += section
	}
	for _, fs := range o.images {
		at, unmount, err := mountImage(ctx, o, dir, fs)
		if err != nil {
			return err
		}
		section, err := measure(ctx, o, at)
		if err := errors.Join(err, unmount()); err != nil {
			return err
		}
		text += section
	}
	fmt.Println(text)
	if o.peersOnly || o.only != nil || o.doc == "" {
		return nil
	}
	return page.Write(o.doc, "make bench", text)
}

// measure measures everything on the filesystem of an empty directory, and
// returns that part of the page. It leaves the directory empty.
func measure(ctx context.Context, o options, dir string) (section string, err error) {
	dir, err = os.MkdirTemp(dir, "pool-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &setup{
		dir:       dir,
		sizeBytes: o.sizeBytes,
		rowand:    filepath.Join(o.bin, "rowand"),
		rowan:     filepath.Join(o.bin, "rowan"),
	}
	starts := []func(context.Context) (*server, error){b.startRowand, b.startNBDKit, b.startQEMU, b.direct}
	if o.peersOnly {
		starts = starts[1:]
	}
	var servers []*server
	for _, begin := range starts {
		s, err := begin(ctx)
		if err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, s.stop()) }()
		servers = append(servers, s)
		progress("filling %s", s.name)
		if _, err := b.run(ctx, s, fill()); err != nil {
			return "", err
		}
	}
	t := newTable()
	for round := range o.rounds {
		if err := b.round(ctx, o, servers, round, t); err != nil {
			return "", err
		}
	}
	if !o.peersOnly {
		if err := b.stalls(ctx, o, t); err != nil {
			return "", err
		}
	}
	return t.render(filesystem(dir)), nil
}

// round measures everything once, but the stalls.
func (b *setup) round(ctx context.Context, o options, servers []*server, round int, t *table) error {
	for _, j := range jobs(o.runtime) {
		if !o.selects(j.name) {
			continue
		}
		for i := range servers {
			s := servers[(i+round)%len(servers)] // each is first in its turn
			if err := b.add(ctx, s, j, round, t); err != nil {
				return err
			}
		}
	}
	for _, j := range append(flushedJobs(o.runtime), firstWrites(o.firstBytes, round)) {
		if !o.selects(j.name) {
			continue
		}
		if err := b.snapshotRound(ctx, servers, j, round, t); err != nil {
			return err
		}
	}
	return nil
}

// add measures a job on a server and puts it on the table.
func (b *setup) add(ctx context.Context, s *server, j job, round int, t *table) error {
	f, err := b.run(ctx, s, j)
	if err != nil {
		return err
	}
	progress("round %d: %s: %s: %.0f %s", round+1, j.name, s.name, f.rate, j.unit)
	t.add(j, s.name, f)
	return nil
}

// What a job is called that runs on a LUN as it is, and once it has a snapshot.
const (
	beforeSnapshot = ", before a snapshot"
	afterSnapshot  = ", after a snapshot"
)

// snapshotRound measures the same writes on every server as it is, on our LUN
// after a snapshot, which is then deleted, and on new qcow2 overlays.
func (b *setup) snapshotRound(ctx context.Context, servers []*server, j job, round int, t *table) error {
	before, after := j, j
	before.name += beforeSnapshot
	after.name += afterSnapshot
	for i := range servers {
		s := servers[(i+round)%len(servers)]
		if err := b.add(ctx, s, before, round, t); err != nil {
			return err
		}
		if s.name != rowand {
			continue
		}
		if err := b.api(ctx, "snapshot", "create", "bench@round"); err != nil {
			return err
		}
		if err := b.add(ctx, s, after, round, t); err != nil {
			return err
		}
		if err := b.api(ctx, "snapshot", "delete", "bench@round", "--yes"); err != nil {
			return err
		}
	}
	for _, name := range []string{overlayQCOW2, overlayExtendedL2} {
		overlay, err := b.startOverlay(ctx, name)
		if err != nil {
			return err
		}
		if err := errors.Join(b.add(ctx, overlay, after, round, t), overlay.stop()); err != nil {
			return err
		}
	}
	return nil
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}
