package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/profile"
	"github.com/portolan-net/portolan/internal/spec"
)

// addedPortsFile lies with the containers: both outlive the machine.
func addedPortsFile(p profile.Profile) string { return filepath.Join(p.StateDir, "added-ports.json") }

// storedWish is a wish in the file.
type storedWish struct {
	Container string         `json:"container"` // its id
	Host      netip.AddrPort `json:"host"`
	Proto     portolan.Proto `json:"proto"`
	Port      uint16         `json:"port"` // of the container
}

// valid reports whether publish.Table can make something of it.
func (w storedWish) valid() bool {
	return w.Container != "" && w.Host.IsValid() && w.Host.Port() != 0 && w.Port != 0 && (w.Proto == portolan.TCP || w.Proto == portolan.UDP)
}

// load reads the wishes; a file that is not there holds none.
func (a *addedPorts) load() error {
	text, err := os.ReadFile(a.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var stored []storedWish
	if err := json.Unmarshal(text, &stored); err != nil {
		return fmt.Errorf("%s is damaged: %w", a.path, err)
	}
	for _, w := range stored {
		if !w.valid() {
			return fmt.Errorf("%s is damaged: %+v is no port", a.path, w)
		}
	}
	for _, w := range stored {
		a.wishes = append(a.wishes, &wish{id: w.Container, host: w.Host, proto: w.Proto, port: w.Port})
	}
	return nil
}

// saveLocked writes the wishes. Without the file they hold until this daemon ends.
func (a *addedPorts) saveLocked() {
	stored := make([]storedWish, 0, len(a.wishes))
	for _, w := range a.wishes {
		stored = append(stored, storedWish{Container: w.id, Host: w.host, Proto: w.proto, Port: w.port})
	}
	text, err := json.Marshal(stored)
	if err == nil {
		err = spec.WriteFile(a.path, text)
	}
	if err != nil {
		a.log.Warn("added ports will not outlive this daemon", "error", err)
	}
}

// waiting lists the wishes that can't be granted though their containers run.
func (a *addedPorts) waiting() []api.Port {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []api.Port
	for _, w := range a.wishes {
		if w.problem != "" {
			b := portolan.Binding{Proto: w.proto, Host: w.host, Container: netip.AddrPortFrom(netip.IPv4Unspecified(), w.port)}
			list = append(list, api.Port{Binding: b, Name: w.name, Added: true, Error: w.problem})
		}
	}
	return list
}
