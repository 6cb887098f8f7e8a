package snapshot

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Outages, dumps that fail, notices that come and are withdrawn, agents that end and come back, all at random: nobody is
// thawed after his final generation or recorded as final while he runs (the host sees to that), nobody is left frozen,
// and when the trouble is over everybody is saved as he stands.
func TestRandomTrouble(t *testing.T) {
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 1))
				ids := []string{"c1", "c2", "c3"}[:1+rng.IntN(3)]
				s := newBoxScene(t, ids...)
				trouble := newTrouble(seed)
				s.onScan, s.onDump, s.onFiles = trouble.at(0.05), trouble.at(0.3), trouble.at(0.1)
				s.bucket.blocked = func(string) bool { return trouble.down() }
				for range 3 {
					s.run(t, func() { trouble.play(s, rng) })
					s.restart()
				}
				trouble.end()
				s.run(t, func() {
					pass(2 * time.Minute)
					for _, id := range ids {
						if _, final := s.final[id]; !final {
							require.Equal(t, StatusRunning, s.boxes[id].status, "left frozen")
						}
					}
					s.evacuator.Heard(notice(window))
					pass(time.Minute)
					for _, id := range ids {
						s.requireFinal(t, id)
					}
				})
			})
		})
	}
}

// trouble is what goes wrong until end.
type trouble struct {
	mu    sync.Mutex
	rng   *rand.Rand
	out   bool
	ended bool
}

func newTrouble(seed uint64) *trouble { return &trouble{rng: rand.New(rand.NewPCG(seed, 2))} }

// at fails with that chance, after a while.
func (r *trouble) at(chance float64) func(context.Context, string) error {
	return func(ctx context.Context, _ string) error {
		r.mu.Lock()
		fails, after := !r.ended && r.rng.Float64() < chance, time.Duration(r.rng.IntN(3000))*time.Millisecond
		r.mu.Unlock()
		if !fails {
			return nil
		}
		return errors.Join(wait(ctx, after), errCRIU)
	}
}

func (r *trouble) down() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out
}

func (r *trouble) set(out bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out = out && !r.ended
}

func (r *trouble) end() {
	r.set(false)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
}

// play has some minutes go by. A notice is withdrawn again, and a bucket comes back.
func (r *trouble) play(s *boxScene, rng *rand.Rand) {
	for range 6 {
		pass(time.Duration(rng.IntN(240)) * time.Second)
		switch rng.IntN(4) {
		case 0:
			r.set(true)
			pass(time.Duration(rng.IntN(60)) * time.Second)
			r.set(false)
		case 1:
			r.set(rng.IntN(2) == 0)
			s.evacuator.Heard(notice(time.Duration(10+rng.IntN(60)) * time.Second))
			pass(time.Duration(rng.IntN(90)) * time.Second)
			r.set(false)
			s.evacuator.Quiet()
		}
	}
}
