package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// care is how a command that destroys something asks first.
type care struct {
	yes    bool
	dryRun bool
}

func (c *care) addFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&c.yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&c.dryRun, "dry-run", false, "only say what would be done")
}

// check refuses to begin what could neither be confirmed nor goes without.
func (a *app) check(c care) error {
	if c.yes || c.dryRun || isTerminal(a.env.Stdin) {
		return nil
	}
	return &Error{
		Code: ExitUsage,
		Err:  errors.New("nobody can be asked, since standard input is not a terminal, and nothing was done"),
		Hint: "Give --yes to do it without being asked, or --dry-run to see what would be done.",
	}
}

// confirm asks for name to be typed back. what says in a sentence what is about
// to happen. It returns nil only if the answer was name or --yes was given.
func (a *app) confirm(ctx context.Context, c care, what, name string) error {
	if c.yes {
		return nil
	}
	fmt.Fprintf(a.env.Stderr, "%s\nType %s to go on: ", what, name)
	line, err := a.readLine(ctx)
	if ctx.Err() != nil {
		fmt.Fprintln(a.env.Stderr)
		return ctx.Err()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if strings.TrimSpace(line) != name {
		return &Error{Code: ExitFailed, Err: fmt.Errorf("that is not %s, and nothing was done", name)}
	}
	return nil
}

// readLine reads a line of standard input. When ctx ends first, the goroutine
// that reads is left behind: nothing can end it, and the program is about to.
func (a *app) readLine(ctx context.Context) (string, error) {
	type answer struct {
		line string
		err  error
	}
	read := make(chan answer, 1)
	go func() {
		line, err := a.stdin.ReadString('\n')
		read <- answer{line, err}
	}()
	select {
	case r := <-read:
		return r.line, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
