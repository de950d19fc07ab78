package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rowan-storage/rowan/internal/restore"
	"github.com/rowan-storage/rowan/snapfs/archive"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// shownProblems is how many problems a person is shown one by one.
const shownProblems = 20

func (a *app) filesGet() *cobra.Command {
	var noOwners, force bool
	cmd := &cobra.Command{
		Use: "get LUN@NAME:/PATH [DEST]", Short: "Copy a file or directory out of a snapshot",
		Long: "Copy a file, or a directory with all that is in it, out of a snapshot. DEST is a directory\n" +
			"to put it in, the working directory if left out, or the name for the copy. Modes, times,\n" +
			"links, holes and extended attributes are kept, and by root owners and devices too.\n\n" +
			"What exists is not overwritten, except a single file with --force.\n\n" +
			"If DEST is -, a tar archive (pax) of it is written to standard output.",
		Example: "  rowan files get web@mon:/fs/etc/fstab\n  rowan files get web@mon:/fs/home/ann /srv/restored/ann\n" +
			"  rowan files get web@mon:/fs/home/ann - | tar -x -C /srv/restored",
		Args: wantArgs("LUN@NAME:/PATH", "[DEST]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.locate(cmd.Context(), args[0], true)
			if err != nil {
				return err
			}
			defer l.root.Close()
			dest := "."
			if len(args) > 1 {
				dest = args[1]
			}
			if dest == "-" {
				return a.getTar(cmd.Context(), l)
			}
			return a.get(cmd.Context(), l, destOf(l, dest), restore.Options{Owners: isRoot() && !noOwners, Replace: force})
		},
		ValidArgsFunction: a.completeFiles(1),
	}
	cmd.Flags().BoolVar(&noOwners, "no-owners", false, "let the copies belong to who copies, even to root")
	cmd.Flags().BoolVar(&force, "force", false, "let a single file take the place of one that exists")
	return cmd
}

// destOf is the name for the copy: in dest if that is a directory.
func destOf(l located, dest string) string {
	info, err := os.Stat(dest)
	if err != nil || !info.IsDir() {
		return filepath.Clean(dest)
	}
	return filepath.Join(dest, l.copyName())
}

// copyName is what a copy is called: as the file, or as the snapshot if all of
// it is copied.
func (l located) copyName() string {
	name := path.Base(path.Clean(l.path))
	if name == "/" || name == "." || name == ".." {
		return l.ref.String()
	}
	return name
}

// getTar writes a tar archive to standard output.
func (a *app) getTar(ctx context.Context, l located) error {
	if isTerminal(a.env.Stdout) {
		return usagef("a tar archive is nothing for a terminal: redirect the output, or name another DEST")
	}
	w := &outputWriter{w: a.env.Stdout}
	stop := a.progress(func() string { return fmt.Sprintf("copying %s: %s", l, formatSize(w.written.Load())) })
	result, err := archive.Tar(ctx, l.root, l.attr.Ino, l.copyName(), w)
	stop()
	switch {
	case w.err != nil:
		return a.write(w.err)
	case err != nil:
		return &Error{Code: exitCode(err), Err: fmt.Errorf("the archive of %s is not whole: %w", l, err)}
	}
	problems := make([]restore.Problem, len(result.Problems))
	for i, p := range result.Problems {
		problems[i] = restore.Problem{Path: p.Path, Err: p.Err.Error()}
	}
	return a.reportProblems(problems, result.MoreProblems)
}

func (a *app) get(ctx context.Context, l located, dest string, o restore.Options) error {
	if _, err := os.Stat(filepath.Dir(dest)); err != nil {
		return &Error{Code: exitCode(err), Err: fmt.Errorf("there is no directory %s for the copy", filepath.Dir(dest)), Hint: "Make it first."}
	}
	o.Progress = &restore.Progress{}
	stop := a.progress(func() string { return describeCopy(l, o.Progress) })
	result, err := restore.Copy(ctx, l.root, l.attr.Ino, dest, o)
	stop()
	switch {
	case errors.Is(err, fs.ErrExist):
		hint := "Name another DEST."
		if l.attr.Type == tree.Regular {
			hint = "Name another DEST, or give --force to replace it."
		}
		return &Error{Code: ExitFailed, Err: fmt.Errorf("%s exists already, and nothing was copied", dest), Hint: hint}
	case err != nil && l.attr.Type == tree.Regular:
		return l.error(err)
	case err != nil:
		return &Error{Code: exitCode(err), Err: fmt.Errorf("copying %s to %s: %w", l, dest, err),
			Hint: "What was copied until then is there."}
	}
	err = a.show(view{
		value: struct {
			Dest string `json:"dest"`
			restore.Result
		}{dest, result},
		names: []string{dest}, text: describeResult(l, dest, result),
	})
	if err != nil {
		return err
	}
	return a.reportProblems(result.Problems, result.MoreProblems)
}

// reportProblems says what could not be copied; more problems are only counted.
func (a *app) reportProblems(problems []restore.Problem, more int) error {
	if len(problems) == 0 {
		return nil
	}
	for i, p := range problems {
		if i == shownProblems {
			break
		}
		fmt.Fprintf(a.env.Stderr, "rowan: %s: %s\n", printable(p.Path), printable(p.Err))
	}
	total := len(problems) + more
	return &Error{Code: ExitPartly, Err: fmt.Errorf("not everything could be copied: %d problems, %d of them shown",
		total, min(total, shownProblems))}
}

// describeCopy tells how far a copy is.
func describeCopy(l located, p *restore.Progress) string {
	done := p.Bytes.Load()
	if l.attr.Type != tree.Regular || l.attr.Size == 0 {
		return fmt.Sprintf("copying %s: %d files, %s", l, p.Files.Load(), formatSize(done))
	}
	const width = 30
	part := float64(done) / float64(l.attr.Size)
	filled := min(width, int(part*width))
	return fmt.Sprintf("[%s%s] %3.0f %%  %s of %s", strings.Repeat("#", filled), strings.Repeat(".", width-filled),
		100*part, formatSize(done), formatSize(l.attr.Size))
}

func describeResult(l located, dest string, r restore.Result) string {
	text := fmt.Sprintf("Copied %s to %s (%s).", l, dest, formatSize(r.Bytes))
	if l.attr.Type == tree.Directory {
		text = fmt.Sprintf("Copied %s to %s: %d files, %s.", l, dest, r.Files, formatSize(r.Bytes))
	}
	if r.Skipped > 0 {
		text += fmt.Sprintf("\nLeft out: %d devices, which only root may make.", r.Skipped)
	}
	if r.Attributes > 0 {
		text += fmt.Sprintf("\nLeft out: %d extended attributes, which this user or filesystem cannot have.", r.Attributes)
	}
	return printableLines(text)
}
