package soak

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/dir"
)

// places are where the trees of a generation go, by the beginning of an entry's path.
type places map[string]*dir.Sink

// fetch writes a generation into folders, by the beginnings of its paths; "layers/…" is an overlay's root.
func fetch(ctx context.Context, r *store.Reader, folders map[string]string) error {
	to := places{}
	for begin, folder := range folders {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		root, err := os.OpenRoot(folder)
		if err != nil {
			return err
		}
		defer root.Close()
		to[begin] = dir.New(root)
		if strings.HasPrefix(begin, "layers/") {
			to[begin] = dir.NewLayer(root)
		}
	}
	return r.Fetch(to).Run(ctx)
}

// find finds the folder of an entry, and its path in there.
func (p places) find(e store.Entry) (*dir.Sink, store.Entry, error) {
	for begin, sink := range p {
		rest, ok := strings.CutPrefix(e.Path+"/", begin+"/")
		if !ok {
			continue
		}
		e.Path = "./" + strings.TrimSuffix(rest, "/")
		e.Path = strings.TrimPrefix(e.Path, "./")
		if e.Path == "" {
			e.Path = "."
		}
		e.HardlinkTo = strings.TrimPrefix(e.HardlinkTo, begin+"/")
		return sink, e, nil
	}
	return nil, e, fmt.Errorf("entry %s is of no known tree", e.Path)
}

// Make implements store.Sink.
func (p places) Make(e store.Entry) error {
	sink, e, err := p.find(e)
	if err != nil {
		return err
	}
	return sink.Make(e)
}

// Open implements store.Sink.
func (p places) Open(e store.Entry) (store.File, error) {
	sink, e, err := p.find(e)
	if err != nil {
		return nil, errors.Join(err)
	}
	return sink.Open(e)
}

// Finish implements store.Sink.
func (p places) Finish(e store.Entry) error {
	sink, e, err := p.find(e)
	if err != nil {
		return err
	}
	return sink.Finish(e)
}
