package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowan-storage/rowan/snapfs/tree"
)

func (a *app) filesList() *cobra.Command {
	var long, recursive bool
	cmd := &cobra.Command{
		Use: "ls LUN@NAME[:/PATH]", Short: "List files of a snapshot",
		Example: "  rowan files ls web@mon\n  rowan files ls -l web@mon:/fs/etc\n  rowan files ls -R web@mon:/fs -o json",
		Args:    wantArgs("LUN@NAME[:/PATH]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.locate(cmd.Context(), args[0], false)
			if err != nil {
				return err
			}
			defer l.root.Close()
			return a.list(cmd.Context(), l, long, recursive)
		},
		ValidArgsFunction: a.completeFiles(1),
	}
	cmd.Flags().BoolVarP(&long, "long", "l", false, "show type, mode, owner, size and time too")
	cmd.Flags().BoolVarP(&recursive, "recursive", "R", false, "list all directories below too")
	return cmd
}

// listed is a file as a listing shows it.
type listed struct {
	Path  string    `json:"path"`
	Type  string    `json:"type"`
	Mode  string    `json:"mode"` // permissions, octal
	Links uint32    `json:"links"`
	UID   uint32    `json:"uid"`
	GID   uint32    `json:"gid"`
	Size  int64     `json:"size_bytes"`
	Mtime time.Time `json:"mtime"`
	// Target is that of a symbolic link.
	Target string `json:"target,omitempty"`
	// Device is the number of a device, as MAJOR:MINOR.
	Device string `json:"device,omitempty"`

	attr tree.Attr
}

// lister lists files, and directories below one, as they are read.
type lister struct {
	app       *app
	l         located
	long      bool
	recursive bool
	out       *bufio.Writer
	write     func(listed) error
	entered   map[tree.Ino]bool
	errs      []error
	done      int
}

func (a *app) list(ctx context.Context, l located, long, recursive bool) error {
	s := &lister{app: a, l: l, long: long, recursive: recursive, entered: map[tree.Ino]bool{}}
	var err error
	switch a.output {
	case "json":
		err = s.json(ctx, a.env.Stdout)
	case "yaml":
		err = writeYAML(a.env.Stdout, func(w io.Writer) error { return s.json(ctx, w) })
	default:
		s.out = bufio.NewWriter(a.env.Stdout)
		s.write = s.line
		err = s.all(ctx)
		if flushErr := s.out.Flush(); err == nil {
			err = a.write(flushErr)
		}
	}
	if err != nil {
		return err
	}
	return a.summary(s.done, s.errs)
}

// json writes a list of objects, one a line.
func (s *lister) json(ctx context.Context, w io.Writer) error {
	s.out = bufio.NewWriter(w)
	sep := "[\n  "
	s.long = true // every field is shown
	s.write = func(f listed) error {
		data, err := json.Marshal(f)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.out, "%s%s", sep, data)
		sep = ",\n  "
		return err
	}
	if err := s.all(ctx); err != nil {
		return errors.Join(err, s.out.Flush())
	}
	if s.done == 0 {
		fmt.Fprint(s.out, "[")
	}
	fmt.Fprint(s.out, "\n]\n")
	return s.out.Flush()
}

// all lists what was asked for.
func (s *lister) all(ctx context.Context) error {
	if s.l.attr.Type != tree.Directory {
		return s.file(ctx, s.l.path, s.l.attr)
	}
	return s.directory(ctx, s.l.path, s.l.attr.Ino)
}

// directory lists a directory, then those in it if that is asked for.
func (s *lister) directory(ctx context.Context, dir string, ino tree.Ino) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.entered[ino] {
		s.fail(dir, errors.New("the directory is found in more than one place, which no intact filesystem has"))
		return nil
	}
	s.entered[ino] = true
	entries, err := s.l.root.ReadDir(ctx, ino)
	if err != nil {
		s.fail(dir, err)
	}
	slices.SortFunc(entries, func(a, b tree.DirEntry) int { return strings.Compare(a.Name, b.Name) })
	type below struct {
		path string
		ino  tree.Ino
	}
	var directories []below
	for _, e := range entries {
		name := path.Join(dir, e.Name)
		if !s.long && e.Type != tree.Unknown && (!s.recursive || e.Type != tree.Directory) {
			if err := s.put(listed{Path: name, attr: tree.Attr{Type: e.Type}}); err != nil {
				return err
			}
			continue
		}
		attr, err := s.l.root.Stat(ctx, e.Ino)
		if err != nil {
			s.fail(name, err)
			continue
		}
		if err := s.file(ctx, name, attr); err != nil {
			return err
		}
		if s.recursive && attr.Type == tree.Directory {
			directories = append(directories, below{name, attr.Ino})
		}
	}
	for _, d := range directories {
		if err := s.directory(ctx, d.path, d.ino); err != nil {
			return err
		}
	}
	return nil
}

// file lists one file.
func (s *lister) file(ctx context.Context, name string, attr tree.Attr) error {
	f := listed{
		Path: name, Type: typeName(attr.Type), Mode: fmt.Sprintf("%04o", attr.Mode&0o7777),
		Links: attr.Nlink, UID: attr.UID, GID: attr.GID, Size: attr.Size, Mtime: attr.Mtime.UTC(), attr: attr,
	}
	switch attr.Type {
	case tree.Symlink:
		target, err := s.l.root.Readlink(ctx, attr.Ino)
		if err != nil {
			s.fail(name, err)
			return nil
		}
		f.Target = target
	case tree.CharDevice, tree.BlockDevice:
		f.Device = deviceNumber(attr.Rdev)
	}
	return s.put(f)
}

func (s *lister) put(f listed) error {
	if err := s.write(f); err != nil {
		return s.app.write(err)
	}
	s.done++
	return nil
}

// fail notes what could not be listed.
func (s *lister) fail(name string, err error) {
	at := s.l
	at.path = name
	s.errs = append(s.errs, at.error(err))
}

// line writes a file for people.
func (s *lister) line(f listed) error {
	name := f.Path
	if !s.recursive {
		name = path.Base(name)
	}
	if isTerminal(s.app.env.Stdout) {
		name = printable(name)
		f.Target = printable(f.Target)
	}
	if !s.long {
		if f.attr.Type == tree.Directory {
			name += "/"
		}
		_, err := fmt.Fprintln(s.out, name)
		return err
	}
	if f.Target != "" {
		name += " -> " + f.Target
	}
	size := fmt.Sprint(f.Size)
	if f.Device != "" {
		size = f.Device
	}
	_, err := fmt.Fprintf(s.out, "%s %3d %6d %6d %12s %s %s\n",
		modeString(f.attr), f.Links, f.UID, f.GID, size, s.app.when(f.Mtime), name)
	return err
}
