package eligible

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/snapshot"
)

// board is a node with one container, and what was told of it.
type board struct {
	mu      sync.Mutex
	target  snapshot.Target
	gone    bool
	failing error
	told    [][]string
	// found is what a look shows, takes how long it takes, looks how many there were.
	found []string
	takes time.Duration
	looks int
}

func (b *board) Targets(context.Context) ([]snapshot.Target, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone {
		return nil, nil
	}
	return []snapshot.Target{b.target}, nil
}

func (b *board) Looked(_ context.Context, _ snapshot.Target, found []obstacle.Obstacle) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failing != nil {
		return b.failing
	}
	b.told = append(b.told, reasonsOf(found))
	return nil
}

func (b *board) Look(context.Context, snapshot.Target, int64) ([]obstacle.Obstacle, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.looks++
	<-time.After(b.takes)
	var found []obstacle.Obstacle
	for _, reason := range b.found {
		found = append(found, obstacle.Obstacle{Reason: reason, Message: time.Now().String()})
	}
	return found, nil
}

func (b *board) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

func TestLookout(t *testing.T) {
	const io, mptcp = v1alpha1.ReasonIOUring, v1alpha1.ReasonMPTCP
	for _, c := range []struct {
		name  string
		story func(b *board, pass func(time.Duration))
		told  [][]string
		looks int
	}{
		{"nothing is told once", func(_ *board, pass func(time.Duration)) { pass(time.Minute) }, [][]string{{}}, 7},
		{"a reason appears, another one joins, both go", func(b *board, pass func(time.Duration)) {
			pass(time.Second)
			b.set(func() { b.found = []string{io} })
			pass(time.Minute)
			b.set(func() { b.found = []string{io, mptcp} })
			pass(time.Minute)
			b.set(func() { b.found = nil })
			pass(time.Minute)
		}, [][]string{{}, {io}, {io, mptcp}, {}}, 19},
		{"a container that is started anew is told of at once", func(b *board, pass func(time.Duration)) {
			b.set(func() { b.found = []string{io} })
			pass(time.Second)
			b.set(func() { b.target.Containers, b.found = running("c2", 8), nil })
			pass(10 * time.Second)
		}, [][]string{{io}, {}}, 2},
		{"what could not be told is told later", func(b *board, pass func(time.Duration)) {
			b.set(func() { b.found, b.failing = []string{io}, errors.New("no API server") })
			pass(time.Minute)
			b.set(func() { b.failing = nil })
			pass(10 * time.Second)
		}, [][]string{{io}}, 8},
		{"a costly look comes rarely", func(b *board, pass func(time.Duration)) {
			b.set(func() { b.takes = 100 * time.Millisecond })
			pass(10 * time.Minute)
		}, [][]string{{}}, 7},
		{"one that stands still is left alone", func(b *board, pass func(time.Duration)) {
			b.set(func() { b.target.Containers[0].Status = snapshot.StatusPaused })
			pass(time.Minute)
		}, nil, 0},
		{"one that is final is left alone", func(b *board, pass func(time.Duration)) {
			b.set(func() { b.target.Final = true })
			pass(time.Minute)
		}, nil, 0},
		{"one that has gone and comes back is new", func(b *board, pass func(time.Duration)) {
			pass(time.Second)
			b.set(func() { b.gone = true })
			pass(10 * time.Second)
			b.set(func() { b.gone = false })
			pass(10 * time.Second)
		}, [][]string{{}, {}}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &board{target: snapshot.Target{Containers: running("c1", 7)}}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error)
				l := &Lookout{Looker: b, Board: b, Log: zerolog.Nop()}
				began := false
				pass := func(d time.Duration) {
					if !began {
						began = true
						go func() { ended <- l.Run(ctx) }()
					}
					<-time.After(d)
					synctest.Wait()
				}
				c.story(b, pass)
				cancel()
				require.NoError(t, <-ended)
				require.Equal(t, c.told, b.told)
				require.Equal(t, c.looks, b.looks)
			})
		})
	}
}

func running(id string, pid int) []snapshot.Container {
	return []snapshot.Container{{ID: id, PID: pid, Status: snapshot.StatusRunning}}
}
