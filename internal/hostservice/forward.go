package hostservice

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
)

// MachineDir is where sockets in the machine are by name only. Like all of
// machineRun, but for what it shows of the host, it is the machine's own, so that
// nothing is left on the host.
const (
	MachineDir = machineRun + "/host-services"
	machineRun = "/run"
)

// SSHAgent is where containers find the user's ssh-agent.
var SSHAgent = Endpoint{Network: "unix", Address: MachineDir + "/ssh-auth.sock"}

// Endpoint is one end of a forward.
type Endpoint struct {
	Network string // unix or tcp
	Address string // a path, or ADDRESS:PORT with a numeric address
}

// ParseEndpoint reads unix:PATH or tcp:ADDRESS:PORT. A path without a slash is
// kept as it is: see Forward.Place.
func ParseEndpoint(text string) (Endpoint, error) {
	network, address, _ := strings.Cut(text, ":")
	switch network {
	case "unix":
		if strings.Contains(address, "/") && !filepath.IsAbs(address) || address == "" || strings.ContainsRune(address, 0) {
			return Endpoint{}, fmt.Errorf("%q: want an absolute path, such as unix:/run/host-services/db.sock", text)
		}
		if filepath.IsAbs(address) {
			address = filepath.Clean(address)
		}
		return Endpoint{network, address}, nil
	case "tcp":
		if port, ok := strings.CutPrefix(address, "localhost:"); ok {
			address = "127.0.0.1:" + port
		}
		addr, err := netip.ParseAddrPort(address)
		if err != nil || addr.Port() == 0 {
			return Endpoint{}, fmt.Errorf("%q: want an address and a port, such as tcp:127.0.0.1:5432", text)
		}
		return Endpoint{network, netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()).String()}, nil
	}
	return Endpoint{}, fmt.Errorf("%q: want unix:PATH or tcp:ADDRESS:PORT", text)
}

// String is what ParseEndpoint reads.
func (e Endpoint) String() string { return e.Network + ":" + e.Address }

// MarshalText writes String.
func (e Endpoint) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText is ParseEndpoint.
func (e *Endpoint) UnmarshalText(text []byte) (err error) {
	*e, err = ParseEndpoint(string(text))
	return err
}

// AddrPort is the address of a TCP endpoint, else the zero one.
func (e Endpoint) AddrPort() netip.AddrPort {
	addr, _ := netip.ParseAddrPort(e.Address) // of unix: no address
	return addr
}

// Side is where a forward listens.
type Side string

// The sides.
const (
	Host    Side = "host"
	Machine Side = "machine"
)

// Forward is one listener and where its connections lead: from one side to the
// other.
type Forward struct {
	From   Side     `json:"from"`
	Listen Endpoint `json:"listen"`
	To     Endpoint `json:"to"`
}

// maxPath is sun_path of unix(7) less its terminating zero.
const maxPath = 107

var socketName = regexp.MustCompile(`^[A-Za-z0-9._-]*[A-Za-z0-9_-]$`)

// Places are where forwards may listen on the host.
type Places struct {
	Dir   string // of sockets that are only named
	Guard Guard  // what is others' place
}

// Place checks f and puts a listener that is only a name into the directory of
// its side. Listeners are local: sockets, and TCP on loopback.
func (p Places) Place(f Forward) (Forward, error) {
	dir, guard := p.Dir, p.Guard
	switch f.From {
	case Machine:
		dir, guard = MachineDir, MachineGuard()
	case Host:
	default:
		return f, fmt.Errorf("--from %q: want host or machine", f.From)
	}
	if f.To.Network == "unix" && !filepath.IsAbs(f.To.Address) {
		return f, fmt.Errorf("connect to %s: want an absolute path", f.To)
	}
	if f.Listen.Network == "tcp" {
		if !f.Listen.AddrPort().Addr().IsLoopback() {
			return f, fmt.Errorf("listen on %s: want 127.0.0.1 or [::1]; what other computers are to reach is published by docker run -p", f.Listen)
		}
		return f, nil
	}
	if !filepath.IsAbs(f.Listen.Address) {
		f.Listen.Address = filepath.Join(dir, f.Listen.Address)
	}
	switch {
	case !socketName.MatchString(filepath.Base(f.Listen.Address)):
		return f, fmt.Errorf("listen on %s: want a socket of letters, digits, '.', '_' and '-', such as unix:db.sock", f.Listen)
	case f.From == Machine && !strings.HasPrefix(f.Listen.Address, machineRun+"/"):
		return f, fmt.Errorf("listen on %s: want a socket below %s, which is the machine's own; unix:NAME is one in %s", f.Listen, machineRun, dir)
	case filepath.Dir(f.Listen.Address) != dir && guard.namesMissing(f.Listen.Address):
		return f, fmt.Errorf("listen on %s: that is a place of an engine's or of Portolan's; choose another one, such as unix:db.sock", f.Listen)
	}
	if len(f.Listen.Address) > maxPath {
		return f, fmt.Errorf("listen on %s: the path is longer than %d bytes; take a shorter name", f.Listen, maxPath)
	}
	if f.From == Machine && f.Listen == SSHAgent {
		return f, fmt.Errorf("listen on %s: that is the ssh-agent's; portolan ssh-agent use PATH changes where it leads", f.Listen)
	}
	return f, nil
}
