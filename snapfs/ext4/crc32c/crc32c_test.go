package crc32c

import "testing"

func TestUpdate(t *testing.T) {
	// From the catalogue of parametrised CRC algorithms: "123456789".
	p := []byte("123456789")
	if got := ^Update(^uint32(0), p); got != 0xe3069283 {
		t.Errorf("CRC-32C: %#x", got)
	}
	if got, want := Update(Update(7, p[:4]), p[4:]), Update(7, p); got != want {
		t.Errorf("continued: %#x, expected %#x", got, want)
	}
}

func TestWithout(t *testing.T) {
	for n, zeroed := range []string{"ab1234cd", "ab\x00234cd", "ab\x00\x0034cd", "ab\x00\x00\x004cd", "ab\x00\x00\x00\x00cd"} {
		if got, want := Without(1, []byte("ab1234cd"), 2, n), Update(1, []byte(zeroed)); got != want {
			t.Errorf("%d bytes: %#x, expected %#x", n, got, want)
		}
	}
}
