package cli

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/rowan-storage/rowan/internal/appliance/offline"
)

// checked is what rowan check shows.
type checked struct {
	Pool     string            `json:"pool"`
	Intact   bool              `json:"intact"` // as the command left it
	Findings []offline.Finding `json:"findings"`
}

func (a *app) checkCommand() *cobra.Command {
	var pool string
	var repair bool
	cmd := &cobra.Command{
		Use: "check --pool DIR", Short: "Verify a pool that no daemon has open",
		Long: "Verify every file of a pool and all data that has checksums, while no daemon has the pool\n" +
			"open. Nothing is changed, unless --repair is given: then what was left over by a daemon that\n" +
			"died is removed, and damaged checksums, unused parts of headers and the presence map of an\n" +
			"open layer whose journal holds it all are put right. Everything else is refused with the\n" +
			"reason. Repair works on files in place: make a copy first.\n\n" +
			"Which files in a snapshot are affected is not told, as there is no daemon to read them from;\n" +
			"rowan scrub tells it.",
		Example: "  rowan check --pool /var/lib/rowan/pool\n  rowan check --pool /var/lib/rowan/pool --repair",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if pool == "" {
				return usagef("check: --pool is missing")
			}
			var done, total atomic.Int64
			stop := a.progress(func() string {
				return fmt.Sprintf("check: %s of %s read", formatSize(done.Load()), formatSize(total.Load()))
			})
			found, err := offline.Check(cmd.Context(), pool, repair, func(d, t int64) {
				done.Store(d)
				total.Store(t)
			})
			stop()
			if err != nil {
				return err
			}
			return a.showChecked(pool, found)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&pool, "pool", "", "directory of the pool")
	cmd.Flags().BoolVar(&repair, "repair", false, "put right what can be rebuilt")
	// A directory it is; registering cannot fail.
	_ = cmd.MarkFlagDirname("pool")
	return cmd
}

func (a *app) showChecked(pool string, found []offline.Finding) error {
	left, repaired := 0, 0
	v := view{text: "The pool " + pool + " is intact."}
	for _, f := range found {
		v.names = append(v.names, f.File)
		v.rows = append(v.rows, []string{checkState(f), checkText(f)})
		switch {
		case f.Repaired:
			repaired++
		case !f.Harmless:
			left++
		}
	}
	if len(found) > 0 {
		v.text = ""
	}
	v.value = checked{Pool: pool, Intact: left == 0, Findings: append([]offline.Finding{}, found...)}
	if err := a.show(v); err != nil {
		return err
	}
	switch {
	case left == 0:
		return nil
	case repaired > 0:
		return &Error{Code: ExitPartly, Err: fmt.Errorf("%d repaired, %d damages remain", repaired, left)}
	}
	return &Error{Code: ExitFailed, Err: errors.New("the pool is not intact"), Hint: checkHint(found)}
}

func checkHint(found []offline.Finding) string {
	for _, f := range found {
		if f.Repair != "" {
			return "rowan check --repair puts right what says so. Make a copy of the pool first."
		}
	}
	return ""
}

func checkState(f offline.Finding) string {
	switch {
	case f.Repaired:
		return "REPAIRED:"
	case f.Harmless:
		return "Harmless:"
	}
	return "DAMAGED:"
}

// checkText says what is wrong where, who shows it, and what can be done.
func checkText(f offline.Finding) string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.OffsetBytes >= 0 {
		fmt.Fprintf(&b, ", offset %d", f.OffsetBytes)
	}
	b.WriteString(": " + f.What)
	if len(f.Snapshots) > 0 {
		b.WriteString("; shown by " + strings.Join(f.Snapshots, ", "))
	}
	switch {
	case f.Refused != "":
		b.WriteString(". Not repaired: " + f.Refused)
	case f.Repair != "" && !f.Repaired:
		b.WriteString(". With --repair " + f.Repair)
	case f.Repaired:
		b.WriteString(": " + f.Repair)
	}
	return b.String()
}
