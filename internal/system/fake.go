package system

import "sync/atomic"

// FakeNames is a NameSource that says what it was told. The zero value is a
// host whose files are empty.
type FakeNames struct{ current atomic.Pointer[NameConfig] }

// NewFakeNames returns a source that says cfg.
func NewFakeNames(cfg NameConfig) *FakeNames {
	f := new(FakeNames)
	f.Set(cfg)
	return f
}

// Set replaces what the source says.
func (f *FakeNames) Set(cfg NameConfig) { f.current.Store(&cfg) }

// NameConfig implements NameSource.
func (f *FakeNames) NameConfig() *NameConfig {
	if f.current.Load() == nil {
		f.current.CompareAndSwap(nil, new(NameConfig))
	}
	return f.current.Load()
}
