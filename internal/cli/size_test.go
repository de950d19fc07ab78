package cli

import (
	"math"
	"testing"
)

func TestParseSize(t *testing.T) {
	cases := []struct {
		text string
		want int64 // -1 for an error
	}{
		{"0", 0}, {"4096", 4096}, {"1K", 1 << 10}, {"1k", 1 << 10}, {"512M", 512 << 20}, {"10G", 10 << 30},
		{"10GiB", 10 << 30}, {"10gib", 10 << 30}, {"1T", 1 << 40}, {"1.5T", 3 << 39}, {"0.5K", 512}, {"1P", 1 << 50},
		{"7E", 7 << 60}, {" 1G ", 1 << 30}, {"9223372036854775807", math.MaxInt64}, {"9007199254740993", 9007199254740993},
		{"", -1}, {"G", -1}, {"iB", -1}, {"10iB", -1}, {"10GB", -1}, {"10B", -1}, {"-1G", -1}, {"1.0001K", -1},
		{"8E", -1}, {"9223372036854775808", -1}, {"1e3", -1}, {"0x10", -1}, {"inf", -1}, {"nanG", -1}, {"1_0", -1},
		{"1 G", -1}, {"ten", -1}, {"1e3G", -1}, {"1.5", -1},
	}
	for _, c := range cases {
		got, err := parseSize(c.text)
		if err != nil {
			got = -1
			if exitCode(err) != ExitUsage {
				t.Errorf("%q: exit code %d", c.text, exitCode(err))
			}
		}
		if got != c.want {
			t.Errorf("parseSize(%q) = %d (%v), want %d", c.text, got, err, c.want)
		}
	}
}

func TestParseLUNSize(t *testing.T) {
	for text, ok := range map[string]bool{"4K": true, "4096": true, "10G": true, "0": false, "-4096": false, "4097": false, "1K": false} {
		if _, err := parseLUNSize(text); (err == nil) != ok {
			t.Errorf("parseLUNSize(%q): %v", text, err)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for bytes, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.50 KiB", 10 << 30: "10 GiB", 10<<30 + 300<<20: "10.3 GiB",
		1<<40 + 1: "1.00 TiB", 150<<20 + 1: "150 MiB", -4096: "-4 KiB", math.MaxInt64: "8 EiB",
	} {
		if got := formatSize(bytes); got != want {
			t.Errorf("formatSize(%d) = %q, want %q", bytes, got, want)
		}
	}
}
