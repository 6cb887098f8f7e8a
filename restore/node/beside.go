package node

import (
	"context"
	"fmt"
	"slices"

	"github.com/lifeboat-dev/lifeboat/restore/api/identity"
)

// beside changes the rung where another container of the pod was started from the beginning: it waited for long enough, or
// nothing was known to come then, or this agent was away. What is restored beside it would be held for ever, and would be a half of
// the pod. The runtime is asked, and no record: the API may not show the container yet.
func (p *Preparer) beside(ctx context.Context, next rung, relation identity.Relation, t task, r *restoration, wish wishes) (rung, error) {
	if next != rungWait && next != rungRestore && next != rungFallBack || len(t.pod.containers) < 2 || p.options.Live == nil {
		return next, nil
	}
	live, err := p.options.Live(ctx, t.PodUID)
	if err != nil {
		return next, fmt.Errorf("list containers of pod %s/%s: %w", t.Namespace, t.Pod, err)
	}
	for id, name := range live {
		if name == t.Container || !slices.Contains(t.pod.containers, name) || r != nil && r.Handed[name].ID == id {
			continue
		}
		p.options.Log.Warn().Str("namespace", t.Namespace).Str("pod", t.Pod).Str("container", t.Container).Str("other", name).
			Msg("nothing is restored beside a container that was started from the beginning")
		switch {
		case r != nil: // volumes have been written to
			if err := p.abandon(ctx, t.PodUID, false); err != nil {
				return next, err
			}
			return next, fmt.Errorf("pod %s/%s has to begin anew as a whole", t.Namespace, t.Pod)
		case relation == identity.Own && wish.fail:
			return rungFail, nil
		case relation == identity.Own:
			return rungStartClean, nil
		}
		return rungCreate, nil
	}
	return next, nil
}
