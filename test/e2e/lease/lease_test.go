package lease

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStep(t *testing.T) {
	type step struct {
		n     int
		place string
	}
	for _, c := range []struct {
		name  string
		steps []step
		fault string
		// recovers: a process may go back.
		recovers bool
	}{
		{"one place", []step{{1, "a"}, {2, "a"}}, "", false},
		{"an answer was lost", []step{{1, "a"}, {1, "a"}, {2, "a"}}, "", false},
		{"handed over", []step{{1, "a"}, {2, "b"}, {3, "b"}}, "", false},
		{"handed over, and the answer to the last step was lost", []step{{1, "a"}, {1, "b"}, {2, "b"}}, "", false},
		{"two copies", []step{{1, "a"}, {2, "b"}, {3, "a"}}, "two copies at once", false},
		{"done twice", []step{{1, "a"}, {2, "a"}, {1, "b"}}, "a second time", false},
		{"lost", []step{{1, "a"}, {3, "b"}}, "it was at 1", false},
		{"begins in the middle", []step{{2, "a"}}, "it was at 0", false},
		{"back to a recovery point", []step{{1, "a"}, {2, "a"}, {1, "b"}, {2, "b"}}, "", true},
		{"back where it was", []step{{1, "a"}, {2, "a"}, {1, "a"}}, "a second time", true},
		{"from a recovery point while it ran on", []step{{1, "a"}, {2, "a"}, {1, "b"}, {3, "a"}}, "two copies at once", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := Server{Recovers: c.recovers}
			var err error
			for _, step := range c.steps {
				require.NoError(t, err, "but the last")
				_, err = s.Step("token", step.n, step.place)
			}
			if c.fault == "" {
				require.NoError(t, err)
				require.Empty(t, s.Faults())
				return
			}
			require.ErrorContains(t, err, c.fault)
			require.Len(t, s.Faults(), 1)
		})
	}
}

func TestOneProcessAtATimeIsAJob(t *testing.T) {
	s := Server{Alone: map[string]bool{"job": true}}
	step := func(token string, n int) error {
		_, err := s.Step(token, n, token)
		return err
	}
	require.NoError(t, step("job/one", 1))
	require.NoError(t, step("other/one", 1))
	require.NoError(t, step("job/two", 1), "one died, and another begins anew")
	require.NoError(t, step("other/two", 1))
	require.NoError(t, step("other/one", 2), "other may be several")
	require.ErrorContains(t, step("job/one", 2), "two copies at once")
	require.NoError(t, step("job/two", 2))
}

func TestTake(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var s Server
	served := make(chan error)
	go func() { served <- s.Serve(l) }()
	for n := range 2 {
		last, err := Take(t.Context(), l.Addr().String(), "token", n+1)
		require.NoError(t, err)
		require.Equal(t, n == 1, last)
		s.End()
	}
	require.NoError(t, Tell(t.Context(), l.Addr().String(), "token", 2, nil))
	p := s.Processes()["token"]
	require.WithinDuration(t, time.Now(), p.At, time.Minute)
	p.At = time.Time{}
	require.Equal(t, Process{Last: 2, Places: []string{"127.0.0.1"}, Ended: true, Proven: true}, p)
	require.Empty(t, s.Faults())

	_, err = Take(t.Context(), l.Addr().String(), "token", 9)
	require.ErrorContains(t, err, "2 was its last")
	require.NoError(t, Tell(t.Context(), l.Addr().String(), "token", 2, errors.New("page 7 is torn")))
	require.Contains(t, s.Faults()[1], "after step 2: page 7 is torn")
	require.NoError(t, l.Close())
	require.NoError(t, <-served)
}
