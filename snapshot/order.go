package snapshot

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lifeboat-dev/lifeboat/store"
)

// manner is how a target is evacuated.
type manner struct {
	// preDump asks for one more round before the freeze, alone for all before to have ended.
	preDump, alone bool
	codec          store.Codec
	// inherited says that Journal.Final may have been called for the target before, by another life of the agent: the call
	// may still be under way. Nothing thaws it before Journal.Failed has fenced that off.
	inherited bool
	// slot is given back when freeze, dump and upload are over; nil: there is none.
	slot func()
}

// done gives the slot back, at the first call. What is left is to wait for the API server, which holds nobody else up.
func (m manner) done() {
	if m.slot != nil {
		m.slot()
	}
}

// slots bound how many targets are frozen, dumped and uploaded side by side.
type slots chan struct{}

// take waits for a slot. Each is given back once.
func (s slots) take() (done func()) {
	s <- struct{}{}
	return sync.OnceFunc(func() { <-s })
}

// idle waits until nobody has a slot. Nobody else may take any meanwhile.
func (s slots) idle() {
	for range cap(s) {
		s <- struct{}{}
	}
	for range cap(s) {
		<-s
	}
}

// plain is for a target that no plan speaks of.
var plain = manner{codec: store.CodecZstd}

// leaver is a target in its place in an evacuation.
type leaver struct {
	Target
	manner manner
}

// order puts the targets of a node under notice in the order in which they are evacuated: Policy's, or by their UIDs where
// there is none. Those that Policy would leave out come last, for a safety dump saves nobody yet (docs/design.md, 8).
func (e *Evacuator) order(leaving []Target, deadline time.Time) []leaver {
	slices.SortFunc(leaving, func(a, b Target) int { return cmp.Compare(a.PodUID, b.PodUID) })
	all := make([]leaver, 0, len(leaving))
	for _, t := range leaving {
		all = append(all, leaver{t, plain})
	}
	if e.options.Scanner == nil || len(leaving) == 0 {
		return all
	}
	for _, t := range leaving {
		e.measure(e.session(t))
	}
	plan, _, err := e.plan(deadline)
	if err != nil {
		e.options.Log.Error().Err(err).Msg("no plan, targets are evacuated by their UIDs")
		return all
	}
	place := map[string]int{}
	for i, step := range plan.Evacuation.Order {
		place[step.ID] = i - len(plan.Evacuation.Order)
		if j := slices.IndexFunc(all, func(l leaver) bool { return l.PodUID == step.ID }); j >= 0 {
			all[j].manner = manner{preDump: step.PreDump, alone: step.Alone, codec: step.Codec}
		}
	}
	for _, left := range plan.Evacuation.Left {
		if j := slices.IndexFunc(all, func(l leaver) bool { return l.PodUID == left.ID }); j >= 0 {
			all[j].manner.alone = true
			e.options.Log.Warn().Str("namespace", all[j].Namespace).Str("pod", all[j].Pod).Str("reason", left.Reason).
				Msg("target comes last: " + left.Message)
		}
	}
	slices.SortStableFunc(all, func(a, b leaver) int {
		return cmp.Or(cmp.Compare(place[a.PodUID], place[b.PodUID]), strings.Compare(a.PodUID, b.PodUID))
	})
	return all
}
