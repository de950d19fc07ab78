package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/rowan-storage/rowan/internal/appliance/remote"
	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

func (a *app) filesCommand() *cobra.Command {
	return group("files", "Look at the files in snapshots and take them out",
		a.filesList(), a.filesCat(), a.filesGet())
}

// located is a file in a snapshot.
type located struct {
	root *snapfs.Root
	ref  ref
	path string
	attr tree.Attr
}

// String is how a person writes it.
func (l located) String() string { return l.ref.String() + ":" + l.path }

// locate finds LUN@NAME:/PATH, through a symbolic link at its end if follow is
// set. The caller closes the root.
func (a *app) locate(ctx context.Context, text string, follow bool) (located, error) {
	r, path, err := parseSnapshotPath(text)
	if err != nil {
		return located{}, err
	}
	// The API's word for what is not there is clearer than that of the tree.
	if err := a.exists(ctx, r); err != nil {
		return located{}, err
	}
	l := located{
		root: snapfs.New(remote.New(a.client(), browseConnections).Source(), snapfs.Options{}),
		ref:  r, path: path,
	}
	// A read under way cannot be told to end by a context.
	context.AfterFunc(ctx, func() { _ = l.root.Close() })
	if err := l.find(ctx, follow); err != nil {
		return located{}, errors.Join(l.error(err), l.root.Close())
	}
	return l, nil
}

func (l *located) find(ctx context.Context, follow bool) error {
	top, err := l.root.Walk(ctx, snapfs.RootIno, l.ref.lun+"/"+l.ref.snapshot, false)
	if err != nil {
		return err
	}
	ino, err := l.root.Walk(ctx, top, l.path, follow)
	if err != nil {
		return err
	}
	l.attr, err = l.root.Stat(ctx, ino)
	return err
}

// error says which file an error is about, once.
func (l located) error(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	e := &Error{Code: exitCode(err), Err: fmt.Errorf("%s: %w", l, err)}
	if errors.Is(err, fs.ErrNotExist) {
		e.Hint = fmt.Sprintf("rowan files ls %s:/ shows what there is.", l.ref)
	}
	return e
}

func (a *app) filesCat() *cobra.Command {
	return &cobra.Command{
		Use: "cat LUN@NAME:/PATH", Short: "Write a file of a snapshot to standard output",
		Example: "  rowan files cat web@mon:/fs/etc/fstab",
		Args:    wantArgs("LUN@NAME:/PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, path, err := parseSnapshotPath(args[0]); err == nil && path == "/" {
				return usagef("%q names no file: write LUN@NAME:/PATH", args[0])
			}
			l, err := a.locate(cmd.Context(), args[0], true)
			if err != nil {
				return err
			}
			defer l.root.Close()
			if l.attr.Type != tree.Regular {
				return fmt.Errorf("%s is %s and has no content to show", l, typeWords(l.attr.Type))
			}
			f, err := l.root.Open(cmd.Context(), l.attr.Ino)
			if err != nil {
				return l.error(err)
			}
			defer f.Close()
			return a.copyOut(cmd.Context(), l, f)
		},
		ValidArgsFunction: a.completeFiles(1),
	}
}

// copyOut writes a file to standard output.
func (a *app) copyOut(ctx context.Context, l located, f *snapfs.File) error {
	src := &contextReader{ctx, io.NewSectionReader(f, 0, f.Size())}
	w := &outputWriter{w: a.env.Stdout}
	if _, err := io.CopyBuffer(w, src, make([]byte, 1<<20)); err != nil {
		if w.err != nil {
			return a.write(w.err)
		}
		return l.error(err)
	}
	return nil
}

// contextReader stops reading when its context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// outputWriter tells the errors of the writer from those of the reader, and
// counts the bytes.
type outputWriter struct {
	w       io.Writer
	err     error
	written atomic.Int64
}

func (w *outputWriter) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	w.written.Add(int64(n))
	if err != nil {
		w.err = err
	}
	return n, err
}

func typeWords(t tree.Type) string {
	switch t {
	case tree.Regular:
		return "a file"
	case tree.Directory:
		return "a directory"
	case tree.Symlink:
		return "a symbolic link"
	case tree.CharDevice, tree.BlockDevice:
		return "a device"
	case tree.FIFO:
		return "a FIFO"
	case tree.Socket:
		return "a socket"
	}
	return "a file of an unknown type"
}

// completeFiles offers snapshots, and after the colon the files in one.
func (a *app) completeFiles(count int) completer {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= count {
			return nil, cobra.ShellCompDirectiveDefault
		}
		snapshot, path, inside := strings.Cut(typed, ":")
		if !inside {
			names, _ := a.completeSnapshots(1)(cmd, nil, typed)
			for i := range names {
				names[i] += ":/"
			}
			return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
		defer cancel()
		dir := path[:strings.LastIndexByte(path, '/')+1]
		return a.filesIn(ctx, snapshot+":"+dir, typed), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}

// filesIn lists the files of a directory written as LUN@NAME:/DIR/ that go on
// from what is typed, none if the directory cannot be read.
func (a *app) filesIn(ctx context.Context, dir, typed string) []string {
	l, err := a.locate(ctx, dir, true)
	if err != nil {
		return nil
	}
	defer l.root.Close()
	entries, _ := l.root.ReadDir(ctx, l.attr.Ino)
	var list []string
	for _, e := range entries {
		name := dir + e.Name
		if e.Type == tree.Directory {
			name += "/"
		}
		if strings.HasPrefix(name, typed) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// isRoot tells whether this process may set owners.
func isRoot() bool { return os.Geteuid() == 0 }
