package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

// view is a result in all forms that it can be shown in.
type view struct {
	value any        // for JSON and YAML
	names []string   // for --quiet
	head  []string   // the columns' titles; none for a list of properties
	rows  [][]string // for a table
	text  string     // instead of a table: a sentence
	empty string     // said to a person if there are no rows: what to do next
}

// show writes v in the form that was asked for.
func (a *app) show(v view) error {
	switch {
	case a.output == "json":
		return a.write(writeJSON(a.env.Stdout, v.value))
	case a.output == "yaml":
		return a.write(writeYAML(a.env.Stdout, func(w io.Writer) error { return writeJSON(w, v.value) }))
	case a.quiet:
		for _, name := range v.names {
			if _, err := fmt.Fprintln(a.env.Stdout, name); err != nil {
				return a.write(err)
			}
		}
		return nil
	case v.text != "":
		_, err := fmt.Fprintln(a.env.Stdout, v.text)
		return a.write(err)
	case len(v.rows) == 0 && v.empty != "":
		_, err := fmt.Fprintln(a.env.Stderr, v.empty)
		return a.write(err)
	}
	return a.write(a.writeTable(v.head, v.rows))
}

func (a *app) write(err error) error {
	if err != nil {
		return fmt.Errorf("the output could not be written: %w", err)
	}
	return nil
}

func writeJSON(w io.Writer, value any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(value)
}

// writeYAML turns the JSON that produce writes into YAML as it comes.
func writeYAML(w io.Writer, produce func(io.Writer) error) error {
	r, pipe := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		pipe.CloseWithError(produce(pipe))
	}()
	err := wire.YAML(w, r)
	r.CloseWithError(err) // ends produce if the conversion ended first
	<-done
	return err
}

// writeTable writes rows with aligned columns, the titles bold on a terminal.
func (a *app) writeTable(head []string, rows [][]string) error {
	all := rows
	if len(head) > 0 {
		all = append([][]string{head}, rows...)
	}
	var widths []int
	for _, row := range all {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(printable(cell)))
		}
	}
	bold := len(head) > 0 && isTerminal(a.env.Stdout) && a.env.Getenv("NO_COLOR") == ""
	var b strings.Builder
	for n, row := range all {
		var line strings.Builder
		for i, cell := range row {
			cell = printable(cell)
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
		text := strings.TrimRight(line.String(), " ")
		if n == 0 && bold {
			text = "\x1b[1m" + text + "\x1b[0m"
		}
		b.WriteString(text)
		b.WriteByte('\n')
	}
	_, err := io.WriteString(a.env.Stdout, b.String())
	return err
}

// printable puts '?' for what could move the cursor or change the terminal:
// comments and file names are other people's.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// printableLines is printable but keeps the ends of lines.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = printable(line)
	}
	return strings.Join(lines, "\n")
}

// when writes a time: as this host's clock shows it on a terminal, otherwise in
// UTC by RFC 3339.
func (a *app) when(t time.Time) string {
	if isTerminal(a.env.Stdout) {
		return t.Local().Format("2006-01-02 15:04:05")
	}
	return t.UTC().Format(time.RFC3339)
}
