package server

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Ports are TCP ports. The zero value has none.
type Ports struct {
	all  bool
	list []uint16
}

// ParsePorts reads containersProxy.transparentPorts: "", "80,443" or "*".
func ParsePorts(text string) (Ports, error) {
	text = strings.TrimSpace(text)
	if text == "*" {
		return Ports{all: true}, nil
	}
	var p Ports
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == ' ' }) {
		port, err := strconv.ParseUint(word, 10, 16)
		if err != nil || port == 0 {
			return Ports{}, fmt.Errorf("port %q: want a number from 1 to 65535, several with commas between them, or *", word)
		}
		p.list = append(p.list, uint16(port))
	}
	return p, nil
}

// Has reports whether port is one of them.
func (p Ports) Has(port uint16) bool { return p.all || slices.Contains(p.list, port) }
