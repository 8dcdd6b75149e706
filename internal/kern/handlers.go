package kern

import (
	"context"

	"github.com/vethloom/vethloom/plan"
)

// handler is what the kernel does with one kind of object. A new kind gets a file that has one, and a line in
// handlers; links and what sits on them are observed together, see view.
type handler struct {
	// queue takes an operation that is sent with others, and advances the session.
	queue func(*session, plan.Op) error
	// apply carries out operations: one, or those of a group that follow each other. An error that is not about
	// the first of them is a [plan.OpError].
	apply    func(context.Context, *session, []plan.Op) error
	group    string // operations of kinds with the same group are carried out together
	oneNetNS bool   // and only those in one namespace
	// observe adds the objects there are. Nil: they are not observed, or with others.
	observe func(context.Context, *plan.State) error
}

// one is the apply of a kind whose operations stand alone.
func one[T plan.Object](f func(context.Context, *session, plan.Op, T) error) func(context.Context, *session,
	[]plan.Op) error {
	return func(ctx context.Context, s *session, part []plan.Op) error {
		return f(ctx, s, part[0], part[0].Object.(T))
	}
}

// handlerTable are the handlers of every kind, by the word for it.
func (k *Kernel) handlerTable() map[string]handler {
	onLink := handler{queue: (*session).queued}
	rules := handler{group: "rules", apply: func(ctx context.Context, s *session, part []plan.Op) error {
		return s.k.ruler().Apply(ctx, part)
	}}
	all := map[string]handler{
		"namespace": {apply: one(func(_ context.Context, s *session, op plan.Op, _ plan.Namespace) error {
			return s.namespace(op)
		})},
		"link": {queue: (*session).queuedLink}, "addr": onLink, "route": onLink, "neigh": onLink, "fdb": onLink,
		"shaper": onLink, "redirect": onLink, "member": onLink,
		"policy": {queue: (*session).queued},
		"set":    rules, "chain": rules, "element": rules,
		"sysctl": {group: "sysctl", oneNetNS: true, apply: func(_ context.Context, s *session, part []plan.Op) error {
			return s.sysctls(s.next-len(part), part)
		}},
		"flow": {group: "flow", apply: func(_ context.Context, s *session, part []plan.Op) error {
			return s.k.flows.Purge(part)
		}},
		"port":   k.portHandler(),
		"tunnel": k.tunnelHandler(),
		"remote": k.tunnelPeerHandler(),
		"zone":   k.namesHandler(), "name": k.namesHandler(), "nameserver": k.nameServerHandler(),
		"accept": k.acceptHandler(), "leftover": leftoverHandler(k),
	}
	k.Fast.handlers(func(kind string, h handler) { all[kind] = h })
	return all
}

// queued queues what sits on a link.
func (s *session) queued(op plan.Op) error {
	if err := s.enqueue(op); err != nil {
		return s.fail(s.next, err)
	}
	s.next++
	return nil
}

// queuedLink queues a link. Removals that follow each other are one step.
func (s *session) queuedLink(op plan.Op) error {
	if op.Verb == plan.Delete {
		return s.deleteLinks()
	}
	return s.queued(op)
}

func (k *Kernel) acceptHandler() handler {
	return handler{
		apply: one(func(ctx context.Context, s *session, op plan.Op, a plan.ForwardAccept) error {
			return s.k.ApplyAccept(ctx, op, a)
		}),
		observe: func(ctx context.Context, s *plan.State) (err error) {
			s.Accepts, err = k.ForeignAccepts(ctx)
			return err
		},
	}
}
