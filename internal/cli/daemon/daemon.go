package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/rowan-storage/rowan/internal/appliance"
	"github.com/rowan-storage/rowan/internal/config"
)

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
	exitInUse  = 11
)

// usageError is about flags or configuration.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// Main runs the daemon until it is told to stop and returns its exit code.
func Main(args []string, stdout, stderr io.Writer, version string) int {
	// What the daemon makes is nobody else's business; sockets are opened to
	// the group one by one.
	syscall.Umask(0o077)
	cmd := command(stdout, stderr, version)
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.Execute()
	if err == nil {
		return exitDone
	}
	fmt.Fprintf(stderr, "rowand: %v\n", err)
	var usage *usageError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, appliance.ErrPoolInUse):
		return exitInUse
	}
	return exitFailed
}

// flags are what the command line can set.
type flags struct {
	config    string
	checkOnly bool

	pool, api                    string
	nbd                          []string
	nbdAllowPlaintext            bool
	tlsCert, tlsKey, tlsClientCA string
	logLevel, logFormat          string
	scrubRate, mapMemory         string
	stopTimeout                  string
}

func command(stdout, stderr io.Writer, version string) *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "rowand",
		Short: "The daemon of a Rowan appliance",
		Long: "rowand serves the LUNs of a pool, a directory on any Linux filesystem, over NBD, and their\n" +
			"management over a unix socket. Settings come from " + config.DefaultFile + ", then from the files\n" +
			"conf.d/*.toml beside it, then from flags.",
		Example:       "  rowand --pool /srv/rowan --api /run/rowan/api.sock --nbd unix:/run/rowan/nbd.sock --nbd 127.0.0.1:10809",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &usageError{fmt.Errorf("it takes no argument, but %q was given; --help shows the flags", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.load(cmd)
			if err != nil {
				return &usageError{err}
			}
			if f.checkOnly {
				fmt.Fprintln(stdout, "The configuration is valid.")
				return nil
			}
			return run(c, stderr, version)
		},
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	cmd.SetVersionTemplate("rowand {{.Version}}\n")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return &usageError{fmt.Errorf("%w; --help shows the flags", err)}
	})
	f.register(cmd)
	return cmd
}

func (f *flags) register(cmd *cobra.Command) {
	d := config.Default()
	p := cmd.Flags()
	p.StringVar(&f.config, "config", "", "configuration file (default "+config.DefaultFile+", if there is one)")
	p.BoolVar(&f.checkOnly, "check-config", false, "check the configuration and end")
	p.StringVar(&f.pool, "pool", d.Pool, "directory of the pool; made into an empty one if it is new or empty")
	p.StringVar(&f.api, "api", d.API, "unix socket of the API")
	p.StringArrayVar(&f.nbd, "nbd", nil, "address to serve NBD on: unix:PATH or HOST:PORT; repeatable (default nbd.sock beside the API's socket)")
	p.BoolVar(&f.nbdAllowPlaintext, "nbd-allow-plaintext", false, "allow NBD without TLS on addresses that other machines reach")
	p.StringVar(&f.tlsCert, "nbd-tls-cert", "", "PEM file of the certificate for NBD over TLS")
	p.StringVar(&f.tlsKey, "nbd-tls-key", "", "PEM file of its private key, mode 0600")
	p.StringVar(&f.tlsClientCA, "nbd-tls-client-ca", "", "PEM file of the authorities that sign clients' certificates")
	p.StringVar(&f.logLevel, "log-level", "info", "lowest level to log: debug, info, warn or error")
	p.StringVar(&f.logFormat, "log-format", "text", "form of the log: text or json")
	p.StringVar(&f.scrubRate, "scrub-rate", "64M", "bytes per second that scrubs, and the making of checksums, each read at most, or unlimited")
	p.StringVar(&f.mapMemory, "map-memory", "auto", "bytes of memory that the maps of all LUNs and snapshots may take, auto (a sixteenth of the machine's) or unlimited")
	p.StringVar(&f.stopTimeout, "stop-timeout", d.StopTimeout.String(), "how long a clean stop waits for requests in flight")
}

// load reads the files, then applies the flags that were given.
func (f *flags) load(cmd *cobra.Command) (config.Config, error) {
	c, err := config.Load(f.config)
	given := func(name string, value *string) *string {
		if cmd.Flags().Changed(name) {
			return value
		}
		return nil
	}
	o := config.Overrides{
		Pool: given("pool", &f.pool), API: given("api", &f.api), NBD: f.nbd,
		NBDTLSCert: given("nbd-tls-cert", &f.tlsCert), NBDTLSKey: given("nbd-tls-key", &f.tlsKey),
		NBDTLSClientCA: given("nbd-tls-client-ca", &f.tlsClientCA),
		LogLevel:       given("log-level", &f.logLevel), LogFormat: given("log-format", &f.logFormat),
		ScrubRate:   given("scrub-rate", &f.scrubRate),
		MapMemory:   given("map-memory", &f.mapMemory),
		StopTimeout: given("stop-timeout", &f.stopTimeout),
	}
	if cmd.Flags().Changed("nbd-allow-plaintext") {
		o.NBDAllowPlaintext = &f.nbdAllowPlaintext
	}
	if err := errors.Join(err, c.Override(o)); err != nil {
		return c, err
	}
	return c, c.Finish()
}

// run serves until a signal comes.
func run(c config.Config, stderr io.Writer, version string) error {
	log := logger(c, stderr)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 2)
	// Never undone: a second signal must not kill a process about to exit.
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		signal.Notify(signals, syscall.SIGHUP)
	}
	go func() {
		s := <-signals
		log.Info("stopping", "signal", s.String())
		cancel()
		// A terminal that is closed may send several of these.
		for s = <-signals; s == syscall.SIGHUP; s = <-signals {
		}
		log.Warn("stopping at once", "signal", s.String())
		os.Exit(exitFailed)
	}()
	return appliance.Run(ctx, c, version, log)
}

func logger(c config.Config, stderr io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(stderr, o))
	}
	return slog.New(slog.NewTextHandler(stderr, o))
}
