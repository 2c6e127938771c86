package hostservice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"
)

// Far is what a Table asks of the machine: the agent.
type Far interface {
	// SetListeners opens and closes listeners in the machine.
	SetListeners(ctx context.Context, want []Endpoint) error
	// CheckTarget says why no forward may lead to a socket of the machine.
	CheckTarget(ctx context.Context, to Endpoint) error
}

// Table is the daemon's list of forwards, kept in a file.
type Table struct {
	File   string
	Places Places
	Host   *Listeners // on the host
	Far    Far
	Check  func(ctx context.Context, to Endpoint) error // why no forward may lead there on the host
	Write  func(path string, text []byte) error
	Log    *slog.Logger

	change sync.Mutex // held while a change is made true
	mu     sync.Mutex // guards what follows
	list   []Forward
	failed map[Endpoint]error // listeners of the host that do not stand
	bad    error              // what is wrong with the file
}

// ErrUnknown is what Remove's error wraps when there is no such forward.
var ErrUnknown = errors.New("no such forward; portolan forward ls lists them")

// maxForwards keeps the list from using up the descriptors.
const maxForwards = 100

// Load reads the file; one that is not there is an empty list. With a bad one the
// list is what the file last held, and can't be changed, so that nothing is lost,
// until somebody has repaired the file: Bad says so.
func (t *Table) Load() error {
	list, err := t.read(t.File)
	switch {
	case err == nil && list != nil:
		err = t.remember(list)
	case err != nil:
		err = fmt.Errorf("%w; repair or remove the file: until then the last good list is in force, and nothing can be added or removed", err)
		list, _ = t.read(t.lastGood()) // without one there is none
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list, t.bad = list, err
	return err
}

// Bad says what is wrong with the file; nil for nothing.
func (t *Table) Bad() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bad
}

// lastGood is where the list is kept as the file last held it.
func (t *Table) lastGood() string { return t.File + ".good" }

// read reads a list from a file, of which any part that is wrong spoils the whole.
func (t *Table) read(path string) ([]Forward, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var list []Forward
	if err == nil {
		list, err = t.parse(text)
	}
	if err != nil {
		return nil, fmt.Errorf("read forwards from %s: %w", path, err)
	}
	return list, nil
}

// parse reads a list, and puts its listeners in their places.
func (t *Table) parse(text []byte) (list []Forward, err error) {
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, err
	}
	if len(list) > maxForwards {
		return nil, fmt.Errorf("%d forwards: want %d at most", len(list), maxForwards)
	}
	for i, f := range list {
		if f.Listen == (Endpoint{}) || f.To == (Endpoint{}) {
			return nil, fmt.Errorf("forward %d: want listen and to, such as unix:PATH or tcp:ADDRESS:PORT", i+1)
		}
		f, err := t.Places.Place(f)
		if err == nil && slices.ContainsFunc(list[:i], f.listensAs) {
			err = fmt.Errorf("listen on %s: another forward does", f.Listen)
		}
		if err == nil {
			err = checkLoop(list[:i], f)
		}
		if err != nil {
			return nil, fmt.Errorf("forward %d: %w", i+1, err)
		}
		list[i] = f
	}
	return list, nil
}

// listensAs reports whether two forwards have the same listener.
func (f Forward) listensAs(other Forward) bool {
	return f.From == other.From && f.Listen == other.Listen
}

func (t *Table) set(list []Forward) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = list
}

// repaired reads the file again if it was bad, and puts it in force. It is called
// with change held.
func (t *Table) repaired(ctx, life context.Context) error {
	if t.Bad() == nil {
		return nil
	}
	if err := t.Load(); err != nil {
		return err
	}
	t.reconcileHost(life) // what does not stand is tried again
	return t.Far.SetListeners(ctx, t.Listens(Machine))
}

// List returns the forwards in the order in which they were added, and what is
// wrong with each, nil for nothing.
func (t *Table) List() ([]Forward, []error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	errs := make([]error, len(t.list))
	for i, f := range t.list {
		if f.From == Host {
			errs[i] = t.failed[f.Listen]
		}
	}
	return slices.Clone(t.list), errs
}

// Listens returns the listeners of one side.
func (t *Table) Listens(side Side) []Endpoint {
	t.mu.Lock()
	defer t.mu.Unlock()
	found := []Endpoint{}
	for _, f := range t.list {
		if f.From == side {
			found = append(found, f.Listen)
		}
	}
	return found
}

// Find returns the forward with that listener.
func (t *Table) Find(side Side, listen Endpoint) (Forward, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(t.list, Forward{From: side, Listen: listen}.listensAs)
	if i < 0 {
		return Forward{}, false
	}
	return t.list[i], true
}

// retryPause is how often a listener of the host that does not stand is tried again.
const retryPause = 5 * time.Second

// Run keeps the host's listeners until ctx ends. One that can't be had now, since
// another program has the port, is tried again, as is the file while it is bad.
func (t *Table) Run(ctx context.Context) error {
	defer t.Host.Close()
	for said := false; ; said = true {
		t.change.Lock()
		if err := t.repaired(ctx, ctx); err != nil && t.Bad() == nil {
			t.Log.Warn("open repaired forwards in the machine", "err", err)
		}
		failed := t.reconcileHost(ctx)
		t.change.Unlock()
		for e, err := range failed {
			if !said {
				t.Log.Warn("forward does not listen; it is tried again", "listener", e, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryPause):
		}
	}
}

// reconcileHost is called with change held.
func (t *Table) reconcileHost(ctx context.Context) map[Endpoint]error {
	failed := t.Host.Set(ctx, t.Listens(Host))
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed = failed
	return failed
}

// Add puts f, which Place has checked, in force and into the file. On an error
// nothing has changed. life is how long its connections last at most.
func (t *Table) Add(ctx, life context.Context, f Forward) error {
	t.change.Lock()
	defer t.change.Unlock()
	if err := t.repaired(ctx, life); err != nil {
		return err
	}
	if _, there := t.Find(f.From, f.Listen); there {
		return fmt.Errorf("forward %s from the %s is there already; portolan forward rm ends it", f.Listen, f.From)
	}
	check := t.Check
	if f.From == Host {
		check = t.Far.CheckTarget
	}
	if err := check(ctx, f.To); err != nil {
		return err
	}
	before, _ := t.List()
	if err := checkLoop(before, f); err != nil {
		return err
	}
	if len(before) >= maxForwards {
		return fmt.Errorf("add forward: there are %d already, which is the most", len(before))
	}
	t.set(append(slices.Clone(before), f))
	err := t.apply(ctx, life, f)
	if err == nil {
		err = t.save()
	}
	if err != nil {
		t.set(before)
		if undo := t.apply(ctx, life, f); undo != nil {
			t.Log.Warn("take back forward", "listener", f.Listen, "err", undo)
		}
	}
	return err
}

// Remove ends the forward with that listener, and its connections.
func (t *Table) Remove(ctx, life context.Context, from Side, listen Endpoint) error {
	t.change.Lock()
	defer t.change.Unlock()
	if err := t.repaired(ctx, life); err != nil {
		return err
	}
	f, there := t.Find(from, listen)
	if !there {
		return fmt.Errorf("remove %s from the %s: %w", listen, from, ErrUnknown)
	}
	before, _ := t.List()
	t.set(slices.DeleteFunc(slices.Clone(before), func(other Forward) bool { return other == f }))
	if err := t.save(); err != nil {
		t.set(before)
		return err
	}
	return t.apply(ctx, life, f)
}

// apply makes the list true on the side of f, and tells what is wrong with f.
func (t *Table) apply(ctx, life context.Context, f Forward) error {
	if f.From == Machine {
		return t.Far.SetListeners(ctx, t.Listens(Machine))
	}
	return t.reconcileHost(life)[f.Listen]
}

func (t *Table) save() error {
	list, _ := t.List()
	if err := t.write(t.File, list); err != nil {
		return err
	}
	return t.remember(list)
}

// remember keeps a list that was good.
func (t *Table) remember(list []Forward) error { return t.write(t.lastGood(), list) }

func (t *Table) write(path string, list []Forward) error {
	text, err := json.MarshalIndent(list, "", "  ")
	if err == nil {
		err = t.Write(path, text)
	}
	if err != nil {
		return fmt.Errorf("keep forwards: %w", err)
	}
	return nil
}
