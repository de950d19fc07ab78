package main

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// table gathers the figures of all rounds on one filesystem.
type table struct {
	jobs    []job
	figures map[string]map[string][]figure // by job, by server
	stalls  []stall
}

func newTable() *table { return &table{figures: map[string]map[string][]figure{}} }

func (t *table) add(j job, server string, f figure) {
	if t.figures[j.name] == nil {
		t.figures[j.name] = map[string][]figure{}
		t.jobs = append(t.jobs, j)
	}
	t.figures[j.name][server] = append(t.figures[j.name][server], f)
}

// median returns the middle of what f tells of each figure.
func median[T int64 | float64](figures []figure, f func(figure) T) T {
	values := make([]T, len(figures))
	for i, fig := range figures {
		values[i] = f(fig)
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

func rate(f figure) float64    { return f.rate }
func cpu(f figure) int64       { return int64(f.cpuPerIO) }
func latency99(f figure) int64 { return int64(f.latency99) }
func micros(ns int64) string   { return fmt.Sprintf("%.1f", float64(ns)/1000) }
func rounded(v float64) string { return fmt.Sprintf("%.0f", v) }

// ratio is the median over the rounds of how what f tells of a compares with
// that of b. What slows a machine down for a while does so to both of a round.
func ratio[T int64 | float64](a, b []figure, f func(figure) T) float64 {
	ratios := make([]figure, min(len(a), len(b)))
	for i := range ratios {
		ratios[i].rate = float64(f(a[i])) / float64(f(b[i]))
	}
	return median(ratios, rate)
}

// order returns the servers that measured a job, ours first.
func (t *table) order(j job) []string {
	var names []string
	for _, s := range []string{rowand, nbdkit, qemuNBD, overlayQCOW2, overlayExtendedL2, direct} {
		if len(t.figures[j.name][s]) > 0 {
			names = append(names, s)
		}
	}
	return names
}

// introduction says how and on what was measured.
func introduction(o options) string {
	flags := fmt.Sprintf("-rounds %d -runtime %v -size %d -first %d -snapshots %d",
		o.rounds, o.runtime, o.sizeBytes>>20, o.firstBytes>>20, o.snapshots)
	if len(o.images) > 0 {
		flags += " -images " + strings.Join(o.images, ",")
	}
	return fmt.Sprintf("Measured on %s, with\n\n    go run ./test/bench %s\n\n%s\n", time.Now().UTC().Format(time.DateOnly), flags, facts())
}

// render writes the section of one filesystem in Markdown.
func (t *table) render(filesystem string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "\n## On %s\n\n%s", filesystem, t.goals())
	fmt.Fprintf(&s, "| job | server | median rate | lowest to highest | rowand against it | 99th percentile, µs | server CPU per request, µs | rowand's against it |\n")
	fmt.Fprintf(&s, "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	for _, j := range t.jobs {
		for _, name := range t.order(j) {
			figures := t.figures[j.name][name]
			mine, mineCPU := "–", "–"
			if ours := t.figures[j.name][rowand]; name != rowand && len(ours) > 0 {
				mine = fmt.Sprintf("%.2f ×", ratio(ours, figures, rate))
				if name != direct {
					mineCPU = fmt.Sprintf("%.2f ×", ratio(ours, figures, cpu))
				}
			}
			fmt.Fprintf(&s, "| %s | %s | %s %s | %s | %s | %s | %s | %s |\n", j.name, name,
				rounded(median(figures, rate)), j.unit, spread(figures), mine,
				micros(median(figures, latency99)), micros(median(figures, cpu)), mineCPU)
		}
	}
	return s.String() + t.renderStalls()
}

func spread(figures []figure) string {
	compare := func(a, b figure) int { return cmp.Compare(a.rate, b.rate) }
	low, high := slices.MinFunc(figures, compare), slices.MaxFunc(figures, compare)
	return rounded(low.rate) + " to " + rounded(high.rate)
}

// facts says what was measured on, without names.
func facts() string {
	var u syscall.Utsname
	if err := syscall.Uname(&u); err != nil {
		return err.Error()
	}
	var release []byte
	for _, c := range u.Release {
		if c == 0 {
			break
		}
		release = append(release, byte(c))
	}
	return fmt.Sprintf("%d cores (%s), %s of memory, Linux %s; %s, %s, %s, %s. The client runs on the same cores; everything fits the page cache.",
		runtime.NumCPU(), processor(), memory(), majorMinor(string(release)), runtime.Version(),
		version("nbdkit", "--version"), version("qemu-nbd", "--version"), version("fio", "--version"))
}

// majorMinor is the part of a kernel's release that says which kernel it is, and
// not who built it.
func majorMinor(release string) string {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return release
	}
	minor, _, _ := strings.Cut(parts[1], "-")
	return parts[0] + "." + minor
}

// processor is the model name that the kernel reports.
func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func memory() string {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return "unknown size"
	}
	return fmt.Sprintf("%d GiB", info.Totalram*uint64(info.Unit)>>30)
}

// filesystem names the type of the filesystem that dir lies on.
func filesystem(dir string) string {
	out, err := exec.Command("df", "--output=fstype", dir).Output()
	lines := strings.Fields(string(out))
	if err != nil || len(lines) < 2 {
		return "unknown filesystem"
	}
	return lines[len(lines)-1]
}

// version is a program's name and the version that it says it has.
func version(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return name
	}
	return plainVersion(name, string(out))
}

var versionNumber = regexp.MustCompile(`[0-9]+(\.[0-9]+)+`)

// plainVersion is a name and the first number in what a program says of itself,
// without what distributions add to it.
func plainVersion(name, said string) string {
	line, _, _ := strings.Cut(said, "\n")
	return strings.TrimSpace(name + " " + versionNumber.FindString(line))
}
