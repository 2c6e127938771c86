package mmsg

import "sync/atomic"

// Offload says whether datagrams are joined where they can be. The zero value, and
// nil, say no. It may change at any time.
type Offload struct{ on atomic.Bool }

// Set changes what it says.
func (o *Offload) Set(on bool) { o.on.Store(on) }

// On is what it says.
func (o *Offload) On() bool { return o != nil && o.on.Load() }
