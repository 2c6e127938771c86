package system

import (
	"fmt"
	"strconv"
	"strings"
)

// PortRange is the ports from First to Last, both included. The zero PortRange
// holds none.
type PortRange struct{ First, Last uint16 }

// lowestPort keeps a range clear of the ports that systems reserve for root.
const lowestPort = 1024

// ParsePortRange reads "49000-49900": ports of 1024 to 65535.
func ParsePortRange(text string) (PortRange, error) {
	first, last, _ := strings.Cut(text, "-")
	low, err := strconv.ParseUint(first, 10, 16)
	if err != nil {
		return PortRange{}, fmt.Errorf("parse port range %q: want FIRST-LAST, such as 49000-49900", text)
	}
	high, err := strconv.ParseUint(last, 10, 16)
	if err != nil || low > high || low < lowestPort {
		return PortRange{}, fmt.Errorf("parse port range %q: want FIRST-LAST within %d-65535, such as 49000-49900", text, lowestPort)
	}
	return PortRange{uint16(low), uint16(high)}, nil
}

// Contains reports whether port is in the range.
func (r PortRange) Contains(port uint16) bool {
	return r.First <= port && port <= r.Last && r.Last != 0
}

// Size is the number of ports.
func (r PortRange) Size() int {
	if r.Last == 0 {
		return 0
	}
	return int(r.Last) - int(r.First) + 1
}

// String returns "49000-49900".
func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

// MarshalText writes what ParsePortRange reads, and nothing for no ports.
func (r PortRange) MarshalText() ([]byte, error) {
	if r.Size() == 0 {
		return nil, nil
	}
	return []byte(r.String()), nil
}

// UnmarshalText reads what MarshalText writes.
func (r *PortRange) UnmarshalText(text []byte) (err error) {
	*r = PortRange{}
	if len(text) > 0 {
		*r, err = ParsePortRange(string(text))
	}
	return err
}
