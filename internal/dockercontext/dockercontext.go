// Package dockercontext writes and removes the docker CLI's contexts for
// profiles, in the CLI's own configuration directory. The formats are those of
// github.com/docker/cli, cli/context/store (metadatastore.go) and
// cli/config/configfile: one meta.json below a folder named by the SHA-256 of
// the context's name, and currentContext in config.json.
//
// docker/cli is not imported for this: it brings some eighty modules for two
// small files. Only the CLI of Portolan uses this package.
package dockercontext

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
)

// marker is the key in a context's metadata by which ours are known. The
// docker CLI keeps metadata keys that it does not know.
const marker = "net.portolan"

// ErrForeign says that a context of that name exists and is not ours.
var ErrForeign = errors.New("exists and was not made by portolan")

// Dir is a docker configuration directory. The zero value is of no use.
type Dir string

// DefaultDir is $DOCKER_CONFIG, or .docker in the user's home.
func DefaultDir() (Dir, error) {
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		return Dir(dir), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		u, lookupErr := user.Current()
		if lookupErr != nil || u.HomeDir == "" {
			return "", fmt.Errorf("find docker's configuration: %w; set HOME or DOCKER_CONFIG", err)
		}
		home = u.HomeDir
	}
	return Dir(filepath.Join(home, ".docker")), nil
}

// Context is one entry of `docker context ls`.
type Context struct {
	Name        string
	Description string
	Host        string // unix:///...
}

// meta is meta.json as the docker CLI writes it, as far as we need it.
type meta struct {
	Name      string
	Metadata  map[string]any
	Endpoints map[string]endpoint
}

// endpoint is cli/context/docker.EndpointMeta.
type endpoint struct {
	Host          string
	SkipTLSVerify bool
}

// Check says whether Write may write a context of that name: an error wraps
// ErrForeign when somebody else made it.
func (d Dir) Check(name string) error {
	_, _, err := d.read(name)
	return err
}

// Write makes or renews the context.
func (d Dir) Write(c Context) error {
	if err := d.Check(c.Name); err != nil {
		return err
	}
	text, err := json.Marshal(meta{
		Name:      c.Name,
		Metadata:  map[string]any{"Description": c.Description, marker: true},
		Endpoints: map[string]endpoint{"docker": {Host: c.Host}},
	})
	if err != nil {
		return fmt.Errorf("write docker context %s: %w", c.Name, err)
	}
	if err := os.MkdirAll(d.metaDir(c.Name), 0o755); err != nil {
		return fmt.Errorf("write docker context %s: %w", c.Name, err)
	}
	if err := writeAtomic(d.metaFile(c.Name), text, 0o644); err != nil {
		return fmt.Errorf("write docker context %s: %w", c.Name, err)
	}
	return nil
}

// Remove deletes the context if it is ours and still leads to host, and resets
// the current context when it was this one. A context that does not exist, or
// belongs to somebody else, is left as it is.
func (d Dir) Remove(name, host string) (removed bool, err error) {
	m, found, err := d.read(name)
	if errors.Is(err, ErrForeign) || err == nil && (!found || m.Endpoints["docker"].Host != host) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// config.json goes first: a current context that does not exist makes every
	// docker command fail.
	current, err := d.Current()
	if err == nil && current == name {
		err = d.SetCurrent("")
	}
	if err != nil {
		return false, err
	}
	if err := os.RemoveAll(d.metaDir(name)); err != nil {
		return false, fmt.Errorf("remove docker context %s: %w", name, err)
	}
	if err := os.RemoveAll(filepath.Join(string(d), "contexts", "tls", digest(name))); err != nil {
		return false, fmt.Errorf("remove docker context %s: %w", name, err)
	}
	return true, nil
}

// read returns the context of that name when it exists and is ours.
func (d Dir) read(name string) (m meta, found bool, err error) {
	text, err := os.ReadFile(d.metaFile(name))
	if errors.Is(err, fs.ErrNotExist) {
		return meta{}, false, nil
	}
	if err != nil {
		return meta{}, false, fmt.Errorf("read docker context %s: %w", name, err)
	}
	if json.Unmarshal(text, &m) != nil || m.Metadata[marker] != true {
		return meta{}, false, fmt.Errorf("docker context %s %w: remove it with: docker context rm %s, or choose another profile", name, ErrForeign, name)
	}
	return m, true, nil
}

func (d Dir) metaDir(name string) string {
	return filepath.Join(string(d), "contexts", "meta", digest(name))
}

func (d Dir) metaFile(name string) string { return filepath.Join(d.metaDir(name), "meta.json") }

func digest(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

// writeAtomic replaces path by a file with that text, or leaves it alone.
func writeAtomic(path string, text []byte, mode fs.FileMode) error {
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(temp.Name()) }() // fails after the rename, as it should
	_, err = temp.Write(text)
	err = errors.Join(err, temp.Chmod(mode), temp.Sync(), temp.Close())
	if err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}
