package sim

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/controller"
)

// cacheIndexes are those of the controllers' caches.
var cacheIndexes = controller.Indexes()

// controllerName is who the controller is to the API server.
const controllerName = "lifeboat-controller"

// reader reads from the API server as it is, or from a cache that is behind.
type reader struct {
	client.Reader
	l *life
	// view is how a cache sees the API: as it was then. Nil: as it is, by a request.
	view func() time.Time
}

func (r reader) read(ctx context.Context, what string, do func(at time.Time) error) error {
	if r.view != nil {
		if r.l.gone.Load() {
			return r.l.park()
		}
		return r.l.w.locked(func() error { return do(r.view()) })
	}
	return r.l.edge(ctx, toAPI, what, false, func() error { return do(time.Now()) })
}

// Get implements client.Reader.
func (r reader) Get(ctx context.Context, name client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	k := key{kindOf(into), name.Name}
	return r.read(ctx, "get "+k.String(), func(at time.Time) error {
		o := r.l.w.api.at(k, at)
		if o == nil {
			return apierrors.NewNotFound(resource(k), k.name)
		}
		reflect.ValueOf(into).Elem().Set(reflect.ValueOf(o.DeepCopyObject()).Elem())
		return nil
	})
}

// List implements client.Reader.
func (r reader) List(ctx context.Context, into client.ObjectList, opts ...client.ListOption) error {
	return r.read(ctx, "list "+kindOf(into), func(at time.Time) error { return r.l.w.api.fill(into, at, opts...) })
}

// fill lists objects as they were then.
func (a *api) fill(into client.ObjectList, at time.Time, opts ...client.ListOption) error {
	options := (&client.ListOptions{}).ApplyOptions(opts)
	items := reflect.ValueOf(into).Elem().FieldByName("Items")
	items.SetZero()
	for _, o := range a.list(kindOf(into), at) {
		if options.LabelSelector != nil && !options.LabelSelector.Matches(labels.Set(o.GetLabels())) || !indexed(o, options) {
			continue
		}
		items.Set(reflect.Append(items, reflect.ValueOf(o.DeepCopyObject()).Elem()))
	}
	return nil
}

// indexed tells whether the object has the value that is asked for in an index of the controller's cache.
func indexed(o client.Object, options *client.ListOptions) bool {
	if options.FieldSelector == nil {
		return true
	}
	for _, r := range options.FieldSelector.Requirements() {
		if !slices.Contains(cacheIndexes[r.Field](o), r.Value) {
			return false
		}
	}
	return true
}

// controllerClient is what a controller writes with.
type controllerClient struct {
	client.Client
	reader
}

// Get implements client.Reader.
func (c controllerClient) Get(ctx context.Context, name client.ObjectKey, into client.Object, opts ...client.GetOption) error {
	return c.reader.Get(ctx, name, into, opts...)
}

// List implements client.Reader.
func (c controllerClient) List(ctx context.Context, into client.ObjectList, opts ...client.ListOption) error {
	return c.reader.List(ctx, into, opts...)
}

func (c controllerClient) write(ctx context.Context, what string, do func(*api) error) error {
	return c.l.edge(ctx, toAPI, "write "+what, true, func() error { return do(c.l.w.api) })
}

// Create implements client.Writer. Events go nowhere.
func (c controllerClient) Create(ctx context.Context, o client.Object, opts ...client.CreateOption) error {
	if _, event := o.(*eventsv1.Event); event {
		return nil
	}
	if len((&client.CreateOptions{}).ApplyOptions(opts).DryRun) > 0 {
		return c.l.edge(ctx, toAPI, "try "+kindOf(o), false, func() error {
			c.l.w.api.admit(o.(*corev1.Pod), controllerName)
			return nil
		})
	}
	sent := o.DeepCopyObject().(client.Object)
	err := c.write(ctx, "new "+kindOf(o), func(a *api) error { return a.create(sent, controllerName) })
	if err == nil {
		reflect.ValueOf(o).Elem().Set(reflect.ValueOf(sent).Elem())
	}
	return err
}

// Delete implements client.Writer.
func (c controllerClient) Delete(ctx context.Context, o client.Object, opts ...client.DeleteOption) error {
	options := (&client.DeleteOptions{}).ApplyOptions(opts)
	k := key{kindOf(o), o.GetName()}
	return c.write(ctx, k.String(), func(a *api) error { return a.remove(k, options.Preconditions, options.GracePeriodSeconds) })
}

// Patch implements client.Writer.
func (c controllerClient) Patch(ctx context.Context, o client.Object, p client.Patch, _ ...client.PatchOption) error {
	return c.patch(ctx, o, p, false)
}

func (c controllerClient) patch(ctx context.Context, o client.Object, p client.Patch, status bool) error {
	data, err := p.Data(o)
	if err != nil {
		return err
	}
	if _, point := o.(*v1alpha1.Checkpoint); point && !strings.Contains(string(data), `"resourceVersion"`) {
		c.l.w.broken("a write to checkpoint %s without its version", o.GetName())
	}
	sent := o.DeepCopyObject().(client.Object)
	err = c.write(ctx, key{kindOf(o), o.GetName()}.String(), func(a *api) error { return a.patch(sent, p, data, status) })
	if err == nil {
		o.SetResourceVersion(sent.GetResourceVersion())
	}
	return err
}

// Status implements client.StatusClient.
func (c controllerClient) Status() client.SubResourceWriter { return statusClient{c: c} }

type statusClient struct {
	client.SubResourceWriter
	c controllerClient
}

// Patch implements client.SubResourceWriter.
func (s statusClient) Patch(ctx context.Context, o client.Object, p client.Patch, _ ...client.SubResourcePatchOption) error {
	return s.c.patch(ctx, o, p, true)
}

// SubResource implements client.SubResourceClientConstructor: evictions alone.
func (c controllerClient) SubResource(name string) client.SubResourceClient {
	if name != "eviction" {
		panic(fmt.Sprintf("subresource %s", name))
	}
	return evictionClient{c: c}
}

type evictionClient struct {
	client.SubResourceClient
	c controllerClient
}

// Create implements client.SubResourceWriter.
func (e evictionClient) Create(ctx context.Context, o, body client.Object, _ ...client.SubResourceCreateOption) error {
	return e.c.write(ctx, "eviction of "+o.GetName(), func(a *api) error {
		return a.evict(o.GetName(), body.(*policyv1.Eviction).DeleteOptions)
	})
}
