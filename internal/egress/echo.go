package egress

import "github.com/portolan-net/portolan/internal/portolan"

// HandleEcho sends one echo request as decide says. A datapath whose router
// answers for its own addresses never delivers those.
func (e *Egress) HandleEcho(flow portolan.Flow, seq uint16, payload []byte) {
	v, err := e.decide(flow)
	switch v {
	case host, resolver, gateway:
		e.replyEcho(flow, seq, payload)
	case direct:
		if err := e.echo.Send(flow, seq, payload); err != nil {
			e.refusedEcho(flow, seq, payload, err)
		}
	case drop:
	default:
		e.refusedEcho(flow, seq, payload, err)
	}
}

func (e *Egress) replyEcho(flow portolan.Flow, seq uint16, payload []byte) {
	e.sent(flow, e.cfg.Machine.ReplyEcho(flow, seq, payload))
}

func (e *Egress) refusedEcho(flow portolan.Flow, seq uint16, payload []byte, reason error) {
	e.sent(flow, e.cfg.Machine.RefuseEcho(flow, seq, payload, reason))
}
