package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lifeboat-dev/lifeboat/restore/api/placement"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// errImage: the container has another image than the one whose files its memory was made with.
var errImage = errors.New("the container's image is another one")

// checkImage compares the image that the container was made from with the one that the generation was taken of. A tag may
// have moved, or the owner's template have been changed. What cannot be found out is left to CRIU, which compares the files.
func (p *Preparer) checkImage(ctx context.Context, t task, gen *v1alpha1.GenerationReference) error {
	want := gen.Requirements[placement.Image+t.Container]
	if want == "" || p.options.Images == nil {
		return nil
	}
	have, err := p.options.Images(ctx, t.ContainerID)
	if err != nil {
		p.options.Log.Warn().Err(err).Str("namespace", t.Namespace).Str("pod", t.Pod).Msg("image not compared")
		return nil
	}
	if slices.ContainsFunc(have, func(reference string) bool { return digest(reference) == digest(want) }) {
		return nil
	}
	return fmt.Errorf("%w: generation %d was taken of %s, and this is %s", errImage, gen.Number, want, have[0])
}

// digest leaves out the repository: nodes may pull from several mirrors.
func digest(reference string) string { return reference[strings.LastIndex(reference, "@")+1:] }
