package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/rowan-storage/rowan/blockdev"
	"github.com/rowan-storage/rowan/blockdev/blockfile"
	"github.com/rowan-storage/rowan/test/page"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

// options are what the command line says.
type options struct {
	dir, doc                string
	only                    *regexp.Regexp
	blocks, snapshots, luns int
	die                     string // pool that this process is to write to and to die on
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("scale", flag.ContinueOnError)
	flags.StringVar(&o.dir, "dir", os.TempDir(), "a directory on the filesystem to measure on")
	flags.StringVar(&o.doc, "doc", "docs/benchmarks.md", "the page whose figures are written; none if empty")
	flags.IntVar(&o.blocks, "blocks", 1_000_000, "random blocks of a LUN of 100 TiB")
	flags.IntVar(&o.snapshots, "snapshots", 2000, "snapshots of one LUN")
	flags.IntVar(&o.luns, "luns", 1000, "LUNs in one pool")
	flags.StringVar(&o.die, "die", "", "write to each LUN of a pool, then end without closing it")
	flags.Func("only", "measure only what matches this regular expression, and write no page", func(text string) (err error) {
		o.only, err = regexp.Compile(text)
		return err
	})
	err := flags.Parse(args)
	return o, err
}

// bench gathers figures.
type bench struct {
	ctx context.Context
	o   options
	dir string
	out strings.Builder
}

func run(ctx context.Context, args []string) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if o.die != "" {
		return die(o.die)
	}
	b := &bench{ctx: ctx, o: o}
	if b.dir, err = os.MkdirTemp(o.dir, "rowan-scale-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	for _, s := range []struct {
		name string
		run  func() error
	}{
		{"random", b.random}, {"sequential", b.sequential}, {"snapshots", b.snapshots}, {"luns", b.manyLUNs},
	} {
		if o.only != nil && !o.only.MatchString(s.name) {
			continue
		}
		if err := s.run(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	if o.only != nil || o.doc == "" {
		return nil
	}
	head := fmt.Sprintf("Measured on %s, with\n\n    go run ./test/scale -blocks %d -snapshots %d -luns %d\n\n%d cores, Linux, %s.\n\n| what | figure |\n| --- | ---: |\n",
		time.Now().UTC().Format(time.DateOnly), o.blocks, o.snapshots, o.luns, runtime.NumCPU(), runtime.Version())
	return page.Write(o.doc, "make bench-scale", head+b.out.String())
}

// row prints a figure and keeps it for the page.
func (b *bench) row(what, format string, args ...any) {
	figure := fmt.Sprintf(format, args...)
	fmt.Printf("%-70s %s\n", what, figure)
	fmt.Fprintf(&b.out, "| %s | %s |\n", what, figure)
}

// open opens a pool, of which what is written to LUNs is dropped.
func open(dir string, mapMemory int64) (*blockdev.Pool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return blockdev.Open(dir, blockdev.Options{FS: sparseFS{blockfile.OS(dir)}, MapMemoryBytes: mapMemory})
}

// heap returns the bytes in use after a garbage collection.
func heap() int64 {
	var s runtime.MemStats
	for range 3 { // cleanups run after the first
		runtime.GC()
		time.Sleep(10 * time.Millisecond)
	}
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

// openFiles returns how many files this process has open.
func openFiles() int {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	return len(names)
}

// timed returns how long fn took.
func timed(fn func() error) (time.Duration, error) {
	start := time.Now()
	err := fn()
	return time.Since(start), err
}

// die writes a block to each LUN of a pool and kills this process.
func die(dir string) error {
	p, err := open(dir, 0)
	if err != nil {
		return err
	}
	luns, err := p.LUNs()
	if err != nil {
		return err
	}
	for _, l := range luns {
		v, err := p.OpenLUN(l.Name, "scale")
		if err != nil {
			return err
		}
		if _, err := v.WriteAt(make([]byte, blockdev.BlockSize), 5*blockdev.BlockSize); err != nil {
			return err
		}
	}
	return syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

// kill has another process write to the pool and be killed.
func (b *bench) kill(dir string) error {
	cmd := exec.CommandContext(b.ctx, "/proc/self/exe", "-die", dir)
	cmd.Stderr = os.Stderr
	err := cmd.Run()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGKILL {
		return nil
	}
	return fmt.Errorf("the process to be killed ended otherwise: %v", err)
}
