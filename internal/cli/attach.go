package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"log/syslog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/rowan-storage/rowan/internal/appliance/remote"
	"github.com/rowan-storage/rowan/internal/attach"
	"github.com/rowan-storage/rowan/internal/background"
)

// attachDirVariable names the environment variable that stands in for
// attach.DefaultBase.
const attachDirVariable = "ROWAN_ATTACH_DIR"

// attachConnections is how many NBD connections serve a block device.
const attachConnections = 4

// manager is in charge of what is attached from the appliance.
func (a *app) manager() *attach.Manager {
	base := a.env.Getenv(attachDirVariable)
	if base == "" {
		base = attach.DefaultBase
	}
	return &attach.Manager{Dir: attach.DirOf(base, a.apiSocket()), Start: a.startHolder}
}

func (a *app) attachCommand() *cobra.Command {
	var list bool
	var hold, sweep string
	cmd := &cobra.Command{
		Use:   "attach LUN[@NAME]",
		Short: "Make a block device of a LUN or snapshot on this host",
		Long: "Make a block device of a LUN, or a read-only one of a snapshot, on this host, and print\n" +
			"its name. It can be formatted and mounted like a disk. It stays until it is detached or\n" +
			"the appliance stops. This needs root.\n\n" +
			"A filesystem that was in use when its snapshot was taken is mounted with\n" +
			"  mount -o ro,noload DEVICE DIR            (ext4)\n" +
			"since nothing can be written to a snapshot, not even by the replay of a journal. To have\n" +
			"that, clone the snapshot and attach the clone. rowan files and rowan mount need neither.",
		Example: "  rowan attach web\n  rowan attach web@mon\n  rowan attach --list",
		Args: func(cmd *cobra.Command, args []string) error {
			if list || sweep != "" {
				return noArgs(cmd, args)
			}
			return wantArgs("LUN[@NAME]")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if list {
				return a.listAttached()
			}
			if sweep != "" {
				return a.manager().Sweep(cmd.Context(), sweep)
			}
			r, err := parseRef(args[0])
			if err != nil {
				return err
			}
			if hold != "" {
				return a.hold(cmd.Context(), hold, r.String())
			}
			return a.attach(cmd.Context(), r)
		},
		ValidArgsFunction: a.completeBoth(1),
	}
	cmd.Flags().BoolVar(&list, "list", false, "list what is attached from this appliance")
	cmd.Flags().StringVar(&hold, "hold", "", "be the process that serves the device")
	cmd.Flags().StringVar(&sweep, "sweep", "", "remove what is left of a device when its process is gone")
	// They exist, so hiding them cannot fail; nobody is to use them by hand.
	_ = cmd.Flags().MarkHidden("hold")
	_ = cmd.Flags().MarkHidden("sweep")
	return cmd
}

func (a *app) attach(ctx context.Context, r ref) error {
	// What does not exist is better said before a process is started for it.
	if err := a.exists(ctx, r); err != nil {
		return err
	}
	stop := a.progress(waiting("attaching " + r.String()))
	record, err := a.manager().Attach(ctx, r.String())
	stop()
	if err != nil {
		return attachError(err)
	}
	return a.show(view{value: record, names: []string{record.Device}, text: record.Device})
}

// exists asks the appliance whether there is such a LUN or snapshot.
func (a *app) exists(ctx context.Context, r ref) error {
	if r.snapshot == "" {
		_, err := a.client().LUN(ctx, r.lun)
		return err
	}
	_, err := a.client().Snapshot(ctx, r.lun, r.snapshot)
	return err
}

// attachError adds what to do next.
func attachError(err error) error {
	var attached *attach.AttachedError
	var notAttached *attach.NotAttachedError
	var inUse *attach.InUseError
	var failed *background.Error
	switch {
	case errors.As(err, &attached):
		return &Error{Code: ExitInUse, Err: err, Hint: fmt.Sprintf("Use %s, or take it away with: rowan detach %s",
			attached.Record.Device, attached.Record.Export)}
	case errors.As(err, &notAttached):
		return &Error{Code: ExitNotFound, Err: err, Hint: "rowan attach --list shows what is."}
	case errors.As(err, &inUse), errors.As(err, new(*attach.RefusedError)):
		return &Error{Code: ExitInUse, Err: err, Hint: "Unmount it, and end what has it open, then detach again."}
	case errors.As(err, &failed):
		return &Error{Code: failed.Code, Err: err}
	case errors.Is(err, os.ErrPermission):
		return &Error{Code: ExitNotAllowed, Err: err, Hint: asRoot}
	}
	return err
}

const asRoot = "Run it as root, for example with sudo."

// recordsError is attachError for what reads the records of what is attached.
// Which file another user than root may not read is of no use to them.
func recordsError(err error) error {
	if isRoot() || !errors.Is(err, os.ErrPermission) {
		return attachError(err)
	}
	return &Error{Code: ExitNotAllowed, Hint: asRoot,
		Err: errors.New("devices are attached by root, and only root may see and detach them")}
}

func (a *app) listAttached() error {
	records, err := a.manager().List()
	if err != nil {
		return recordsError(err)
	}
	v := view{
		value: append([]attach.Record{}, records...),
		head:  []string{"EXPORT", "DEVICE", "ACCESS", "BY", "SINCE", "USED"},
		empty: "Nothing is attached. Attach a LUN with: rowan attach LUN",
	}
	for _, r := range records {
		access, used := "read-write", "no"
		if r.ReadOnly {
			access = "read-only"
		}
		if len(r.Users) > 0 {
			used = strings.Join(r.Users, ", ")
		}
		v.names = append(v.names, r.Device)
		v.rows = append(v.rows, []string{
			r.Export, r.Device, access, r.Method + ", process " + strconv.Itoa(r.PID), a.when(r.Attached), used,
		})
	}
	return a.show(v)
}

func (a *app) detachCommand() *cobra.Command {
	return &cobra.Command{
		Use: "detach LUN[@NAME]|DEVICE", Short: "Take a block device away again",
		Long: "Take away the block device of a LUN or snapshot. What is cached is written back first. A\n" +
			"device that is mounted or otherwise in use stays, and it is said who uses it.",
		Example: "  rowan detach web\n  rowan detach /dev/loop3",
		Args:    wantArgs("LUN[@NAME] or DEVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if !strings.HasPrefix(name, "/") {
				r, err := parseRef(name)
				if err != nil {
					return err
				}
				name = r.String()
			}
			stop := a.progress(waiting("detaching " + name))
			records, err := a.manager().Detach(cmd.Context(), name)
			stop()
			if len(records) == 0 && err != nil {
				return recordsError(err)
			}
			v := view{value: records}
			var said []string
			for _, r := range records {
				v.names = append(v.names, r.Device)
				said = append(said, fmt.Sprintf("%s is no longer attached as %s.", r.Export, r.Device))
			}
			v.text = strings.Join(said, "\n")
			if showErr := a.show(v); showErr != nil {
				return showErr
			}
			if err != nil {
				return &Error{Code: ExitPartly, Err: err}
			}
			return nil
		},
		ValidArgsFunction: a.complete(1, func(_ context.Context, _ string) []string {
			records, err := a.manager().List()
			if err != nil {
				return nil
			}
			var names []string
			for _, r := range records {
				names = append(names, r.Export, r.Device)
			}
			return names
		}),
	}
}

// startHolder starts this program anew to serve a device.
func (a *app) startHolder(ctx context.Context, id, export string, log *os.File) (attach.Record, error) {
	var r attach.Record
	err := a.startAgain(ctx, log, &r, "attach", "--hold", id, export)
	if err != nil && !errors.As(err, new(*background.Error)) {
		err = fmt.Errorf("%w%s", err, tailOf(log.Name()))
	}
	return r, err
}

// tailOf quotes the end of a log that will not be there any more.
func tailOf(path string) string {
	const most = 2000
	text, err := os.ReadFile(path)
	if err != nil || len(text) == 0 {
		return ""
	}
	return "; its log ends with\n" + strings.TrimSpace(string(text[max(0, len(text)-most):]))
}

// startAgain starts this program in the background with other arguments, for
// the same appliance.
func (a *app) startAgain(ctx context.Context, log *os.File, value any, args ...string) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	return background.Start(ctx, background.Command{
		Path: exe, Args: append([]string{"--api", a.apiSocket()}, args...), Env: os.Environ(), Log: log,
	}, value)
}

// hold serves a device until it is detached.
func (a *app) hold(ctx context.Context, id, export string) error {
	notifier, err := background.FromEnviron(a.env.Getenv)
	if err != nil {
		return err
	}
	if notifier == nil {
		return usagef("--hold is not for use by hand: rowan attach %s starts the process itself", export)
	}
	ready := false
	log := slog.New(slog.NewTextHandler(a.env.Stderr, nil))
	err = attach.Hold(ctx, attach.HoldOptions{
		Dir: a.manager().Dir, ID: id, Export: export,
		Backend: remote.New(a.client(), attachConnections).Backend(log),
		Ready: func(r attach.Record) error {
			ready = true
			return notifier.Ready(r)
		},
		Detach: a.interrupted(), Log: log,
	})
	switch {
	case err == nil:
		return nil
	case !ready:
		what, _ := explain(err)
		return errors.Join(err, notifier.Fail(what, exitCode(err)))
	case errors.Is(err, attach.ErrLost):
		// The log goes with the device, and nobody is there to be told.
		tellSystem(fmt.Sprintf("%s: %v", export, err))
		return errors.Join(err, a.startSweeper(id))
	}
	return err
}

// startSweeper starts the process that takes a device away once this one, which
// serves it, is gone.
func (a *app) startSweeper(id string) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	cmd := exec.Command(exe, "--api", a.apiSocket(), "attach", "--sweep", id)
	cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the process that cleans up: %w", err)
	}
	return cmd.Process.Release()
}

// tellSystem writes to the system's log, if there is one.
func tellSystem(text string) {
	if w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_ERR, "rowan"); err == nil {
		_ = w.Err(text)
		_ = w.Close()
	}
}
