package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/portolan-net/portolan/internal/proxy/entry"
)

// Loader reads the PAC script at a URL or path.
type Loader func(ctx context.Context, location string) (text string, err error)

// When scripts are loaded again.
const (
	reloadEvery = 5 * time.Minute  // from a URL
	retryEvery  = 10 * time.Second // where it failed
	loadTime    = 10 * time.Second
	settleFor   = 50 * time.Millisecond // a file that is being written
)

// source is one script by its location.
type source struct {
	script  *Script // never nil
	text    string
	due     time.Time // when it is loaded again
	problem error     // of the last time
	needed  bool
}

// scripts are those in use, by location; embedded ones by setting.
type scripts map[string]*source

func (s scripts) unneeded() {
	for _, one := range s {
		one.needed = false
	}
}

// errLoading denies until the first answer is there.
var errLoading = errors.New("it is not loaded yet")

// get is the script at a location, which load fills in.
func (s scripts) get(location string) *Script {
	one, ok := s[location]
	if !ok {
		one = &source{script: FailedScript(location, errLoading)}
		s[location] = one
	}
	one.needed = true
	return one.script
}

// embedded is a script of the settings.
func (s scripts) embedded(name, text string, host Host) *Script {
	one, ok := s[name]
	if !ok || one.text != text {
		one = &source{script: NewScript(name, text, host), text: text}
		one.problem = one.script.Err()
		s[name] = one
	}
	one.needed = true
	return one.script
}

// load reads what is due, puts it in force, and says when the next is due.
func (l *Live) load(ctx context.Context, files *fileWatch) time.Duration {
	l.mu.Lock()
	due := l.scripts.due()
	files.watch(l.scripts.files())
	l.mu.Unlock()
	for _, location := range due {
		loadCtx, cancel := context.WithTimeout(ctx, loadTime)
		text, err := l.Load(loadCtx, location)
		cancel()
		l.mu.Lock()
		if one, ok := l.scripts[location]; ok {
			one.take(location, text, err, l.Host)
		}
		l.applyLocked()
		l.mu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.scripts.next()
}

// due forgets what nobody needs, and lists what is to be read: what comes from a
// URL when its time has come, files always, for that is cheap.
func (s scripts) due() []string {
	var locations []string
	for location, one := range s {
		if !one.needed {
			delete(s, location)
			continue
		}
		path, err := entry.ParsePAC(location)
		if err == nil && (path != "" || !time.Now().Before(one.due)) {
			locations = append(locations, location)
		}
	}
	return locations
}

// files are the paths of those that come from files.
func (s scripts) files() []string {
	var paths []string
	for location := range s {
		if path, err := entry.ParsePAC(location); err == nil && path != "" {
			paths = append(paths, path)
		}
	}
	return paths
}

// next is how long nothing is due.
func (s scripts) next() time.Duration {
	next := time.Hour
	for location, one := range s {
		path, err := entry.ParsePAC(location)
		if err == nil && (path == "" || one.problem != nil) {
			next = min(next, time.Until(one.due))
		}
	}
	return max(next, settleFor)
}

// take notes what loading gave. A text that is the same leaves the script as it
// is, and so does an error after a success.
func (one *source) take(location, text string, err error, host Host) {
	one.due = time.Now().Add(retryEvery)
	if err != nil {
		if one.script.program == nil {
			one.script = FailedScript(location, err)
		} else {
			err = fmt.Errorf("%w; the last one stays in use", err)
		}
		one.problem = &PACError{Source: location, Err: err}
		return
	}
	if path, _ := entry.ParsePAC(location); path == "" {
		one.due = time.Now().Add(reloadEvery)
	}
	if text != one.text || one.script.program == nil {
		one.text, one.script = text, NewScript(location, text, host)
	}
	one.problem = one.script.Err()
}

// NewLoader reads files that this process may read, and URLs without any proxy.
func NewLoader(dial func(ctx context.Context, network, address string) (net.Conn, error)) Loader {
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	return func(ctx context.Context, location string) (string, error) {
		path, err := entry.ParsePAC(location)
		if err != nil {
			return "", err
		}
		if path != "" {
			return readScript(path)
		}
		return fetchScript(ctx, client, location)
	}
}

func fetchScript(ctx context.Context, client *http.Client, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	request.Header.Set("Accept", "application/x-ns-proxy-autoconfig, */*")
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("load it: %s", printable(response.Status))
	}
	return readLimited(response.Body)
}

func readScript(path string) (string, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		return "", errors.New("no regular file")
	}
	if err != nil {
		return "", err
	}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return "", fmt.Errorf("%w: the daemon reads PAC files in the profile's settings directory, in /etc and in /usr/share; put it there, or give a URL", err)
	}
	if err != nil {
		return "", err
	}
	defer file.Close()
	return readLimited(file)
}

func readLimited(r io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxScript+1))
	if err == nil && len(text) > maxScript {
		err = fmt.Errorf("it has more than %d bytes", maxScript)
	}
	return string(text), err
}

// fileWatch tells when one of some files may have changed.
type fileWatch struct {
	watcher *fsnotify.Watcher // nil where the system gives none
	log     *slog.Logger
	tell    chan struct{}
	ended   chan struct{}
}

func newFileWatch(log *slog.Logger) *fileWatch {
	w := &fileWatch{log: log, tell: make(chan struct{}, 1), ended: make(chan struct{})}
	var err error
	if w.watcher, err = fsnotify.NewWatcher(); err != nil {
		log.Warn("changes of PAC files are not seen; after one type: portolan settings apply", "err", err)
		close(w.ended)
		return w
	}
	go w.run()
	return w
}

func (w *fileWatch) run() {
	defer close(w.ended)
	settle := time.NewTimer(time.Hour)
	defer settle.Stop()
	for {
		select {
		case event, ok := <-w.watcher.Events:
			if !ok {
				return
			}
			if event.Op != fsnotify.Chmod {
				settle.Reset(settleFor)
			}
		case _, ok := <-w.watcher.Errors:
			if !ok {
				return
			}
			settle.Reset(settleFor)
		case <-settle.C:
			select {
			case w.tell <- struct{}{}:
			default:
			}
		}
	}
}

func (w *fileWatch) changed() <-chan struct{} { return w.tell }

// watch follows the directories of paths, and what links lead to, instead of those
// before.
func (w *fileWatch) watch(paths []string) {
	if w.watcher == nil {
		return
	}
	var dirs []string
	for _, path := range paths {
		dirs = append(dirs, filepath.Dir(path))
		if target, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(target))
		}
	}
	for _, dir := range w.watcher.WatchList() {
		if !slices.Contains(dirs, dir) {
			_ = w.watcher.Remove(dir) // it may be gone already
		}
	}
	for _, dir := range dirs {
		if err := w.watcher.Add(dir); err != nil {
			w.log.Debug("directory of a PAC file is not followed", "dir", dir, "err", err)
		}
	}
}

func (w *fileWatch) close() {
	if w.watcher != nil {
		_ = w.watcher.Close()
	}
	<-w.ended
}

// RealHost is this computer, with the resolver that it has.
func RealHost() Host {
	return Host{
		Lookup: func(ctx context.Context, name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", strings.TrimSuffix(name, "."))
		},
		Address: outgoing,
		Now:     time.Now,
	}
}

// outgoing is the address from which this computer speaks to the internet. To
// connect a UDP socket sends nothing; the destinations are of the documentation.
func outgoing() (netip.Addr, error) {
	var last error
	for _, to := range []string{"192.0.2.1:53", "[2001:db8::1]:53"} {
		remote := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))
		conn, err := net.DialUDP("udp", nil, remote)
		if err != nil {
			last = err
			continue
		}
		local := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		_ = conn.Close()
		return local, nil
	}
	return netip.Addr{}, last
}
