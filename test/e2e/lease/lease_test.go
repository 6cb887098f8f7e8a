package lease

import (
	"net"
	"testing"

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
	}{
		{"one place", []step{{1, "a"}, {2, "a"}}, ""},
		{"an answer was lost", []step{{1, "a"}, {1, "a"}, {2, "a"}}, ""},
		{"handed over", []step{{1, "a"}, {2, "b"}, {3, "b"}}, ""},
		{"handed over, and the answer to the last step was lost", []step{{1, "a"}, {1, "b"}, {2, "b"}}, ""},
		{"two copies", []step{{1, "a"}, {2, "b"}, {3, "a"}}, "two copies at once"},
		{"done twice", []step{{1, "a"}, {2, "a"}, {1, "b"}}, "a second time"},
		{"lost", []step{{1, "a"}, {3, "b"}}, "it was at 1"},
		{"begins in the middle", []step{{2, "a"}}, "it was at 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s Server
			var err error
			for _, step := range c.steps {
				require.NoError(t, err, "but the last")
				err = s.Step("token", step.n, step.place)
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
	_, err = Take(t.Context(), l.Addr().String(), "token", 9)
	require.ErrorContains(t, err, "it was at 2")
	require.Equal(t, map[string]Process{"token": {Last: 2, Places: []string{"127.0.0.1"}}}, s.Processes())
	require.NoError(t, l.Close())
	require.NoError(t, <-served)
}
