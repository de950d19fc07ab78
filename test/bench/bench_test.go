package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const fioReport = `fio: a warning first
{"jobs":[{"error":0,
  "read":{"iops":0,"bw_bytes":0,"total_ios":0,"clat_ns":{}},
  "write":{"iops":1000.5,"bw_bytes":4194304,"total_ios":5000,
           "clat_ns":{"percentile":{"99.000000":250000}}}}]}`

func TestParseFio(t *testing.T) {
	f, ios, err := parseFio([]byte(fioReport), iops)
	if err != nil || ios != 5000 || f.rate != 1000.5 || f.latency99 != 250*time.Microsecond {
		t.Errorf("got %+v, %d, %v", f, ios, err)
	}
	if f, _, err := parseFio([]byte(fioReport), mibs); err != nil || f.rate != 4 {
		t.Errorf("in MiB/s: got %+v, %v", f, err)
	}
	failed := strings.Replace(fioReport, `"error":0`, `"error":5`, 1)
	for _, report := range []string{"", "{}", `{"jobs":[{}]}`, failed} {
		if _, _, err := parseFio([]byte(report), iops); err == nil {
			t.Errorf("no error from %q", report)
		}
	}
}

func TestTableComparesRoundByRound(t *testing.T) {
	j := jobs(time.Second)[0]
	table := newTable()
	for _, r := range [][2]float64{{300, 100}, {100, 90}, {200, 50}} {
		table.add(j, rowand, figure{rate: r[0]})
		table.add(j, nbdkit, figure{rate: r[1]})
	}
	text := table.render("ext4")
	for _, want := range []string{
		"| " + j.name + " | rowand | 200 I/O per second | 100 to 300 | – |",
		"| " + j.name + " | nbdkit file | 90 I/O per second | 50 to 100 | 3.00 × |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestCPUTimeOfAProcess(t *testing.T) {
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	s := &server{cmd: &exec.Cmd{Process: self}}
	before, err := s.cpu()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
		n++
	}
	after, err := s.cpu()
	if err != nil || after <= before {
		t.Errorf("before %v, after %v and %d rounds, %v", before, after, n, err)
	}
}

func TestVersionsNameNoBuild(t *testing.T) {
	for _, c := range [][2]string{
		{plainVersion("nbdkit", "nbdkit 1.32.5 (nbdkit-1.32.5-1)\n"), "nbdkit 1.32.5"},
		{plainVersion("qemu-nbd", "qemu-nbd 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nWritten by\n"), "qemu-nbd 7.2.22"},
		{plainVersion("fio", "fio-3.33\n"), "fio 3.33"},
		{plainVersion("fio", ""), "fio"},
		{majorMinor("6.1.0-28-cloud-amd64"), "6.1"},
		{majorMinor("6.18-rc1-name"), "6.18"},
		{majorMinor("odd"), "odd"},
	} {
		if c[0] != c[1] {
			t.Errorf("got %q, want %q", c[0], c[1])
		}
	}
}
