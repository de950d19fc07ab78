package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rowan-storage/rowan/internal/httpapi/client"
)

// DefaultAPI is the socket that is asked if no other is named.
const DefaultAPI = "/run/rowan/api.sock"

// apiVariable names the environment variable that stands in for --api.
const apiVariable = "ROWAN_API"

// Env is the world that a command runs in.
type Env struct {
	Args    []string // without the program's name
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Getenv  func(string) string
	Version string
	// Interrupt carries SIGINT and SIGTERM. The first ends the context of a
	// command that has nothing better to do with it.
	Interrupt <-chan os.Signal
	// Release, if not nil, is called when the first signal has ended the
	// context: further ones are to kill the process.
	Release func()
}

// app is one run of the program.
type app struct {
	env    Env
	stdin  *bufio.Reader
	socket string // --api
	output string // --output
	quiet  bool   // --quiet

	// interrupts carries signals to a command that asked for them.
	interrupts      chan struct{}
	wantsInterrupts atomic.Bool
	cancel          context.CancelFunc

	// started tells that the arguments were understood and the command began.
	started bool
	api     *client.Client
}

// Main runs the program in its process and returns its exit code.
func Main(args []string, version string) int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	return Run(context.Background(), Env{
		Args: args, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.Getenv, Version: version, Interrupt: signals,
		Release: func() { signal.Stop(signals) },
	})
}

// Run runs the program and returns its exit code. When ctx ends the command
// stops as soon as it can.
func Run(ctx context.Context, env Env) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := &app{env: env, stdin: bufio.NewReader(env.Stdin), cancel: cancel, interrupts: make(chan struct{})}
	go a.watchSignals(ctx)
	root := a.root()
	root.SetArgs(env.Args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	err := root.ExecuteContext(ctx)
	if a.api != nil {
		a.api.Close()
	}
	if err == nil {
		return ExitDone
	}
	if ctx.Err() != nil && !errors.Is(err, context.Canceled) {
		err = ctx.Err() // what failed did so because of that
	}
	if !a.started && !errors.As(err, new(*Error)) {
		// What cobra itself says of the arguments.
		err = &Error{Code: ExitUsage, Err: err}
	}
	a.report(err)
	return exitCode(err)
}

// watchSignals hands signals on until ctx ends.
func (a *app) watchSignals(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.env.Interrupt:
		}
		if !a.wantsInterrupts.Load() {
			a.cancel()
			if a.env.Release != nil {
				a.env.Release()
			}
			return
		}
		select {
		case a.interrupts <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
}

// interrupted returns a channel that signals come over from now on, instead of
// ending the command's context.
func (a *app) interrupted() <-chan struct{} {
	a.wantsInterrupts.Store(true)
	return a.interrupts
}

// report tells a person what went wrong and what to do next.
func (a *app) report(err error) {
	what, next := explain(err)
	fmt.Fprintf(a.env.Stderr, "rowan: %s\n", printableLines(what))
	if next == "" && !a.started {
		next = "Add --help to the command to see how it is called."
	}
	if next != "" {
		fmt.Fprintln(a.env.Stderr, next)
	}
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "rowan",
		Short: "LUNs and snapshots of a Rowan appliance",
		Long: "rowan manages the LUNs and snapshots of a Rowan appliance, walks into snapshots and\n" +
			"attaches LUNs to this host. It speaks to the daemon rowand over a unix socket.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       a.env.Version,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkFlags(); err != nil {
				return err
			}
			a.started = true
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Args: noArgs,
	}
	root.SetVersionTemplate("rowan {{.Version}}\n")
	flags := root.PersistentFlags()
	flags.StringVar(&a.socket, "api", "", "socket of the appliance's API (default $"+apiVariable+" or "+DefaultAPI+")")
	flags.StringVarP(&a.output, "output", "o", "table", "form of the output: table, json or yaml")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "print names only")
	// The values are fixed, so registering cannot fail.
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	root.AddGroup(
		&cobra.Group{ID: "store", Title: "LUNs and snapshots:"},
		&cobra.Group{ID: "use", Title: "Using them on this host:"},
		&cobra.Group{ID: "appliance", Title: "The appliance:"},
	)
	root.SetHelpCommandGroupID("appliance")
	root.SetCompletionCommandGroupID("appliance")
	add := func(id string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	add("store", a.lunCommand(), a.snapshotCommand())
	add("use", a.filesCommand(), a.mountCommand(), a.attachCommand(), a.detachCommand())
	add("appliance", a.statusCommand(), a.scrubCommand(), a.checkCommand(), a.versionCommand(), a.configCommand())
	return root
}

// group makes a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("%s wants one of: %s", pathOf(cmd), names(cmd))
			}
			return usagef("there is no %s %s: %s has %s", pathOf(cmd), args[0], pathOf(cmd), names(cmd))
		},
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	c.AddCommand(commands...)
	return c
}

// pathOf is the command's path without the program's name, which begins every
// message as it is.
func pathOf(cmd *cobra.Command) string {
	return strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
}

// names lists the commands in a group.
func names(cmd *cobra.Command) string {
	var list []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			list = append(list, c.Name())
		}
	}
	return strings.Join(list, ", ")
}

// noArgs refuses arguments.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !cmd.HasParent() {
		return usagef("there is no command %q: %s has %s", args[0], cmd.Name(), names(cmd))
	}
	return usagef("%s takes no argument, but %q was given", pathOf(cmd), args[0])
}

// wantArgs asks for the named arguments. One in brackets may be left out, and
// one ending in dots may be repeated.
func wantArgs(wanted ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		for i, name := range wanted {
			if i >= len(args) && !strings.HasPrefix(name, "[") {
				return usagef("%s: %s is missing", pathOf(cmd), strings.TrimSuffix(name, "…"))
			}
		}
		repeats := len(wanted) > 0 && strings.Contains(wanted[len(wanted)-1], "…")
		if len(args) > len(wanted) && !repeats {
			return usagef("%s: one argument too many: %q", pathOf(cmd), args[len(wanted)])
		}
		return nil
	}
}

func (a *app) checkFlags() error {
	switch a.output {
	case "table", "json", "yaml":
	default:
		return usagef("--output %s: it can be table, json or yaml", a.output)
	}
	if a.quiet && a.output != "table" {
		return usagef("--quiet and --output %s exclude each other", a.output)
	}
	return nil
}

// client returns the client of the appliance that was named.
func (a *app) client() *client.Client {
	if a.api == nil {
		a.api = client.New(a.apiSocket())
	}
	return a.api
}

// apiSocket is the absolute path of the socket that was named.
func (a *app) apiSocket() string {
	socket := a.socket
	if socket == "" {
		socket = a.env.Getenv(apiVariable)
	}
	if socket == "" {
		socket = DefaultAPI
	}
	if full, err := filepath.Abs(socket); err == nil {
		return full
	}
	return socket
}

// isTerminal tells whether f is a terminal.
func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
