package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

// scrubPoll is how often a scrub is asked how far it is.
const scrubPoll = 250 * time.Millisecond

func (a *app) scrubCommand() *cobra.Command {
	var status, stop, detach bool
	var within time.Duration
	cmd := &cobra.Command{
		Use: "scrub [LUN[@NAME]]", Short: "Verify what snapshots hold",
		Long: "Read all that snapshots hold, of the pool, a LUN or one snapshot, and compare it with the\n" +
			"checksums. The daemon does it in the background, at a bounded rate, and goes on after a\n" +
			"restart; this command waits for the end, unless --detach is given. Data that was written\n" +
			"since a LUN's last snapshot has no checksums and is not read.\n\n" +
			"Where something is damaged this command opens the filesystems of the newest snapshot that\n" +
			"shows it, and says which files it belongs to. It reads all inodes for that: --files-within\n" +
			"bounds the time, 0 leaves it out.",
		Example: "  rowan scrub\n  rowan scrub db@monday\n  rowan scrub --status",
		Args:    wantArgs("[LUN[@NAME]]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case status && stop, (status || stop) && (detach || len(args) > 0):
				return usagef("--status and --stop stand alone")
			case status:
				s, err := a.client().Scrub(cmd.Context())
				return a.scrubResult(cmd.Context(), s, err, within)
			case stop:
				s, err := a.client().StopScrub(cmd.Context())
				if err != nil {
					return err
				}
				return a.showScrub(cmd.Context(), s, within)
			}
			var r ref
			if len(args) > 0 {
				var err error
				if r, err = parseRef(args[0]); err != nil {
					return err
				}
			}
			s, err := a.client().StartScrub(cmd.Context(), r.lun, r.snapshot)
			if err != nil || detach {
				return a.scrubResult(cmd.Context(), s, err, within)
			}
			s, err = a.awaitScrub(cmd.Context(), s)
			return a.scrubResult(cmd.Context(), s, err, within)
		},
		ValidArgsFunction: a.completeBoth(1),
	}
	cmd.Flags().BoolVar(&status, "status", false, "show the scrub that is running, or the last one")
	cmd.Flags().BoolVar(&stop, "stop", false, "stop the scrub that is running")
	cmd.Flags().BoolVar(&detach, "detach", false, "do not wait for the end")
	cmd.Flags().DurationVar(&within, "files-within", affectedWithin, "how long to look for the files that damage belongs to")
	return cmd
}

// awaitScrub waits for the end of a scrub and shows how far it is.
func (a *app) awaitScrub(ctx context.Context, s wire.Scrub) (wire.Scrub, error) {
	latest := make(chan wire.Scrub, 1)
	latest <- s
	done := a.progress(func() string {
		now := <-latest
		latest <- now
		return scrubProgress(now)
	})
	defer done()
	tick := time.NewTicker(scrubPoll)
	defer tick.Stop()
	for s.State == wire.ScrubRunning {
		select {
		case <-ctx.Done():
			return s, &Error{Code: ExitFailed, Err: errors.New("interrupted; the scrub goes on"), Hint: "rowan scrub --status shows how far it is, rowan scrub --stop ends it."}
		case <-tick.C:
		}
		now, err := a.client().Scrub(ctx)
		if err != nil && ctx.Err() == nil {
			return s, err
		}
		if err == nil {
			s = now
			<-latest
			latest <- s
		}
	}
	return s, nil
}

func scrubProgress(s wire.Scrub) string {
	return fmt.Sprintf("scrub: %s of %s%s, %s", formatSize(s.DoneBytes), formatSize(s.TotalBytes), scrubPercent(s), foundText(s))
}

func scrubPercent(s wire.Scrub) string {
	if s.TotalBytes <= 0 {
		return ""
	}
	return fmt.Sprintf(" (%d %%)", int(min(100, 100*float64(s.DoneBytes)/float64(s.TotalBytes))))
}

func foundText(s wire.Scrub) string {
	switch n := len(s.Findings) + s.MoreFindings; n {
	case 0:
		return "nothing wrong"
	case 1:
		return "1 finding"
	default:
		return fmt.Sprintf("%d findings", n)
	}
}

// scrubResult shows a scrub; damage and a scrub that was stopped are failures.
func (a *app) scrubResult(ctx context.Context, s wire.Scrub, err error, within time.Duration) error {
	if err != nil {
		return err
	}
	if err := a.showScrub(ctx, s, within); err != nil {
		return err
	}
	switch {
	case len(s.Findings)+s.MoreFindings > 0:
		return &Error{
			Code: ExitFailed, Err: fmt.Errorf("the pool is damaged: %s", foundText(s)),
			Hint: "What is listed cannot be read from these snapshots; everything else can. Find out what the disk below\n" +
				"does, and copy elsewhere what is still needed.",
		}
	case s.State == wire.ScrubStopped:
		return &Error{Code: ExitPartly, Err: errors.New("the scrub was stopped before its end")}
	}
	return nil
}

// shownScrub is what rowan scrub shows: what the API says, and which files
// damage belongs to.
type shownScrub struct {
	wire.Scrub
	Findings []shownFinding `json:"findings"`
}

type shownFinding struct {
	wire.ScrubFinding
	Affected *affected `json:"affected,omitempty"`
}

func (a *app) showScrub(ctx context.Context, s wire.Scrub, within time.Duration) error {
	shown := shownScrub{Scrub: s, Findings: []shownFinding{}}
	for i, found := range a.affected(ctx, s, within) {
		shown.Findings = append(shown.Findings, shownFinding{s.Findings[i], found})
	}
	v := view{value: shown, names: []string{s.State}}
	of := "the pool"
	if s.LUN != "" {
		of = ref{s.LUN, s.Snapshot}.String()
	}
	v.rows = [][]string{
		{"Scrub of:", of},
		{"State:", s.State},
		{"Started:", a.when(s.Started)},
		{"Read:", fmt.Sprintf("%s of %s%s", formatSize(s.DoneBytes), formatSize(s.TotalBytes), scrubPercent(s))},
	}
	if s.Finished != nil {
		v.rows = append(v.rows, []string{"Finished:", a.when(*s.Finished)})
	}
	if s.UnsummedBytes > 0 {
		v.rows = append(v.rows, []string{"Unverified:", formatSize(s.UnsummedBytes) + " without checksums yet"})
	}
	v.rows = append(v.rows, []string{"Findings:", foundText(s)})
	for _, f := range shown.Findings {
		v.rows = append(v.rows, []string{"DAMAGED:", findingText(f.ScrubFinding)})
		for _, line := range f.Affected.lines() {
			v.rows = append(v.rows, []string{"", "  " + line})
		}
	}
	for _, r := range s.Snapshots {
		v.rows = append(v.rows, []string{"Snapshot:", r.LUN + "@" + r.Snapshot + " is " + r.Verdict})
	}
	return a.show(v)
}

// findingText says what is damaged, who shows it, and where it lies.
func findingText(f wire.ScrubFinding) string {
	where := strings.Join(append(append([]string{}, f.Snapshots...), f.LUNs...), ", ")
	if where == "" {
		where = "nothing that has a name"
	}
	if f.LengthBytes == 0 {
		return fmt.Sprintf("%s: %s (%s)", where, f.What, f.File)
	}
	return fmt.Sprintf("%s: %d bytes at offset %d: %s (%s at offset %d)", where, f.LengthBytes, f.OffsetBytes, f.What, f.File, f.FileOffsetBytes)
}

// scrubState says in a line how the last scrub went.
func (a *app) scrubState(s *wire.Scrub) string {
	switch {
	case s == nil:
		return "never"
	case s.State == wire.ScrubRunning:
		return strings.TrimPrefix(scrubProgress(*s), "scrub: ")
	}
	of := ""
	if s.LUN != "" {
		of = " of " + ref{s.LUN, s.Snapshot}.String()
	}
	at := s.Started
	if s.Finished != nil {
		at = *s.Finished
	}
	return fmt.Sprintf("%s%s at %s, %s", s.State, of, a.when(at), foundText(*s))
}
