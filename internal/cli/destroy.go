package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

func (a *app) snapshotRevert() *cobra.Command {
	var c care
	var force bool
	var saveAs string
	cmd := &cobra.Command{
		Use: "revert LUN@NAME", Short: "Bring a LUN back to a snapshot",
		Long: "Bring a LUN back to what it was in a snapshot. Its present state is kept as a snapshot\n" +
			"first, and snapshots taken since stay. While clients have the LUN open this is refused\n" +
			"unless --force is given: what they have cached would be written over the old content.",
		Args: wantArgs("LUN@NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := parseSnapshot(args[0])
			if err != nil {
				return err
			}
			if saveAs != "" {
				if err := checkName("snapshot", saveAs); err != nil {
					return err
				}
			}
			if err := a.check(c); err != nil {
				return err
			}
			if err := a.mayRevert(cmd, r, force); err != nil {
				return err
			}
			if c.dryRun {
				return a.show(view{value: map[string]string{"would_revert": r.lun, "to": r.String()}, names: []string{r.lun},
					text: fmt.Sprintf("Would bring LUN %s back to %s and keep its present state as a snapshot.", r.lun, r)})
			}
			what := fmt.Sprintf("This brings LUN %s back to %s. Its present state is kept as a snapshot.", r.lun, r)
			if err := a.confirm(cmd.Context(), c, what, r.lun); err != nil {
				return err
			}
			stop := a.progress(waiting("reverting " + r.lun))
			saved, err := a.client().Revert(cmd.Context(), r.lun, r.snapshot, wire.Revert{Force: force, SavedName: saveAs})
			stop()
			if err != nil {
				return err
			}
			return a.show(view{value: wire.Reverted{Saved: saved}, names: []string{saved.Ref()},
				text: fmt.Sprintf("LUN %s is as it was in %s. Its state from before is kept as %s.", r.lun, r, saved.Ref())})
		},
		ValidArgsFunction: a.completeSnapshots(1),
	}
	c.addFlags(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "even while clients have the LUN open")
	cmd.Flags().StringVar(&saveAs, "save-as", "", "name of the snapshot that keeps the present state")
	return cmd
}

// mayRevert says before anybody is asked what the appliance would refuse.
func (a *app) mayRevert(cmd *cobra.Command, r ref, force bool) error {
	if _, err := a.client().Snapshot(cmd.Context(), r.lun, r.snapshot); err != nil {
		return err
	}
	l, err := a.client().LUN(cmd.Context(), r.lun)
	if err != nil {
		return err
	}
	if l.Clients > 0 && !force {
		return &Error{Code: ExitInUse,
			Err: fmt.Errorf("LUN %s is in use: clients have it open (%d)", l.Name, l.Clients),
			Hint: "Unmount and detach it first. With --force it is reverted under them, and what they have\n" +
				"cached may damage the content."}
	}
	return nil
}

func (a *app) snapshotDelete() *cobra.Command {
	var c care
	var force bool
	cmd := &cobra.Command{
		Use: "delete LUN@NAME…", Short: "Delete snapshots",
		Long: "Delete snapshots. The room that only they took is given back in the background. A locked\n" +
			"snapshot is not deleted, one that clients are reading only with --force.",
		Args: wantArgs("LUN@NAME…"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var refs []ref
			for _, arg := range args {
				r, err := parseSnapshot(arg)
				if err != nil {
					return err
				}
				refs = append(refs, r)
			}
			if err := a.check(c); err != nil {
				return err
			}
			return a.deleteSnapshots(cmd, refs, c, force)
		},
		ValidArgsFunction: a.completeSnapshots(1 << 10),
	}
	c.addFlags(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "even while clients are reading them: their reads fail from then on")
	return cmd
}

func (a *app) deleteSnapshots(cmd *cobra.Command, refs []ref, c care, force bool) error {
	var found []wire.Snapshot
	var errs []error
	for _, r := range refs {
		s, err := a.client().Snapshot(cmd.Context(), r.lun, r.snapshot)
		switch {
		case err != nil:
			errs = append(errs, err)
		case s.Locked:
			errs = append(errs, &Error{Code: ExitInUse, Err: fmt.Errorf("snapshot %s is locked", r),
				Hint: fmt.Sprintf("rowan snapshot unlock %s takes the lock off.", r)})
		case s.Clients > 0 && !force:
			errs = append(errs, &Error{Code: ExitInUse,
				Err:  fmt.Errorf("snapshot %s is in use: clients have it open (%d)", r, s.Clients),
				Hint: "Detach and unmount them first, or give --force: their reads fail from then on."})
		default:
			found = append(found, s)
		}
	}
	if len(found) == 0 {
		return a.summary(0, errs)
	}
	list := describeSnapshots(found)
	if c.dryRun {
		err := a.show(view{value: map[string]any{"would_delete": found}, names: refsOf(found), text: "Would delete " + list + "."})
		return errors.Join(err, a.summary(len(found), errs))
	}
	word := "all"
	if len(found) == 1 {
		word = found[0].Ref()
	}
	if err := a.confirm(cmd.Context(), c, fmt.Sprintf("This deletes %s. It cannot be undone.", list), word); err != nil {
		return err
	}
	var deleted []wire.Snapshot
	for _, s := range found {
		stop := a.progress(waiting("deleting " + s.Ref()))
		err := a.client().DeleteSnapshot(cmd.Context(), s.LUN, s.Name, force)
		stop()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		deleted = append(deleted, s)
	}
	if len(deleted) > 0 {
		err := a.show(view{value: map[string]any{"deleted": deleted}, names: refsOf(deleted),
			text: "Deleted " + describeSnapshots(deleted) + "."})
		if err != nil {
			return err
		}
	}
	return a.summary(len(deleted), errs)
}

// summary makes one error of those of several objects: as it is if there is
// one and nothing was done, otherwise one that says how much was done.
func (a *app) summary(done int, errs []error) error {
	switch {
	case len(errs) == 0:
		return nil
	case done == 0 && len(errs) == 1:
		return errs[0]
	}
	code := exitCode(errs[0])
	for _, err := range errs {
		if exitCode(err) != code {
			code = ExitFailed
		}
		a.report(err)
	}
	if done > 0 {
		code = ExitPartly
	}
	return &Error{Code: code, Err: fmt.Errorf("%d of %d could not be done", len(errs), done+len(errs)),
		Hint: "The reasons are above."}
}

func refsOf(snapshots []wire.Snapshot) []string {
	var list []string
	for _, s := range snapshots {
		list = append(list, s.Ref())
	}
	return list
}

func describeSnapshots(snapshots []wire.Snapshot) string {
	noun := "snapshot"
	if len(snapshots) > 1 {
		noun = "snapshots"
	}
	var unique int64
	for _, s := range snapshots {
		unique += s.UniqueBytes
	}
	return fmt.Sprintf("%s %s (%s of their own)", noun, strings.Join(refsOf(snapshots), ", "), formatSize(unique))
}
