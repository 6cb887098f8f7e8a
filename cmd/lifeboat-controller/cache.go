package main

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/restore/controller"
)

// sharedCache is the one cache of this process: the webhook reads it always, a term's manager while that lasts. It is run by
// run, not by the managers.
type sharedCache struct {
	cache.Cache
	mu      sync.Mutex
	indexed map[string]bool
}

func newSharedCache(config *rest.Config) (*sharedCache, error) {
	options, err := controller.CacheOptions()
	if err != nil {
		return nil, err
	}
	if options.Scheme, err = controller.NewScheme(); err != nil {
		return nil, err
	}
	c, err := cache.New(config, options)
	if err != nil {
		return nil, fmt.Errorf("make cache: %w", err)
	}
	return &sharedCache{Cache: c, indexed: map[string]bool{}}, nil
}

// run fills the cache and keeps it until ctx ends.
func (c *sharedCache) run(ctx context.Context) error {
	if err := c.Cache.Start(ctx); err != nil {
		return fmt.Errorf("run cache: %w", err)
	}
	return nil
}

// Start is what a manager calls: it ends with the term, the cache does not.
func (c *sharedCache) Start(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// IndexField makes an index once: every term asks for the same ones.
func (c *sharedCache) IndexField(ctx context.Context, o client.Object, field string, values client.IndexerFunc) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := fmt.Sprintf("%T/%s", o, field)
	if c.indexed[name] {
		return nil
	}
	if err := c.Cache.IndexField(ctx, o, field, values); err != nil {
		return err
	}
	c.indexed[name] = true
	return nil
}
