package confine

import (
	"errors"
	"fmt"
	"log/slog"

	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Policy says what the process keeps.
type Policy struct {
	// Keep are the capabilities that stay, where the process has them.
	Keep []cap.Value
	// Files limits the process to its paths; nil limits nothing.
	Files *Files
}

// InForce says what the kernel has accepted.
type InForce struct {
	Capabilities string // cap_to_text(3) form of what is left; "=" for none
	Landlock     int    // ABI version that is used, 0 for none
	Seccomp      bool
}

// LogValue implements slog.LogValuer.
func (f InForce) LogValue() slog.Value {
	return slog.GroupValue(slog.String("capabilities", f.Capabilities), slog.Int("landlock", f.Landlock), slog.Bool("seccomp", f.Seccomp))
}

// Apply confines the process for good. A kernel without Landlock or seccomp is
// no error: InForce tells. After an error some of it may be in force.
func Apply(p Policy) (InForce, error) {
	var done InForce
	var err error
	if done.Capabilities, err = dropCapabilities(p.Keep); err != nil {
		return done, fmt.Errorf("drop capabilities: %w", err)
	}
	if _, err := cap.Prctlw(prSetNoNewPrivs, 1, 0, 0, 0); err != nil {
		return done, fmt.Errorf("set no_new_privs: %w", err)
	}
	if p.Files != nil {
		if done.Landlock, err = p.Files.restrict(); err != nil {
			return done, fmt.Errorf("restrict paths: %w", err)
		}
	}
	if done.Seccomp, err = filterCalls(); err != nil {
		return done, fmt.Errorf("restrict system calls: %w", err)
	}
	return done, nil
}

// prSetNoNewPrivs is PR_SET_NO_NEW_PRIVS of prctl(2).
const prSetNoNewPrivs = 38

// dropCapabilities leaves the process those of keep that it has, and nothing in
// the sets that programs it starts would inherit.
func dropCapabilities(keep []cap.Value) (string, error) {
	had, left := cap.GetProc(), cap.NewSet()
	for _, value := range keep {
		has, err := had.GetFlag(cap.Permitted, value)
		if err != nil {
			return "", err
		}
		if err := errors.Join(left.SetFlag(cap.Permitted, has, value), left.SetFlag(cap.Effective, has, value)); err != nil {
			return "", err
		}
	}
	if err := cap.ResetAmbient(); err != nil {
		return "", err
	}
	// Who may not change the bounding set has no_new_privs instead.
	if mayBound, err := had.GetFlag(cap.Effective, cap.SETPCAP); err == nil && mayBound {
		for value := range cap.MaxBits() {
			if err := cap.DropBound(value); err != nil {
				return "", err
			}
		}
	}
	if err := left.SetProc(); err != nil {
		return "", err
	}
	return left.String(), nil
}
