package demo

import (
	"fmt"
	"math"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

var noticeAt = time.Date(2026, 11, 20, 10, 12, 0, 0, time.UTC)

func after(d time.Duration) stamp {
	return &metav1.MicroTime{Time: noticeAt.Add(d)}
}

// goodEvidence is a run in which everything held: 120 steps on a, 280 on b.
func goodEvidence() Evidence {
	const last, all = 120, 400
	e := Evidence{
		FromNode: "a", ToNode: "b", Announced: after(0),
		Timeline: v1alpha1.Timeline{
			PodUID: "uid-1",
			Notice: after(120 * time.Millisecond), Deadline: after(2 * time.Minute), Frozen: after(212 * time.Millisecond),
			Dumped: after(905 * time.Millisecond), Durable: after(1431 * time.Millisecond), Released: after(2390 * time.Millisecond),
			Claimed: after(3120 * time.Millisecond), Fetched: after(3544 * time.Millisecond), Resumed: after(4250 * time.Millisecond),
		},
		Generation: &v1alpha1.GenerationReference{
			Number: 1, PodUID: "uid-1", NodeName: "a", Final: true, StoredBytes: 41_200_000, WindowBytes: 41_200_000, RSSBytes: 118_000_000,
		},
		Samples:   []Sample{{At: noticeAt, Running: map[string]int{"a": 1}}, {At: noticeAt.Add(5 * time.Second), Running: map[string]int{"b": 1}}},
		ExecToken: "cafe",
	}
	for n := 1; n <= all; n++ {
		s := Step{Number: n, Loss: math.Round((2.3*math.Exp(-float64(n)/110)+0.06*math.Sin(float64(n)*1.7)+0.12)*1e6) / 1e6, Token: "cafe", Weights: fmt.Sprintf("w%d", n)}
		e.Volume.Steps = append(e.Volume.Steps, s)
		s.At = noticeAt.Add(time.Duration(n-last) * 50 * time.Millisecond)
		if n <= last {
			e.Before.Steps = append(e.Before.Steps, s)
		} else {
			s.At = s.At.Add(4250 * time.Millisecond)
			e.After.Steps = append(e.After.Steps, s)
		}
		s.Token, s.At = "other", time.Time{}
		e.Reference.Steps = append(e.Reference.Steps, s)
	}
	e.After.Done = &Done{Steps: all, Accuracy: 0.93, Token: "cafe", Weights: "w400"}
	e.Reference.Done = &Done{Steps: all, Accuracy: 0.93, Token: "other", Weights: "w400"}
	return e
}
