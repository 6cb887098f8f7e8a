package eligible

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/snapshot"
)

const (
	// listEvery is how often targets are listed, and each is looked at again, unless that takes more than shareOfCore.
	listEvery = 10 * time.Second
	// shareOfCore is what part of one core looking at one target may take: a task with 100,000 open files takes a second.
	shareOfCore = 0.001
	// toldWithin bounds one write.
	toldWithin = 5 * time.Second
)

// Board is where people look: the Checkpoints of this node's pods. snapshot/kube has it.
type Board interface {
	// Targets returns the pods that are to be looked at.
	Targets(ctx context.Context) ([]snapshot.Target, error)
	// Looked says what keeps t from being protected, nothing where found is empty. It is called for the first look at a
	// pod, and when the reasons are others than before.
	Looked(ctx context.Context, t snapshot.Target, found []obstacle.Obstacle) error
}

// Eye looks at one pod; Looker is one.
type Eye interface {
	Look(ctx context.Context, t snapshot.Target, mostFileBytes int64) ([]obstacle.Obstacle, error)
}

// Lookout looks at the targets of this node from time to time, and tells what it finds.
type Lookout struct {
	Looker Eye
	Board  Board
	// MostFileBytes is how much of files can be copied in the window, 0 where they are copied before it.
	MostFileBytes int64
	Log           zerolog.Logger
}

// sight is what was last seen of a pod.
type sight struct {
	key   key
	next  time.Time
	told  []string
	ready bool // told says what was told
}

// key tells pods apart, and what runs in one: a container may be started anew, or restored in place under another PID.
type key struct{ pod, checkpoint, containers string }

func keyOf(t snapshot.Target) key {
	k := key{pod: t.PodUID, checkpoint: t.CheckpointUID}
	for _, c := range t.Containers {
		k.containers += fmt.Sprintf("%s/%d,", c.ID, c.PID)
	}
	return k
}

// Run looks until ctx ends.
func (l *Lookout) Run(ctx context.Context) error {
	seen := map[string]*sight{}
	ticker := time.NewTicker(listEvery)
	defer ticker.Stop()
	for {
		if err := l.round(ctx, seen); err != nil && ctx.Err() == nil {
			l.Log.Warn().Err(err).Msg("targets not looked at, trying again")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// round looks at those targets whose turn it is.
func (l *Lookout) round(ctx context.Context, seen map[string]*sight) error {
	listing, cancel := context.WithTimeout(ctx, listEvery)
	defer cancel()
	targets, err := l.Board.Targets(listing)
	if err != nil {
		return err
	}
	for id := range seen {
		if !slices.ContainsFunc(targets, func(t snapshot.Target) bool { return t.PodUID == id }) {
			delete(seen, id)
		}
	}
	var faults []error
	for _, t := range targets {
		if t.Final || !t.Runs() {
			continue // what stands still opens nothing
		}
		k := keyOf(t)
		if s := seen[t.PodUID]; s == nil || s.key != k {
			seen[t.PodUID] = &sight{key: k}
		}
		if s := seen[t.PodUID]; !time.Now().Before(s.next) {
			faults = append(faults, l.look(ctx, t, s))
		}
	}
	return errors.Join(faults...)
}

func (l *Lookout) look(ctx context.Context, t snapshot.Target, s *sight) error {
	began := time.Now()
	found, err := l.Looker.Look(ctx, t, l.MostFileBytes)
	took := time.Since(began)
	s.next = began.Add(max(listEvery, time.Duration(float64(took)/shareOfCore)) - listEvery/2)
	if errors.Is(err, snapshot.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	reasons := reasonsOf(found)
	if s.ready && slices.Equal(reasons, s.told) {
		return nil
	}
	telling, cancel := context.WithTimeout(ctx, toldWithin)
	defer cancel()
	if err := l.Board.Looked(telling, t, found); err != nil {
		return err
	}
	if len(found)+len(s.told) > 0 {
		l.Log.Info().Str("namespace", t.Namespace).Str("pod", t.Pod).Strs("reasons", reasons).Dur("seconds", took).Msg("looked at target")
	}
	s.told, s.ready = reasons, true
	return nil
}

func reasonsOf(found []obstacle.Obstacle) []string {
	names := make([]string, len(found))
	for i, o := range found {
		names[i] = o.Reason
	}
	return names
}
