package snapshot

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
)

func TestWhatIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeasured(Target{PodUID: "pod-1"})
		m.changed(time.Now(), 100, 1)
		require.Empty(t, m.facts.Changes, "the first round found no change")
		<-time.After(30 * time.Second)
		m.changed(time.Now(), 50, 2)
		require.Equal(t, []ChangePoint{{Interval: 30 * time.Second, PageBytes: 50, FileBytes: 2}}, m.facts.Changes)
		require.NoError(t, m.copied().Validate())

		m.encoded(store.CodecS2, store.Progress{RawBytes: 1 << 20, StoredBytes: 1 << 19, EncodeTime: time.Millisecond})
		m.encoded(store.CodecZstd, store.Progress{RawBytes: 4096, StoredBytes: 1, EncodeTime: time.Hour})
		require.Equal(t, map[store.Codec]CodecFacts{store.CodecS2: {Stored: 0.5, CPU: 1.024}}, m.facts.Codecs, "few bytes say nothing")

		for _, c := range []struct {
			vitals          Vitals
			idle, throttled bool
		}{
			{Vitals{CPU: 5 * time.Second, Periods: 100, Throttled: 50}, false, true},
			{Vitals{CPU: time.Millisecond, Periods: 200, Throttled: 50}, true, false},
			{Vitals{CPU: time.Second, Periods: 300, Throttled: 60}, false, true},
			{Vitals{CPU: time.Second, Periods: 300, Throttled: 60}, false, true},
		} {
			<-time.After(10 * time.Second)
			m.lives(c.vitals)
			require.Equal(t, c.idle, m.facts.Idle)
			require.Equal(t, c.throttled, m.facts.Throttled)
		}
		for range 40 {
			<-time.After(time.Second)
			m.changed(time.Now(), 1, 0)
		}
		require.Len(t, m.facts.Changes, keptPoints)
	})
}

func TestStepsThatFailArePutOff(t *testing.T) {
	m, now := newMeasured(Target{}), time.Unix(0, 0)
	var pauses []time.Duration
	for range 6 {
		m.failed(now, ActionRound)
		pauses = append(pauses, m.notBefore.Sub(now))
	}
	require.Equal(t, []time.Duration{5e9, 10e9, 20e9, 40e9, 60e9, 60e9}, pauses)
	require.Zero(t, m.facts.LastDump)
	m.failed(now, ActionDump)
	require.Equal(t, now, m.facts.LastDump)
	m.succeeded()
	require.Zero(t, m.notBefore)
}

func TestWhatIsToldOfAVerdict(t *testing.T) {
	at, now := time.Unix(0, 0), func(d time.Duration) time.Time { return time.Unix(0, 0).Add(d) }
	last := told{at: at, verdict: Verdict{Safe, ReasonWithinShare, ""}, prediction: Prediction{Durable: 4 * time.Second, Uploaded: 8 << 20}}
	worse := Verdict{AtRisk, ReasonNeighbours, ""}
	for _, c := range []struct {
		name       string
		since      time.Duration
		verdict    Verdict
		prediction Prediction
		want       bool
	}{
		{"the same", time.Hour, last.verdict, last.prediction, false},
		{"another level", tellEvery, worse, last.prediction, true},
		{"another level at once", time.Second, worse, last.prediction, false},
		{"twice as much", tellFigures, last.verdict, Prediction{Durable: 4 * time.Second, Uploaded: 16 << 20}, true},
		{"twice as much too soon", tellEvery, last.verdict, Prediction{Durable: 4 * time.Second, Uploaded: 16 << 20}, false},
		{"a little more", time.Hour, last.verdict, Prediction{Durable: 5 * time.Second, Uploaded: 9 << 20}, false},
		{"half as long", time.Hour, last.verdict, Prediction{Durable: 2 * time.Second, Uploaded: 8 << 20}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, last.material(now(c.since), c.verdict, c.prediction))
		})
	}
	require.True(t, told{}.material(at, worse, Prediction{}))
	require.False(t, told{underWay: true}.material(at, worse, Prediction{}))
}
