package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

// units are the powers of 1024 by their letter.
const units = "KMGTPE"

// parseSize reads a size: bytes, or a number with K, M, G, T, P or E, which
// count in powers of 1024 and may be followed by iB.
func parseSize(text string) (int64, error) {
	number, shift := strings.TrimSpace(text), 0
	upper := strings.ToUpper(number)
	upper = strings.TrimSuffix(upper, "IB")
	if n := len(upper); n > 0 {
		if i := strings.IndexByte(units, upper[n-1]); i >= 0 {
			shift = 10 * (i + 1)
			upper = upper[:n-1]
		} else if len(upper) != len(number) {
			return 0, badSize(text)
		}
	}
	value, err := strconv.ParseFloat(upper, 64)
	if err != nil || strings.ContainsAny(upper, "XPE_IN") || math.IsNaN(value) {
		return 0, badSize(text)
	}
	if shift == 0 {
		whole, err := strconv.ParseInt(upper, 10, 64)
		if err != nil {
			return 0, badSize(text)
		}
		return whole, nil
	}
	value = math.Ldexp(value, shift)
	if value != math.Trunc(value) || value < 0 || value >= math.MaxInt64 {
		return 0, badSize(text)
	}
	return int64(value), nil
}

func badSize(text string) error {
	return usagef("%q is not a size: give bytes, or a number with K, M, G, T (powers of 1024) such as 10G or 1.5TiB", text)
}

// parseLUNSize reads the size of a LUN.
func parseLUNSize(text string) (int64, error) {
	size, err := parseSize(text)
	if err != nil {
		return 0, err
	}
	if size <= 0 {
		return 0, usagef("the size %s is not more than nothing", text)
	}
	if rest := size % wire.BlockBytes; rest != 0 {
		return 0, usagef("the size %d is not a multiple of %d: the next one up is %d",
			size, wire.BlockBytes, size-rest+wire.BlockBytes)
	}
	return size, nil
}

// formatSize writes a size for people, to three digits where it is not whole.
func formatSize(bytes int64) string {
	value, unit := float64(bytes), -1
	for math.Abs(value) >= 1024 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	if unit < 0 {
		return strconv.FormatInt(bytes, 10) + " B"
	}
	digits := 2
	switch {
	case value == math.Trunc(value) || math.Abs(value) >= 100:
		digits = 0
	case math.Abs(value) >= 10:
		digits = 1
	}
	return fmt.Sprintf("%.*f %ciB", digits, value, units[unit])
}
