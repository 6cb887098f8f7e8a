// Package snapshot takes what is needed to go on elsewhere out of a running pod, and does so before the node goes.
//
// While nothing happens, loop.go has Policy plan rounds of pre-dump (copyRound) and safety dumps (safety.go) for every target.
// An evacuation of one target runs downwards in evacuation.go: one more round where that was planned, hold signals,
// record, freeze, dump, upload, commit, record as final. All of it goes into the one Writer of the target's session
// (session.go). What holds:
//
//   - A target is frozen from before its final dump until its generation is durable, and for ever after. It is thawed only
//     where Journal.Final was not called for it: known within one life of the agent, and fenced by Journal.Failed after
//     another.
//   - What is said of a target holds for all containers of its pod (together.go): held before the first is frozen, all frozen before
//     any is dumped, in one generation, thawed or left frozen together. A pod that lacks a container (Target.Missing) gets
//     no generation. Before any of it is thawed, its stamp is voided, and before Journal.Final none of it may run or have been
//     killed in a pod that stays: so nothing of a pod runs while another part of it counts as final, whoever dies when. After a
//     crash a pod of which a part alone is on hold has no generation that counts.
//   - Journal.Final is the step that lets another node restore. It follows a commit that was read back, and nothing in
//     this package thaws a target for which it may have been called.
//   - A failed or late evacuation ends with the target running as before, the signals that were held delivered.
//   - After a crash at any point the files of Holds name the targets concerned; recover.go finishes or thaws each. It
//     finishes with the generation of the newest dump alone, which is told by a stamp in a file of its own and in the
//     generation (stamp.go): an older one may have landed late, after its target was thawed.
//   - A safety dump never says Final or Evacuated. Its target is thawed when all is read, when that fails, and when it takes
//     too long; after a crash too, without asking anybody: a file beside the hold says that it is one of a safety dump,
//     and no evacuation begins to hold before that file is gone.
//   - A round is a guess: every page and file of a generation is compared with what the frozen target has, but for pages of
//     which the kernel says that nobody has written to them since a round read them (memory.Filter says why that is
//     enough). Nothing that a round got wrong, missed or lost shows in a generation.
//   - Whoever loses what a Scanner has handed on tells it (Scanner.Forget): a Writer that is given up, or another one that does
//     not go on from the base that the one before has left.
//   - One worker at a time has the turn of a session: a round, a safety dump or an evacuation. An evacuation ends the others
//     and waits for the turn; no step begins under a notice, or with a target on hold.
//   - A target whose Checkpoint says that it was given up with this node, while nobody heard of that, is frozen for good before
//     anything else is done with it, and nothing thaws it (superseded.go).
//   - What a target waits for (its bucket folder, its memory, its file trees) holds up no other target. Locks are held for
//     no I/O but that on hold files, and a session's lock is taken within the Evacuator's, never the other way round.
package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/watcher"
)

const (
	// atOnce bounds how many targets of a node are frozen, dumped and uploaded side by side.
	atOnce = 4
	// lookAgain is how often targets are listed under notice, and holds of an earlier life looked at without one.
	lookAgain = 2 * time.Second
	// grace is how long an evacuation may take whose deadline has passed while the node still stands: whatever commits
	// in it is a gain.
	grace = 30 * time.Second
	// roundAtMost bounds a round, and with it how long it is tried to record what is durable; the next one goes on.
	roundAtMost = time.Hour
)

// Evacuator takes a final dump of every target of this node when a notice comes.
type Evacuator struct {
	options Options

	mu     sync.Mutex
	notice *watcher.Notice
	// heard says that a source has answered since the start, so that no notice means none.
	heard  bool
	failed map[string]bool // by pod UID
	// untold are those of failed whose Checkpoint does not say so yet.
	untold map[string]untold
	// turns counts what was heard, acting is the turn that the round under way acts upon.
	turns, acting int
	wake          chan struct{}
	// ending are the frozen sources that wait for the release of their pods, and Writers that are given up.
	ending sync.WaitGroup

	// sessions are the targets that are copied, by their pods' UIDs. rates are the bytes/s that uploads have reached.
	sessions map[string]*session
	// closing are sessions that are being closed, by the same, as what is closed when that is done.
	closing map[string]chan struct{}
	rates   []float64
	// doubted: the API says that this node is gone, or is not heard of; trusted: it says that it is not so. retired are targets that were frozen for good
	// because others go on in their place.
	doubted, trusted bool
	retired          map[sessionKey]bool
	// inRound says that a round is under way.
	inRound atomic.Bool
	// over is closed when Run ends.
	over chan struct{}
	// inHand are containers that a safety dump of this life holds still.
	inHand map[string]bool
	// finishing are pods, by UID, whose durable generation is being recorded.
	finishing map[string]bool
	// stepped wakes the loop when a step has ended; steps are those under way.
	stepped chan struct{}
	steps   sync.WaitGroup
}

// Options are what an Evacuator works with.
type Options struct {
	Runtime Runtime
	Files   Files
	Journal Journal
	Store   *store.Store
	// Patient is the same store for Writers, whose requests are tried again as long as their context lives; nil: Store.
	Patient *store.Store
	Holds   Holds
	// Together says why the containers of a frozen target cannot be dumped each by itself; nil: nobody asks.
	Together func(pod []Container) error
	// Scanner reads running targets; nil: no pre-dumps, and full dumps alone.
	Scanner Scanner
	// Policy decides on rounds and on the order of an evacuation, Window is what it takes a notice to give, Cores what
	// this process could use of the node. They are needed with a Scanner alone.
	Policy Policy
	Window time.Duration
	Cores  float64
	// Board is told what people want to know; needed with a Scanner alone.
	Board Board
	// Succession tells of targets whose pods are gone from the API; nil: nobody does.
	Succession Succession
	// Meter is told what happens; nil: nobody is.
	Meter Meter
	// Cluster is the first part of the bucket folder of every target.
	Cluster string
	// NodeName is this node's.
	NodeName string
	// WorkDir is the host path under which dumps are written, one folder a container.
	WorkDir string
	// HostRoot is where this process sees the host's root.
	HostRoot string
	// Proc is the proc file system in which the targets' PIDs are those of Container.
	Proc string
	// Requirements is recorded in every generation.
	Requirements map[string]string
	// Margin is how long before the deadline an evacuation gives up and thaws.
	Margin time.Duration
	Log    zerolog.Logger
}

// New returns an Evacuator; Run makes it work.
func New(options Options) *Evacuator {
	if options.Patient == nil {
		options.Patient = options.Store
	}
	if options.Meter == nil {
		options.Meter = unmetered{}
	}
	return &Evacuator{
		options: options, failed: map[string]bool{}, untold: map[string]untold{}, wake: make(chan struct{}, 1), sessions: map[string]*session{},
		closing: map[string]chan struct{}{},
		stepped: make(chan struct{}, 1), inHand: map[string]bool{}, finishing: map[string]bool{}, retired: map[sessionKey]bool{},
		over: make(chan struct{}),
	}
}

// Heard tells that n has come. It does not block.
func (e *Evacuator) Heard(n watcher.Notice) { e.turn(&n) }

// Quiet tells that there is no notice.
func (e *Evacuator) Quiet() { e.turn(nil) }

func (e *Evacuator) turn(n *watcher.Notice) {
	e.mu.Lock()
	e.notice, e.heard = n, true
	e.turns++
	clear(e.failed)
	clear(e.untold) // who is tried again has another outcome
	e.mu.Unlock()
	e.wakeUp()
}

func (e *Evacuator) wakeUp() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Run copies targets while nothing happens, evacuates them when a notice comes, and settles what an earlier life of this
// agent left frozen, until ctx ends. A running evacuation is not cut short by ctx: it ends by itself, at its deadline at
// the latest where its generation is not durable by then, and else when that is recorded, within roundAtMost.
func (e *Evacuator) Run(ctx context.Context) error {
	defer e.ending.Wait()
	defer close(e.over)
	if err := e.sweep(); err != nil {
		return err
	}
	defer e.prune(nil)
	var loop sync.WaitGroup
	defer loop.Wait()
	if e.options.Scanner != nil {
		loop.Go(func() { e.protect(ctx) })
	}
	loop.Go(func() { e.watchDoubted(ctx) })
	ticker := time.NewTicker(lookAgain)
	defer ticker.Stop()
	for {
		if err := e.round(context.WithoutCancel(ctx)); err != nil {
			e.options.Log.Error().Err(err).Msg("evacuation round failed, trying again")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-e.wake:
		case <-ticker.C:
		}
	}
}

// round does what is to be done now.
func (e *Evacuator) round(ctx context.Context) error {
	e.mu.Lock()
	notice, heard := e.notice, e.heard
	e.acting = e.turns
	e.mu.Unlock()
	e.inRound.Store(true)
	defer e.inRound.Store(false)
	held, err := e.options.Holds.List()
	if err != nil {
		return err
	}
	if notice == nil && len(held) == 0 && !e.inDoubt() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, roundAtMost)
	defer cancel()
	targets, err := e.options.Journal.Targets(ctx)
	if err != nil {
		return err
	}
	asked, fault := e.retireSuperseded(ctx, targets)
	e.prune(slices.Concat(targets, asked))
	var settled, leaving []Target
	var group errgroup.Group
	for _, t := range targets {
		onHold := slices.ContainsFunc(held, t.Has) && !e.isInHand(t)
		// One failure under a notice is enough, also where an earlier life of the agent has seen it.
		tried := e.hasFailed(t.PodUID) || notice != nil && t.Failed && t.Deadline.Equal(notice.Deadline)
		switch {
		case t.Final || t.Superseded || tried && !onHold:
			if u, is := e.isUntold(t.PodUID); is && !t.Final && !t.Superseded {
				group.Go(func() error { return e.tellFailed(ctx, t, u) })
			}
		case onHold:
			settled = append(settled, t)
		case len(t.Missing) > 0: // it may be whole the next time
			if notice != nil && notice.Action.Evacuates() && time.Until(notice.Deadline) <= e.options.Margin {
				group.Go(func() error { return e.giveUpMissing(ctx, t) })
			}
		case notice != nil && notice.Action.Evacuates():
			leaving = append(leaving, t)
		}
	}
	busy := make(slots, atOnce)
	inSlot := func(how manner, do func(how manner) error) {
		how.slot = busy.take()
		group.Go(func() error {
			defer how.done()
			return do(how)
		})
	}
	for _, t := range settled {
		inSlot(plain, func(how manner) error { return e.settle(ctx, t, notice, heard, how) })
	}
	faults := []error{fault}
	if len(leaving) > 0 {
		for _, next := range e.order(leaving, notice.Deadline) {
			if next.manner.alone {
				busy.idle()
			}
			inSlot(next.manner, func(how manner) error { return e.evacuate(ctx, next.Target, momentsOf(*notice), how) })
		}
	}
	faults = append(faults, group.Wait(), e.dropOrphans(ctx, held, targets))
	return errors.Join(faults...)
}

// dropOrphans removes the holds and dumps of containers that have ended, and thaws those of no target that an earlier life has
// held still for a safety dump: their pods are protected no more, or are being deleted. Not where the node may have been given up,
// and such a pod with it: the agent does not know it any more, and another one may go on in its place.
func (e *Evacuator) dropOrphans(ctx context.Context, held []string, targets []Target) error {
	var faults []error
	for _, id := range held {
		if slices.ContainsFunc(targets, func(t Target) bool { return t.Has(id) }) || e.holdsStill(id) {
			continue
		}
		status, err := e.options.Runtime.Status(ctx, id)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		orphan := Target{Containers: []Container{{ID: id}}}
		if status == StatusStopped {
			_, err := e.options.Holds.Clear(id)
			faults = append(faults, err)
			e.dropDump(orphan)
			continue
		}
		hold, err := e.holdOf(orphan)
		if err == nil && hold == holdingSafety && e.isTrusted() {
			e.options.Log.Warn().Str("container", id).Msg("thawed after a safety dump that was cut off, its pod is no target any more")
			e.dropDump(orphan)
			err = e.endSafety(ctx, orphan)
		}
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

func momentsOf(n watcher.Notice) Moments {
	return Moments{Notice: n.Heard, Deadline: n.Deadline}
}

func (e *Evacuator) hasFailed(pod string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.failed[pod]
}

// giveUp thaws t, which is final nowhere, and says why on its Checkpoint. It is not tried again under the same notice. A
// target that could not be thawed stays on hold, and the next round settles it; so does an inherited one until its
// Checkpoint says that it has failed, for that write alone keeps a late Journal.Final of the earlier life from being taken.
// Before anything of it runs, no generation in the bucket counts as one of this evacuation any more.
func (e *Evacuator) giveUp(ctx context.Context, t Target, how manner, reason string, cause error) error {
	e.dropDump(t)
	if how.inherited {
		how.done()
		err := e.options.Journal.Failed(ctx, t, reason, cause.Error())
		if errors.Is(err, ErrSuperseded) {
			err = errors.Join(err, e.freezeForGood(ctx, t))
		}
		if err != nil {
			return errors.Join(cause, fmt.Errorf("pod %s/%s stays frozen: %w", t.Namespace, t.Pod, err))
		}
	}
	if err := e.stamps().void(t.PodUID); err != nil {
		return errors.Join(cause, err)
	}
	if err := e.thaw(ctx, t); err != nil {
		return errors.Join(cause, err)
	}
	if errors.Is(cause, ErrGone) {
		e.options.Log.Info().Str("namespace", t.Namespace).Str("pod", t.Pod).Msg("target ended by itself before it was frozen")
		return nil
	}
	e.noteFailed(t, reason)
	e.options.Log.Error().Err(cause).Str("namespace", t.Namespace).Str("pod", t.Pod).Str("reason", reason).
		Msg("evacuation failed, target thawed")
	if how.inherited {
		return nil
	}
	how.done()
	return e.tellFailed(ctx, t, untold{reason, cause.Error()})
}

// noteFailed has t not tried again under the notice that the round under way acts upon.
func (e *Evacuator) noteFailed(t Target, reason string) {
	e.mu.Lock()
	if e.acting == e.turns { // else something else was heard meanwhile, under which it is tried
		e.failed[t.PodUID] = true
	}
	e.mu.Unlock()
	e.options.Meter.Evacuated(t, Evacuated{Reason: reason})
}

// untold is what is to be said of a failed evacuation.
type untold struct{ reason, message string }

// tellFailed says on the Checkpoint that the evacuation of t has failed. Where that cannot be written, later rounds try again;
// where it is somebody else's affair by now, t is frozen for good.
func (e *Evacuator) tellFailed(ctx context.Context, t Target, u untold) error {
	err := e.options.Journal.Failed(ctx, t, u.reason, u.message)
	superseded := errors.Is(err, ErrSuperseded)
	e.mu.Lock()
	if err != nil && !superseded && e.failed[t.PodUID] {
		e.untold[t.PodUID] = u
	} else {
		delete(e.untold, t.PodUID)
	}
	e.mu.Unlock()
	if superseded {
		return errors.Join(err, e.freezeForGood(ctx, t))
	}
	return err
}

func (e *Evacuator) isUntold(pod string) (untold, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	u, is := e.untold[pod]
	return u, is
}

// dropDump removes the plain dumps from this node's disk.
func (e *Evacuator) dropDump(t Target) {
	for _, c := range t.Containers {
		if err := os.RemoveAll(filepath.Join(e.options.HostRoot, e.workDir(c.ID))); err != nil {
			e.options.Log.Error().Err(err).Str("container", c.ID).Msg("dump left on disk")
		}
	}
}

// reasonOf is the condition reason for a failure.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, errBucket):
		return v1alpha1.ReasonBucketFailed
	case errors.Is(err, context.DeadlineExceeded):
		return v1alpha1.ReasonDeadlinePassed
	}
	return v1alpha1.ReasonDumpFailed
}
