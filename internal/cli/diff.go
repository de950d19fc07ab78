package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

func (a *app) snapshotDiff() *cobra.Command {
	return &cobra.Command{
		Use: "diff LUN@A [LUN@B]", Short: "List what changed between two states of a LUN",
		Long: "List the ranges of a LUN that changed between the snapshot A and the snapshot B, or the\n" +
			"present if B is left out. The kind is data for what was written, zero for what reads as\n" +
			"zeros where data was before. What is not listed is equal.",
		Example: "  rowan snapshot diff web@mon web@tue\n  rowan snapshot diff web@mon -o json",
		Args:    wantArgs("LUN@A", "[LUN@B]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := parseSnapshot(args[0])
			if err != nil {
				return err
			}
			to := ref{lun: from.lun}
			if len(args) > 1 {
				if to, err = parseRef(args[1]); err != nil {
					return err
				}
			}
			if to.lun != from.lun {
				return usagef("%s and %s are of different LUNs: only states of one LUN can be compared", from, to)
			}
			d := &diffWriter{from: from, to: to}
			stop := a.progress(d.describe)
			defer stop()
			ranges := a.client().Diff(cmd.Context(), from.lun, from.snapshot, to.snapshot)
			return a.writeDiff(d, ranges)
		},
		ValidArgsFunction: a.completeSnapshots(2),
	}
}

// diffWriter writes ranges as they come: there may be more than fit in memory.
type diffWriter struct {
	from, to ref
	ranges   int
	data     int64 // bytes
	zero     int64
	at       atomic.Int64 // offset that was reached
}

func (d *diffWriter) describe() string {
	return "comparing, at " + formatSize(d.at.Load())
}

func (a *app) writeDiff(d *diffWriter, ranges iter.Seq2[wire.Range, error]) error {
	switch {
	case a.output == "json":
		return d.json(a.env.Stdout, ranges)
	case a.output == "yaml":
		return writeYAML(a.env.Stdout, func(w io.Writer) error { return d.json(w, ranges) })
	}
	out := bufio.NewWriter(a.env.Stdout)
	err := d.table(out, ranges, !a.quiet)
	if err == nil && !a.quiet {
		fmt.Fprintln(out, d.summary())
	}
	if flushErr := out.Flush(); err == nil {
		err = a.write(flushErr)
	}
	return err
}

// count adds r to the sums.
func (d *diffWriter) count(r wire.Range) {
	d.ranges++
	if r.Kind == wire.Zero {
		d.zero += r.LengthBytes
	} else {
		d.data += r.LengthBytes
	}
	d.at.Store(r.OffsetBytes + r.LengthBytes)
}

// The columns have fixed widths, since a row is written before the next is
// known. They hold any LUN.
const diffRow = "%15s  %15s  %s\n"

func (d *diffWriter) table(w io.Writer, ranges iter.Seq2[wire.Range, error], head bool) error {
	for r, err := range ranges {
		if err != nil {
			return err
		}
		if d.ranges == 0 && head {
			fmt.Fprintf(w, diffRow, "OFFSET", "LENGTH", "KIND")
		}
		d.count(r)
		if _, err := fmt.Fprintf(w, diffRow, fmt.Sprint(r.OffsetBytes), fmt.Sprint(r.LengthBytes), r.Kind); err != nil {
			return err
		}
	}
	return nil
}

func (d *diffWriter) summary() string {
	to := d.to.String()
	if d.to.snapshot == "" {
		to = "now"
	}
	if d.ranges == 0 {
		return fmt.Sprintf("Nothing changed from %s to %s.", d.from, to)
	}
	noun := "ranges"
	if d.ranges == 1 {
		noun = "range"
	}
	return fmt.Sprintf("%d %s changed from %s to %s: %s of data, %s of zeros.",
		d.ranges, noun, d.from, to, formatSize(d.data), formatSize(d.zero))
}

// json writes one object, its ranges one a line as they come.
func (d *diffWriter) json(w io.Writer, ranges iter.Seq2[wire.Range, error]) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "{\n  \"lun\": %q,\n  \"from\": %q,\n  \"to\": %q,\n  \"ranges\": [", d.from.lun, d.from.snapshot, d.to.snapshot)
	for r, err := range ranges {
		if err != nil {
			// What was written so far is no JSON, so that nobody takes it for all.
			return firstError(err, out.Flush())
		}
		if d.ranges > 0 {
			fmt.Fprint(out, ",")
		}
		d.count(r)
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "\n    %s", line); err != nil {
			return err
		}
	}
	end := "\n  ]"
	if d.ranges == 0 {
		end = "]"
	}
	fmt.Fprintf(out, "%s,\n  \"data_bytes\": %d,\n  \"zero_bytes\": %d\n}\n", end, d.data, d.zero)
	return out.Flush()
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
