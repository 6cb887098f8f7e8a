package rows

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEncodeRows(t *testing.T) {
	tests := []struct {
		name string
		row  Row
		want string
	}{
		{"alone", Row{Name: "a", Value: 1.5, Unit: "s"},
			`{"name":"a","value":1.5,"unit":"s","against":"","against_value":null,"ratio":null,"target":null,"met":null}`},
		{"against", Row{Name: "a", Value: 1, Unit: "s"}.Versus("b", 4),
			`{"name":"a","value":1,"unit":"s","against":"b","against_value":4,"ratio":0.25,"target":null,"met":null}`},
		{"against nothing", Row{Name: "a", Value: 1, Unit: "s"}.Versus("b", 0),
			`{"name":"a","value":1,"unit":"s","against":"b","against_value":0,"ratio":null,"target":null,"met":null}`},
		{"met", Row{Name: "a", Value: 4, Unit: "MiB"}.Versus("b", 4).Wants(Target{Bound: 1.05}),
			`{"name":"a","value":4,"unit":"MiB","against":"b","against_value":4,"ratio":1,"target":"ratio <= 1.05","met":true}`},
		{"missed", Row{Name: "a", Value: 2, Unit: "GB/s"}.Versus("b", 4).Wants(Target{AtLeast: true, Bound: 0.75}),
			`{"name":"a","value":2,"unit":"GB/s","against":"b","against_value":4,"ratio":0.5,"target":"ratio >= 0.75","met":false}`},
		{"a target without a ratio is missed", Row{Name: "a", Value: 2, Unit: "s"}.Wants(Target{Bound: 1}),
			`{"name":"a","value":2,"unit":"s","against":"","against_value":null,"ratio":null,"target":"ratio <= 1","met":false}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			require.NoError(t, Encode(&out, []Row{test.row}))
			require.JSONEq(t, "["+test.want+"]", out.String())
			require.NotContains(t, out.String(), `\u003c`, "targets are readable")
		})
	}
}

func TestPrintTable(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, Print(&out, []Row{
		{Name: "alone", Value: 123456.7, Unit: "B"},
		Row{Name: "compared", Value: 1, Unit: "s"}.Versus("theirs", 3).Wants(Target{Bound: 0.25}),
	}))
	require.Equal(t, ""+
		"what      value   unit  against  value  ratio   target         met\n"+
		"alone     123457  B     -        -      -       -              -\n"+
		"compared  1       s     theirs   3      0.3333  ratio <= 0.25  NO\n", out.String())
}

func TestMedian(t *testing.T) {
	s := Series{}
	for _, value := range []float64{5, 1, 2} {
		s.Add("x", value)
	}
	require.InDelta(t, 2.0, s.Median("x"), 0)
	s.Add("x", 3)
	require.InDelta(t, 2.5, s.Median("x"), 0)
	for _, row := range []Row{{Name: "nothing", Value: s.Median("y")}, Row{Name: "nothing"}.Versus("theirs", s.Median("y"))} {
		require.ErrorContains(t, Encode(io.Discard, []Row{row}), "nothing was measured", "a row of nothing is a mistake of the part")
	}
}

func TestParseBusy(t *testing.T) {
	busy, err := parseBusy("cpu  100 20 30 4000 500 6 7 8 90 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n")
	require.NoError(t, err)
	require.InDelta(t, 1.71, busy, 1e-9, "idle, waiting and guests aside")
	_, err = parseBusy("cpu0 1 2 3 4 5 6 7 8 9 10\n")
	require.Error(t, err)
}
