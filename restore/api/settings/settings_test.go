package settings

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name        string
		annotations map[string]string
		want        Settings
		faults      []string
	}{
		{"none", nil, Settings{}, nil},
		{"others'", map[string]string{"example.com/interval": "x", v1alpha1.AnnotationExclude: "shm:**", v1alpha1.AnnotationRestoreFrom: "a/1"}, Settings{}, nil},
		{"all", map[string]string{
			v1alpha1.AnnotationRecoveryPoint: "2m", v1alpha1.AnnotationInterval: "10s", v1alpha1.AnnotationMaxFreeze: "1500ms",
			v1alpha1.AnnotationMaxCPU: "500m", v1alpha1.AnnotationRecover: "final-only",
		}, Settings{RecoveryPoint: 2 * time.Minute, Interval: 10 * time.Second, MaxFreeze: 1500 * time.Millisecond, MaxCPU: 0.5, FinalOnly: true}, nil},
		{"latest is the default", map[string]string{v1alpha1.AnnotationRecover: "latest", v1alpha1.AnnotationMaxCPU: "2"}, Settings{MaxCPU: 2}, nil},
		{"never is final-only as well", map[string]string{v1alpha1.AnnotationRecover: "never"}, Settings{FinalOnly: true, Never: true}, nil},
		{"no unit", map[string]string{v1alpha1.AnnotationInterval: "30", v1alpha1.AnnotationMaxFreeze: "1s"}, Settings{MaxFreeze: time.Second},
			[]string{`annotation lifeboat.dev/interval, "30": not a duration; write a number and a unit, as in 90s, 5m or 1h30m`}},
		{"empty", map[string]string{v1alpha1.AnnotationRecoveryPoint: ""}, Settings{},
			[]string{`annotation lifeboat.dev/recovery-point, "": not a duration; write a number and a unit, as in 90s, 5m or 1h30m`}},
		{"out of bounds", map[string]string{
			v1alpha1.AnnotationInterval: "1ms", v1alpha1.AnnotationRecoveryPoint: "-5m", v1alpha1.AnnotationMaxCPU: "-1", v1alpha1.AnnotationMaxFreeze: "1h",
		}, Settings{}, []string{
			`annotation lifeboat.dev/interval, "1ms": out of bounds; write 1s to 10m0s`,
			`annotation lifeboat.dev/max-cpu, "-1": out of bounds; write 10m to 64`,
			`annotation lifeboat.dev/max-freeze, "1h": out of bounds; write 10ms to 10m0s`,
			`annotation lifeboat.dev/recovery-point, "-5m": out of bounds; write 5s to 24h0m0s`,
		}},
		{"no cores", map[string]string{v1alpha1.AnnotationMaxCPU: "half"}, Settings{},
			[]string{`annotation lifeboat.dev/max-cpu, "half": not a number of cores; write 0.5 or 500m`}},
		{"unknown way to recover", map[string]string{v1alpha1.AnnotationRecover: "Latest"}, Settings{},
			[]string{`annotation lifeboat.dev/recover, "Latest": not known; write latest, final-only or never`}},
		{"old address kept", map[string]string{v1alpha1.AnnotationKeepPodIPAlias: "true"}, Settings{KeepPodIPAlias: true}, nil},
		{"old address not kept", map[string]string{v1alpha1.AnnotationKeepPodIPAlias: "false"}, Settings{}, nil},
		{"old address perhaps kept", map[string]string{v1alpha1.AnnotationKeepPodIPAlias: "yes"}, Settings{},
			[]string{`annotation lifeboat.dev/keep-pod-ip-alias, "yes": not known; write true or false, in quotes`}},
		{"misspelt", map[string]string{"lifeboat.dev/intervall": "10s"}, Settings{},
			[]string{`annotation lifeboat.dev/intervall, "10s": means nothing to Lifeboat; write one of lifeboat.dev/interval, ` +
				`lifeboat.dev/keep-pod-ip-alias, lifeboat.dev/max-cpu, lifeboat.dev/max-freeze, lifeboat.dev/recover, lifeboat.dev/recovery-point`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, faults := Parse(c.annotations)
			require.Equal(t, c.want, got)
			require.Equal(t, c.want.Never, Never(c.annotations))
			var said []string
			for _, f := range faults {
				said = append(said, f.String())
				require.Contains(t, Text(faults), f.String())
			}
			require.Equal(t, c.faults, said)
			require.True(t, len(faults) == 0 || Any(c.annotations))
		})
	}
}

func TestEveryAnnotationIsDocumented(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "operations.md"))
	require.NoError(t, err)
	for name := range parsers {
		require.True(t, strings.Contains(string(raw), "| `"+name+"` |"), name)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"1s", "1e9", "NaN", "500m", "\n", "9999999999h"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for name := range parsers {
			s, faults := Parse(map[string]string{name: value})
			require.True(t, len(faults) == 0 || s == Settings{}, "what is refused sets nothing")
			require.True(t, s.MaxCPU >= 0 && s.Interval >= 0 && s.RecoveryPoint >= 0 && s.MaxFreeze >= 0)
		}
	})
}
