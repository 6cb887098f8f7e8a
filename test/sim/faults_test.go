package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lifeboat-dev/lifeboat/store"
)

// edgeKind is what a request goes to.
type edgeKind int

const (
	toAPI edgeKind = iota
	toBucket
)

// faults are what a request meets at the moment.
type faults struct {
	kind     edgeKind
	down     bool
	min, max time.Duration
	// fails is how often a request is refused, loses how often the answer of one that was carried out is lost.
	fails, loses float64
}

func (f faults) latency(lot *rand.Rand) time.Duration {
	return f.min + time.Duration(lot.Int64N(int64(f.max-f.min)))
}

func (f faults) refusal(what string, lot *rand.Rand) error {
	if f.kind == toBucket {
		return fmt.Errorf("%s: %w", what, &store.TemporaryError{Err: errRefused})
	}
	if !f.down && strings.HasPrefix(what, "write ") && lot.IntN(2) == 0 {
		return apierrors.NewConflict(schema.GroupResource{Resource: "any"}, what, errRefused)
	}
	return fmt.Errorf("%s: %w", what, errRefused)
}

func (f faults) loss(what string) error {
	if f.kind == toBucket {
		return fmt.Errorf("%s: %w", what, &store.TemporaryError{Err: errAnswerLost})
	}
	return fmt.Errorf("%s: %w", what, errAnswerLost)
}

// outage is a time in which an edge is away or slow, for those processes whose names begin with who.
type outage struct {
	kind     edgeKind
	who      string
	from, to time.Duration
	slow     bool
}

func (o outage) String() string {
	how, what := "down", "API"
	if o.slow {
		how = "slow"
	}
	if o.kind == toBucket {
		what = "bucket"
	}
	return fmt.Sprintf("%s %s for %q from %s to %s", what, how, o.who, o.from, o.to)
}

// faultsOf are those that a process meets now at one of its edges.
func (w *world) faultsOf(kind edgeKind, who string) faults {
	f := faults{kind: kind, min: 500 * time.Microsecond, max: 8 * time.Millisecond}
	now := w.since()
	if now >= w.plan.calm {
		return f
	}
	rates := w.plan.rates[kind]
	f.fails, f.loses = rates.fails, rates.loses
	for _, o := range w.plan.outages {
		if o.kind != kind || !strings.HasPrefix(who, o.who) || now < o.from || now >= o.to {
			continue
		}
		if o.slow {
			f.min, f.max = 100*time.Millisecond, 3*time.Second
		} else {
			f.down, f.min, f.max = true, 10*time.Millisecond, time.Second
		}
	}
	return f
}
