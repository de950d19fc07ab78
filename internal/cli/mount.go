package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/rowan-storage/rowan/internal/appliance/remote"
	"github.com/rowan-storage/rowan/internal/background"
	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/fusemount"
)

// browseConnections is how many NBD connections read an image.
const browseConnections = 2

// mountOptions are the flags of rowan mount.
type mountOptions struct {
	foreground, allowOther bool
	log                    string
}

func (a *app) mountCommand() *cobra.Command {
	var o mountOptions
	cmd := &cobra.Command{
		Use: "mount DIR", Short: "Show all snapshots as files in a directory",
		Long: "Show all snapshots, and the files in them, in a directory:\n\n" +
			"  DIR/LUN/SNAPSHOT/info.json    what it is and what was found inside\n" +
			"  DIR/LUN/SNAPSHOT/disk.raw     the whole image\n" +
			"  DIR/LUN/SNAPSHOT/p1-ext4-…/   the files of a partition\n" +
			"  DIR/LUN/SNAPSHOT/fs/          the files of a filesystem on the bare disk\n" +
			"  DIR/LUN/latest                the newest snapshot\n\n" +
			"Snapshots come and go in it as they are made and deleted. Nothing in it can be changed.\n" +
			"The command returns once it is mounted; umount DIR ends it.",
		Example: "  rowan mount /mnt/rowan\n  ls /mnt/rowan/web/latest/fs\n  umount /mnt/rowan",
		Args:    wantArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if o.foreground {
				return a.serveMount(cmd.Context(), dir, o)
			}
			return a.startMount(cmd.Context(), dir, o)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	cmd.Flags().BoolVarP(&o.foreground, "foreground", "f", false, "stay until it is unmounted or interrupted")
	cmd.Flags().BoolVar(&o.allowOther, "allow-other", false, "let other users look: at every file in every snapshot")
	cmd.Flags().StringVar(&o.log, "log", "", "file for what goes wrong later (default: the system's log)")
	return cmd
}

// startMount mounts in the background.
func (a *app) startMount(ctx context.Context, dir string, o mountOptions) error {
	if _, err := a.client().Status(ctx); err != nil {
		return err
	}
	args := []string{"mount", "--foreground", dir}
	if o.allowOther {
		args = append(args, "--allow-other")
	}
	if o.log != "" {
		path, err := filepath.Abs(o.log)
		if err != nil {
			return fmt.Errorf("%s: %w", o.log, err)
		}
		args = append(args, "--log", path)
	}
	stop := a.progress(waiting("mounting"))
	var mounted string
	err := a.startAgain(ctx, nil, &mounted, args...)
	stop()
	var failed *background.Error
	if errors.As(err, &failed) {
		return &Error{Code: failed.Code, Err: err}
	}
	if err != nil {
		return err
	}
	return a.show(view{
		value: map[string]string{"mounted": mounted}, names: []string{mounted},
		text: fmt.Sprintf("The snapshots are in %s. umount %s ends that.", mounted, mounted),
	})
}

// serveMount mounts and serves until it is unmounted or interrupted.
func (a *app) serveMount(ctx context.Context, dir string, o mountOptions) error {
	notifier, err := background.FromEnviron(a.env.Getenv)
	if err != nil {
		return err
	}
	var server *fusemount.Server
	var root *snapfs.Root
	if err = a.limitMount(); err == nil {
		server, root, err = a.mount(ctx, dir, o, notifier != nil)
	}
	if err != nil {
		if notifier != nil {
			what, _ := explain(err)
			err = errors.Join(err, notifier.Fail(what, exitCode(err)))
		}
		return err
	}
	defer root.Close()
	if notifier != nil {
		err = notifier.Ready(server.Dir())
	} else {
		_, err = fmt.Fprintf(a.env.Stderr, "The snapshots are in %s until it is unmounted or this program interrupted.\n", server.Dir())
	}
	if err != nil {
		return errors.Join(err, server.Unmount())
	}
	ended := make(chan struct{})
	go func() {
		server.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-a.interrupted():
	}
	if err := server.Unmount(); err != nil {
		// Somebody is in it; nothing there can be lost.
		return server.UnmountLazily()
	}
	<-ended
	return nil
}

// The limits of a process that parses what is in snapshots. The first is one
// that the garbage collector keeps to while it can.
const (
	mountMemoryBytes = 1 << 30
	mountFiles       = 1024
)

// limitMount sets the limits of this process, if they are not lower already.
func (a *app) limitMount() error {
	if a.env.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(mountMemoryBytes)
	}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("the limit of open files: %w", err)
	}
	files.Cur, files.Max = min(files.Cur, mountFiles), min(files.Max, mountFiles)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("the limit of open files: %w", err)
	}
	return nil
}

func (a *app) mount(ctx context.Context, dir string, o mountOptions, inBackground bool) (*fusemount.Server, *snapfs.Root, error) {
	if _, err := a.client().Status(ctx); err != nil {
		return nil, nil, err
	}
	w, err := a.mountLog(o.log, inBackground)
	if err != nil {
		return nil, nil, err
	}
	log := slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn}))
	root := snapfs.New(remote.New(a.client(), browseConnections).Source(), snapfs.Options{Logger: log})
	server, err := fusemount.Mount(dir, root, fusemount.Options{Logger: log, AllowOther: o.allowOther})
	if err != nil {
		return nil, nil, errors.Join(err, root.Close())
	}
	return server, root, nil
}

// mountLog chooses where a mount writes what goes wrong.
func (a *app) mountLog(path string, inBackground bool) (io.Writer, error) {
	if path != "" {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fmt.Errorf("the log: %w", err)
		}
		return f, nil // open until the program ends
	}
	if !inBackground {
		return a.env.Stderr, nil
	}
	if w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_WARNING, "rowan-mount"); err == nil {
		return w, nil
	}
	return io.Discard, nil
}
