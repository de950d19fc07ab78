package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

func (a *app) lunCommand() *cobra.Command {
	return group("lun", "Create, list, change and delete LUNs",
		a.lunCreate(), a.lunList(), a.lunShow(), a.lunResize(), a.lunRename(), a.lunDelete())
}

func (a *app) lunCreate() *cobra.Command {
	var size string
	cmd := &cobra.Command{
		Use:     "create NAME --size SIZE",
		Short:   "Create an empty LUN",
		Long:    "Create an empty LUN. It takes no room until something is written to it.",
		Example: "  rowan lun create web --size 10G",
		Args:    wantArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := parseLUN(args[0])
			if err != nil {
				return err
			}
			if size == "" {
				return usagef("the size of the LUN is missing: give --size, for example --size 10G")
			}
			bytes, err := parseLUNSize(size)
			if err != nil {
				return err
			}
			lun, err := a.client().CreateLUN(cmd.Context(), name, bytes)
			if err != nil {
				return err
			}
			return a.show(view{value: lun, names: []string{lun.Name},
				text: fmt.Sprintf("LUN %s of %s created.", lun.Name, formatSize(lun.SizeBytes))})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&size, "size", "", "its size: bytes, or with K, M, G, T (powers of 1024)")
	return cmd
}

func (a *app) lunList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the LUNs", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			luns, err := a.client().LUNs(cmd.Context())
			if err != nil {
				return err
			}
			v := view{
				value: luns,
				head:  []string{"NAME", "SIZE", "DATA", "UNIQUE", "SNAPSHOTS", "CLIENTS", "STATE"},
				empty: "There is no LUN yet. Make one with: rowan lun create NAME --size 10G",
			}
			for _, l := range luns {
				v.names = append(v.names, l.Name)
				v.rows = append(v.rows, []string{
					l.Name, formatSize(l.SizeBytes), formatSize(l.MappedBytes), formatSize(l.UniqueBytes),
					strconv.Itoa(l.Snapshots), strconv.Itoa(l.Clients), lunState(l),
				})
			}
			return a.show(v)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func lunState(l wire.LUN) string {
	if l.Failed != "" {
		return "failed: " + l.Failed
	}
	return "ok"
}

func (a *app) lunShow() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Describe a LUN", Args: wantArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := parseLUN(args[0])
			if err != nil {
				return err
			}
			l, err := a.client().LUN(cmd.Context(), name)
			if err != nil {
				return err
			}
			rows := [][]string{
				{"Name:", l.Name},
				{"Size:", sizeAndBytes(l.SizeBytes)},
				{"State:", lunState(l)},
				{"Created:", a.when(l.Created)},
				{"Data:", sizeAndBytes(l.MappedBytes)},
				{"Unique:", formatSize(l.UniqueBytes) + " since the last snapshot"},
				{"Snapshots:", strconv.Itoa(l.Snapshots)},
				{"Clients:", strconv.Itoa(l.Clients)},
			}
			if l.Origin != "" {
				rows = append(rows, []string{"Cloned from:", l.Origin})
			}
			rows = append(rows, []string{"UUID:", l.UUID})
			return a.show(view{value: l, names: []string{l.Name}, rows: appendURIs(rows, l.NBDURIs)})
		},
		ValidArgsFunction: a.completeLUNs(1),
	}
}

// sizeAndBytes writes a size for people and for arithmetic.
func sizeAndBytes(bytes int64) string {
	return fmt.Sprintf("%s (%d bytes)", formatSize(bytes), bytes)
}

func appendURIs(rows [][]string, uris []string) [][]string {
	for i, uri := range uris {
		title := ""
		if i == 0 {
			title = "NBD:"
		}
		rows = append(rows, []string{title, uri})
	}
	return rows
}

func (a *app) lunResize() *cobra.Command {
	var size string
	cmd := &cobra.Command{
		Use: "resize NAME --size SIZE", Short: "Make a LUN larger",
		Long: "Make a LUN larger. A LUN never becomes smaller. Clients that have it open are not told:\n" +
			"they see the new size when they connect anew, and a device made by rowan attach shows it\n" +
			"when it has been detached and attached again. A filesystem on it has to be grown afterwards.",
		Example: "  rowan lun resize web --size 20G",
		Args:    wantArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := parseLUN(args[0])
			if err != nil {
				return err
			}
			if size == "" {
				return usagef("the new size of the LUN is missing: give --size, for example --size 20G")
			}
			bytes, err := parseLUNSize(size)
			if err != nil {
				return err
			}
			l, err := a.client().ChangeLUN(cmd.Context(), name, wire.ChangeLUN{SizeBytes: &bytes})
			if err != nil {
				return err
			}
			return a.show(view{value: l, names: []string{l.Name},
				text: fmt.Sprintf("LUN %s has %s now.", l.Name, formatSize(l.SizeBytes))})
		},
		ValidArgsFunction: a.completeLUNs(1),
	}
	cmd.Flags().StringVar(&size, "size", "", "its new size: bytes, or with K, M, G, T (powers of 1024)")
	return cmd
}

func (a *app) lunRename() *cobra.Command {
	return &cobra.Command{
		Use: "rename NAME NEWNAME", Short: "Give a LUN another name", Args: wantArgs("NAME", "NEWNAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := parseLUN(args[0])
			if err != nil {
				return err
			}
			newName, err := parseLUN(args[1])
			if err != nil {
				return err
			}
			l, err := a.client().ChangeLUN(cmd.Context(), name, wire.ChangeLUN{Name: &newName})
			if err != nil {
				return err
			}
			return a.show(view{value: l, names: []string{l.Name},
				text: fmt.Sprintf("LUN %s is called %s now.", name, l.Name)})
		},
		ValidArgsFunction: a.completeLUNs(1),
	}
}

func (a *app) lunDelete() *cobra.Command {
	var c care
	var withSnapshots, force bool
	cmd := &cobra.Command{
		Use: "delete NAME", Short: "Delete a LUN and all that is on it",
		Long: "Delete a LUN and all that is on it. A LUN that has snapshots is deleted only with\n" +
			"--with-snapshots, one that clients have open only with --force, and one with a locked\n" +
			"snapshot not at all.",
		Args: wantArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := parseLUN(args[0])
			if err != nil {
				return err
			}
			if err := a.check(c); err != nil {
				return err
			}
			l, err := a.client().LUN(cmd.Context(), name)
			if err != nil {
				return err
			}
			what := describeLUN(l)
			if err := a.mayDelete(cmd, l, withSnapshots, force); err != nil {
				return err
			}
			if c.dryRun {
				return a.show(view{value: map[string]any{"would_delete": l}, names: []string{l.Name}, text: "Would delete " + what + "."})
			}
			if err := a.confirm(cmd.Context(), c, fmt.Sprintf("This deletes %s. It cannot be undone.", what), l.Name); err != nil {
				return err
			}
			stop := a.progress(waiting("deleting " + l.Name))
			err = a.client().DeleteLUN(cmd.Context(), l.Name, withSnapshots, force)
			stop()
			if err != nil {
				return err
			}
			return a.show(view{value: map[string]any{"deleted": l}, names: []string{l.Name}, text: "Deleted " + what + "."})
		},
		ValidArgsFunction: a.completeLUNs(1),
	}
	c.addFlags(cmd)
	cmd.Flags().BoolVar(&withSnapshots, "with-snapshots", false, "delete its snapshots too")
	cmd.Flags().BoolVar(&force, "force", false, "even while clients have it open: their requests fail from then on")
	return cmd
}

// describeLUN says what deleting a LUN would take away.
func describeLUN(l wire.LUN) string {
	parts := []string{formatSize(l.SizeBytes), formatSize(l.MappedBytes) + " of data"}
	switch {
	case l.Snapshots == 1:
		parts = append(parts, "1 snapshot")
	case l.Snapshots > 1:
		parts = append(parts, strconv.Itoa(l.Snapshots)+" snapshots")
	}
	return fmt.Sprintf("LUN %s (%s)", l.Name, strings.Join(parts, ", "))
}

// mayDelete says before anybody is asked what the appliance would refuse.
func (a *app) mayDelete(cmd *cobra.Command, l wire.LUN, withSnapshots, force bool) error {
	if l.Clients > 0 && !force {
		return &Error{Code: ExitInUse,
			Err:  fmt.Errorf("LUN %s is in use: clients have it open (%d)", l.Name, l.Clients),
			Hint: "Detach them first, or give --force: their requests fail from then on."}
	}
	if l.Snapshots == 0 {
		return nil
	}
	if !withSnapshots {
		return &Error{Code: ExitInUse,
			Err:  fmt.Errorf("LUN %s has snapshots (%d), and they live with it", l.Name, l.Snapshots),
			Hint: "Give --with-snapshots to delete them too. rowan snapshot list " + l.Name + " shows them."}
	}
	snapshots, err := a.client().Snapshots(cmd.Context(), l.Name)
	if err != nil {
		return err
	}
	for _, s := range snapshots {
		if s.Locked {
			return &Error{Code: ExitInUse, Err: fmt.Errorf("snapshot %s is locked", s.Ref()),
				Hint: "rowan snapshot unlock " + s.Ref() + " takes the lock off."}
		}
	}
	return nil
}
