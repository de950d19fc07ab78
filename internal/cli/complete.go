package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// completeTimeout bounds how long the shell waits for names.
const completeTimeout = time.Second

// completer offers words for an argument.
type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// completeLUNs offers the names of LUNs for the first count arguments.
func (a *app) completeLUNs(count int) completer {
	return a.complete(count, func(ctx context.Context, _ string) []string { return a.lunNames(ctx) })
}

// completeSnapshots offers snapshots as LUN@NAME for the first count arguments.
func (a *app) completeSnapshots(count int) completer {
	return a.complete(count, func(ctx context.Context, typed string) []string { return a.snapshotNames(ctx, typed) })
}

// completeBoth offers LUNs, and snapshots once an @ is typed.
func (a *app) completeBoth(count int) completer {
	return a.complete(count, func(ctx context.Context, typed string) []string {
		if strings.Contains(typed, "@") {
			return a.snapshotNames(ctx, typed)
		}
		return a.lunNames(ctx)
	})
}

func (a *app) complete(count int, list func(context.Context, string) []string) completer {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= count {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
		defer cancel()
		var fit []string
		for _, name := range list(ctx, typed) {
			if strings.HasPrefix(name, typed) {
				fit = append(fit, name)
			}
		}
		return fit, cobra.ShellCompDirectiveNoFileComp
	}
}

// lunNames lists the LUNs, none if the appliance does not answer.
func (a *app) lunNames(ctx context.Context) []string {
	luns, err := a.client().LUNs(ctx)
	if err != nil {
		return nil
	}
	var list []string
	for _, l := range luns {
		list = append(list, l.Name)
	}
	return list
}

// snapshotNames lists the snapshots, of one LUN if its name is already typed.
func (a *app) snapshotNames(ctx context.Context, typed string) []string {
	lun, _, found := strings.Cut(typed, "@")
	if !found {
		lun = ""
	}
	snapshots, err := a.client().Snapshots(ctx, lun)
	if err != nil {
		return nil
	}
	var list []string
	for _, s := range snapshots {
		list = append(list, s.Ref())
	}
	return list
}
