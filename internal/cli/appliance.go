package cli

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowan-storage/rowan/internal/config"
	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

func (a *app) statusCommand() *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show how the appliance is", Args: noArgs,
		Long: "Show how the appliance is, and first of all what needs attention. The exit code is 0 if the\n" +
			"daemon answered; with --check it is 1 if something needs attention.",
		Example: "  rowan status\n  rowan status --check -q",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.client().Status(cmd.Context())
			if err != nil {
				return err
			}
			alarms := statusAlarms(s)
			if err := a.show(view{value: s, names: []string{"running"}, rows: append(alarms, a.statusRows(s)...)}); err != nil {
				return err
			}
			if check && len(alarms) > 0 {
				return &Error{Code: ExitFailed, Err: errors.New("the appliance needs attention")}
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&check, "check", false, "fail if something needs attention")
	return cmd
}

// statusAlarms are the rows about what somebody should do something about.
func statusAlarms(s wire.Status) [][]string {
	var rows [][]string
	alarm := func(title, format string, args ...any) {
		rows = append(rows, []string{title, fmt.Sprintf(format, args...)})
	}
	switch p := s.Pool; p.Space {
	case wire.SpaceFull:
		alarm("FULL:", "%s free: writes that need new space are refused, or soon will be. Delete snapshots, or make the filesystem larger", formatSize(p.FreeBytes))
	case wire.SpaceLow:
		alarm("LOW SPACE:", "%s free, %s should be. Delete snapshots, or make the filesystem larger", formatSize(p.FreeBytes), formatSize(p.WarnBytes))
	}
	for _, f := range s.Failures {
		what := "LUN"
		if strings.Contains(f.Name, "@") {
			what = "snapshot"
		}
		alarm("FAILED:", "%s %s: %s", what, f.Name, f.Why)
	}
	if s.MoreFailures > 0 {
		alarm("FAILED:", "and %d more", s.MoreFailures)
	}
	if s.Scrub != nil && len(s.Scrub.Findings)+s.Scrub.MoreFindings > 0 {
		alarm("DAMAGED:", "the scrub has %s: rowan scrub --status shows what and where", foundText(*s.Scrub))
	}
	return rows
}

func (a *app) statusRows(s wire.Status) [][]string {
	pending := "none"
	if s.Pool.Pending > 0 {
		pending = fmt.Sprintf("%d steps", s.Pool.Pending)
	}
	rows := [][]string{
		{"Daemon:", fmt.Sprintf("rowand %s, running for %s as process %d", s.Version, age(s.Started), s.PID)},
		{"API:", s.API},
	}
	for i, n := range s.NBD {
		title, text := "", n.Address
		if i == 0 {
			title = "NBD:"
		}
		if n.Network == "unix" {
			text = "unix:" + text
		}
		if n.TLS {
			text += " (TLS with client certificates)"
		}
		rows = append(rows, []string{title, text})
	}
	return append(rows, [][]string{
		{"Pool:", s.Pool.Dir},
		{"Space:", fmt.Sprintf("%s free of %s%s", formatSize(s.Pool.FreeBytes), formatSize(s.Pool.TotalBytes), percentFree(s.Pool))},
		{"Reserve:", reserveText(s.Pool)},
		{"LUNs:", strconv.Itoa(s.Pool.LUNs)},
		{"Snapshots:", strconv.Itoa(s.Pool.Snapshots)},
		{"Maintenance:", pending},
		{"Scrub:", a.scrubState(s.Scrub)},
	}...)
}

// reserveText says what is held back for metadata.
func reserveText(p wire.Pool) string {
	if p.ReservedBytes < p.ReserveBytes {
		return fmt.Sprintf("%s of %s held back for metadata", formatSize(p.ReservedBytes), formatSize(p.ReserveBytes))
	}
	return formatSize(p.ReserveBytes) + " held back for metadata"
}

func percentFree(p wire.Pool) string {
	if p.TotalBytes <= 0 {
		return ""
	}
	return fmt.Sprintf(" (%.0f %%)", 100*float64(p.FreeBytes)/float64(p.TotalBytes))
}

// age writes how long ago t was, as coarsely as a person would say it.
func age(t time.Time) string {
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// versionInfo is what rowan version shows.
type versionInfo struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Daemon   string `json:"daemon,omitempty"` // version of the running daemon
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version of this program and of the daemon", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versionInfo{Version: a.env.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			daemon := "not running"
			if s, err := a.client().Status(cmd.Context()); err == nil {
				v.Daemon, daemon = s.Version, s.Version
			}
			return a.show(view{value: v, names: []string{v.Version}, rows: [][]string{
				{"rowan:", v.Version},
				{"rowand:", daemon},
				{"Built with:", v.Go + " for " + v.Platform},
			}})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func (a *app) configCommand() *cobra.Command {
	check := &cobra.Command{
		Use: "check [FILE]", Short: "Check the configuration of the daemon",
		Long: "Check FILE, or " + config.DefaultFile + ", and the files conf.d/*.toml beside it, as the daemon\n" +
			"would read them. Every error names the file, the line and the key.",
		Args: wantArgs("[FILE]"),
		RunE: func(_ *cobra.Command, args []string) error {
			file := config.DefaultFile
			if len(args) > 0 {
				file = args[0]
			}
			return a.checkConfig(file)
		},
	}
	return group("config", "Check the configuration of the daemon", check)
}

func (a *app) checkConfig(file string) error {
	c, err := config.Load(file)
	if err == nil {
		err = c.Finish()
	}
	if err != nil {
		if _, statErr := os.Stat(file); statErr != nil {
			return err // its own exit code: there is nothing to be wrong
		}
		return &Error{Code: ExitUsage, Err: err}
	}
	return a.show(view{
		value: map[string]any{"file": file, "valid": true},
		names: []string{file}, text: file + " is valid.",
	})
}
