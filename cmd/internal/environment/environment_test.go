package environment

import (
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

func TestFill(t *testing.T) {
	cases := []struct {
		name  string
		args  []string
		vars  map[string]string
		want  int
		fault string
	}{
		{"default", nil, nil, 3, ""},
		{"variable", nil, map[string]string{"LIFEBOAT_HOW_MANY": "5"}, 5, ""},
		{"flag before variable", []string{"--how-many=7"}, map[string]string{"LIFEBOAT_HOW_MANY": "5"}, 7, ""},
		{"bad variable", nil, map[string]string{"LIFEBOAT_HOW_MANY": "few"}, 0, `LIFEBOAT_HOW_MANY="few"`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
			got := flags.Int("how-many", 3, "")
			require.NoError(t, flags.Parse(c.args))
			err := Fill(flags, func(name string) (string, bool) {
				value, ok := c.vars[name]
				return value, ok
			})
			if c.fault != "" {
				require.ErrorContains(t, err, c.fault)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, *got)
		})
	}
}
