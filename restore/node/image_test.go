package node

import (
	"context"
	"errors"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/api/placement"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

func TestTheImageMustBeTheSame(t *testing.T) {
	for _, c := range []struct {
		name, want string
		have       []string
		fault      error
		changed    bool
	}{
		{name: "the same", want: "r/train@sha256:a", have: []string{"r/train@sha256:a", "sha256:config"}},
		{name: "from a mirror", want: "r/train@sha256:a", have: []string{"mirror/train@sha256:a"}},
		{name: "known by several digests", want: "r/train@sha256:a", have: []string{"r/train@sha256:b", "sha256:config", "r/train@sha256:a"}},
		{name: "never pulled: by its configuration", want: "sha256:config", have: []string{"sha256:config"}},
		{name: "a tag that has moved", want: "r/train@sha256:a", have: []string{"r/train@sha256:b", "sha256:other"}, changed: true},
		{name: "not recorded", have: []string{"r/train@sha256:b"}},
		{name: "containerd does not answer", want: "r/train@sha256:a", fault: errors.New("no answer")},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := New(Options{Log: zerolog.Nop(), Images: func(context.Context, string) ([]string, error) { return c.have, c.fault }})
			gen := &v1alpha1.GenerationReference{Number: 1, Requirements: map[string]string{}}
			if c.want != "" {
				gen.Requirements[placement.Image+"main"] = c.want
			}
			err := p.checkImage(t.Context(), task{PrepareRequest: handover.PrepareRequest{Container: "main"}}, gen)
			if c.changed {
				require.ErrorIs(t, err, errImage)
				require.ErrorContains(t, err, "generation 1 was taken of "+c.want+", and this is "+c.have[0])
				return
			}
			require.NoError(t, err)
		})
	}
}
