package deputy

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/portolan-net/portolan/internal/client"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/profile"
)

// neighbours names containers of the user's other profiles, whose directories
// lie beside that of own.
func neighbours(own profile.Profile, b portolan.Binding) func(ctx context.Context, pid int) string {
	return func(ctx context.Context, pid int) string {
		root := filepath.Dir(own.RunDir)
		dirs, _ := os.ReadDir(root) // without them nobody is named
		for _, dir := range dirs {
			other := profile.Profile{Name: dir.Name(), RunDir: filepath.Join(root, dir.Name())}
			if other.Name == own.Name {
				continue
			}
			if name := publisher(ctx, client.New(other), pid, b); name != "" {
				return fmt.Sprintf("%s of profile %s", name, other.Name)
			}
		}
		return ""
	}
}

// publisher is the container whose port stands in the way of b, if the daemon is
// that process.
func publisher(ctx context.Context, daemon *client.Client, pid int, b portolan.Binding) string {
	status, err := daemon.Status(ctx)
	if err != nil || status.Daemon.PID != pid {
		return "" // most have none, or another one
	}
	ports, err := daemon.Ports(ctx)
	if err != nil {
		return ""
	}
	for _, p := range ports {
		if p.Error != "" || p.Proto != b.Proto || p.Host.Port() != b.Host.Port() || !overlap(p.Host.Addr(), b.Host.Addr()) {
			continue
		}
		if p.Name == "" {
			return "the container at " + p.Container.String()
		}
		return fmt.Sprintf("container %s (%s)", p.Name, p.Container)
	}
	return ""
}

func overlap(a, b netip.Addr) bool {
	return a.Is4() == b.Is4() && (a == b || a.IsUnspecified() || b.IsUnspecified())
}
