package cli

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

func (a *app) snapshotCommand() *cobra.Command {
	cmd := group("snapshot", "Take, list, use and delete snapshots",
		a.snapshotCreate(), a.snapshotList(), a.snapshotShow(), a.snapshotRename(),
		a.snapshotLock(), a.snapshotUnlock(), a.snapshotDiff(), a.snapshotRevert(),
		a.snapshotClone(), a.snapshotDelete())
	cmd.Aliases = []string{"snap"}
	return cmd
}

func (a *app) snapshotCreate() *cobra.Command {
	var comment string
	cmd := &cobra.Command{
		Use:   "create LUN[@NAME]…",
		Short: "Snapshot LUNs, all in one point of time",
		Long: "Snapshot one or more LUNs, all in one point of time: either every snapshot is taken or\n" +
			"none. A snapshot without a NAME gets one from the time. It copies nothing and holds what\n" +
			"a power cut at this moment would have left.",
		Example: "  rowan snapshot create web@before-upgrade\n  rowan snapshot create db@mon log@mon",
		Args:    wantArgs("LUN[@NAME]…"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := wire.CreateSnapshots{Comment: comment}
			for _, arg := range args {
				item, err := parseRef(arg)
				if err != nil {
					return err
				}
				r.Items = append(r.Items, wire.SnapshotItem{LUN: item.lun, Name: item.snapshot})
			}
			stop := a.progress(waiting("taking the snapshot"))
			snapshots, err := a.client().CreateSnapshots(cmd.Context(), r)
			stop()
			if err != nil {
				return err
			}
			v := view{value: snapshots}
			for i, s := range snapshots {
				v.names = append(v.names, s.Ref())
				if i > 0 {
					v.text += "\n"
				}
				v.text += fmt.Sprintf("Snapshot %s taken.", s.Ref())
			}
			return a.show(v)
		},
		ValidArgsFunction: a.completeLUNs(1 << 10),
	}
	cmd.Flags().StringVar(&comment, "comment", "", "a note to keep with the snapshots")
	return cmd
}

func (a *app) snapshotList() *cobra.Command {
	return &cobra.Command{
		Use: "list [LUN]", Aliases: []string{"ls"}, Short: "List the snapshots of a LUN, or all",
		Args: wantArgs("[LUN]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			lun := ""
			if len(args) > 0 {
				var err error
				if lun, err = parseLUN(args[0]); err != nil {
					return err
				}
			}
			snapshots, err := a.client().Snapshots(cmd.Context(), lun)
			if err != nil {
				return err
			}
			v := view{
				value: snapshots,
				head:  []string{"SNAPSHOT", "CREATED", "SIZE", "DATA", "UNIQUE", "CONSISTENCY", "LOCK", "COMMENT"},
				empty: "There is no snapshot yet. Take one with: rowan snapshot create " + orWord(lun, "LUN"),
			}
			for _, s := range snapshots {
				v.names = append(v.names, s.Ref())
				data, unique := formatSize(s.MappedBytes), formatSize(s.UniqueBytes)
				if s.Failed != "" {
					data, unique = "DAMAGED", "-" // show says more
				}
				v.rows = append(v.rows, []string{
					s.Ref(), a.when(s.Created), formatSize(s.SizeBytes), data,
					unique, s.Consistency, a.lockState(s), s.Comment,
				})
			}
			return a.show(v)
		},
		ValidArgsFunction: a.completeLUNs(1),
	}
}

func orWord(s, word string) string {
	if s == "" {
		return word
	}
	return s
}

func (a *app) lockState(s wire.Snapshot) string {
	switch {
	case !s.Locked:
		return "-"
	case s.LockedUntil != nil:
		return "until " + a.when(*s.LockedUntil)
	}
	return "locked"
}

func (a *app) snapshotShow() *cobra.Command {
	return &cobra.Command{
		Use: "show LUN@NAME", Short: "Describe a snapshot", Args: wantArgs("LUN@NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := parseSnapshot(args[0])
			if err != nil {
				return err
			}
			s, err := a.client().Snapshot(cmd.Context(), r.lun, r.snapshot)
			if err != nil {
				return err
			}
			rows := [][]string{
				{"Snapshot:", s.Ref()},
				{"Created:", a.when(s.Created)},
				{"Created by:", orWord(s.CreatedBy, "-")},
				{"Comment:", orWord(s.Comment, "-")},
				{"Consistency:", s.Consistency},
				{"Size:", sizeAndBytes(s.SizeBytes)},
				{"Data:", sizeAndBytes(s.MappedBytes)},
				{"Unique:", formatSize(s.UniqueBytes) + " would be given back by deleting it"},
				{"Lock:", a.lockState(s)},
				{"Clients:", strconv.Itoa(s.Clients)},
			}
			if s.Failed != "" {
				rows = append(rows, []string{"FAILED:", s.Failed})
			}
			if s.Group != "" {
				rows = append(rows, []string{"Group:", s.Group})
			}
			return a.show(view{value: s, names: []string{s.Ref()}, rows: appendURIs(rows, s.NBDURIs)})
		},
		ValidArgsFunction: a.completeSnapshots(1),
	}
}

func (a *app) snapshotRename() *cobra.Command {
	return &cobra.Command{
		Use: "rename LUN@NAME NEWNAME", Short: "Give a snapshot another name",
		Args: wantArgs("LUN@NAME", "NEWNAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := parseSnapshot(args[0])
			if err != nil {
				return err
			}
			// The new name may be written in full, but a snapshot stays with its LUN.
			newRef := ref{lun: r.lun, snapshot: args[1]}
			if full, err := parseSnapshot(args[1]); err == nil {
				newRef = full
			}
			if newRef.lun != r.lun {
				return usagef("%s cannot become %s: a snapshot stays with its LUN", r, newRef)
			}
			if err := checkName("snapshot", newRef.snapshot); err != nil {
				return err
			}
			s, err := a.client().RenameSnapshot(cmd.Context(), r.lun, r.snapshot, newRef.snapshot)
			if err != nil {
				return err
			}
			return a.show(view{value: s, names: []string{s.Ref()}, text: fmt.Sprintf("Snapshot %s is called %s now.", r, s.Ref())})
		},
		ValidArgsFunction: a.completeSnapshots(1),
	}
}

func (a *app) snapshotLock() *cobra.Command {
	var untilText string
	cmd := &cobra.Command{
		Use: "lock LUN@NAME", Short: "Keep a snapshot from deletion",
		Long: "Keep a snapshot from deletion, until it is unlocked or until the time given. A clock that\n" +
			"is set back does not end the lock early.",
		Example: "  rowan snapshot lock web@gold\n  rowan snapshot lock web@mon --until 30d\n" +
			"  rowan snapshot lock web@mon --until 2030-12-31",
		Args: wantArgs("LUN@NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := parseSnapshot(args[0])
			if err != nil {
				return err
			}
			var until *time.Time
			if untilText != "" {
				t, err := parseUntil(untilText, time.Now())
				if err != nil {
					return err
				}
				until = &t
			}
			s, err := a.client().LockSnapshot(cmd.Context(), r.lun, r.snapshot, until)
			if err != nil {
				return err
			}
			text := fmt.Sprintf("Snapshot %s is locked until it is unlocked.", s.Ref())
			if s.LockedUntil != nil {
				text = fmt.Sprintf("Snapshot %s is locked until %s.", s.Ref(), a.when(*s.LockedUntil))
			}
			return a.show(view{value: s, names: []string{s.Ref()}, text: text})
		},
		ValidArgsFunction: a.completeSnapshots(1),
	}
	cmd.Flags().StringVar(&untilText, "until", "", "when the lock ends by itself: 12h, 30d, 2w, a date or a time")
	return cmd
}

func (a *app) snapshotUnlock() *cobra.Command {
	return &cobra.Command{
		Use: "unlock LUN@NAME", Short: "Take a snapshot's lock off", Args: wantArgs("LUN@NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := parseSnapshot(args[0])
			if err != nil {
				return err
			}
			s, err := a.client().UnlockSnapshot(cmd.Context(), r.lun, r.snapshot)
			if err != nil {
				return err
			}
			return a.show(view{value: s, names: []string{s.Ref()}, text: fmt.Sprintf("Snapshot %s is not locked any more.", s.Ref())})
		},
		ValidArgsFunction: a.completeSnapshots(1),
	}
}

func (a *app) snapshotClone() *cobra.Command {
	return &cobra.Command{
		Use: "clone LUN@NAME NEWLUN", Short: "Make a writable LUN that begins as a snapshot",
		Long: "Make a writable LUN that begins as a snapshot. It shares all data with it and takes room\n" +
			"only for what is written to it.",
		Args: wantArgs("LUN@NAME", "NEWLUN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := parseSnapshot(args[0])
			if err != nil {
				return err
			}
			newLUN, err := parseLUN(args[1])
			if err != nil {
				return err
			}
			l, err := a.client().Clone(cmd.Context(), r.lun, r.snapshot, newLUN)
			if err != nil {
				return err
			}
			return a.show(view{value: l, names: []string{l.Name},
				text: fmt.Sprintf("LUN %s of %s begins as %s.", l.Name, formatSize(l.SizeBytes), r)})
		},
		ValidArgsFunction: a.completeSnapshots(1),
	}
}
