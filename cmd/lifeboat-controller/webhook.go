package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/controller/admission"
	"github.com/lifeboat-dev/lifeboat/restore/controller/certificates"
)

// Names that manifests/base and this program agree on.
const (
	webhookService       = "lifeboat-webhook"
	webhookSecret        = "lifeboat-webhook"
	webhookConfiguration = "lifeboat"
)

// fillEvery is the wait between tries at the start: the API server may be away, and our kind not be there yet.
const fillEvery = 2 * time.Second

// webhook is what a replica does whether it leads or not.
type webhook struct {
	kube   kubernetes.Interface
	cache  cache.Cache
	keeper *certificates.Keeper
	server *admission.Server
	filled atomic.Bool
}

func newWebhook(kube kubernetes.Interface, shared cache.Cache, c *config) *webhook {
	log := ctrl.Log.WithName("webhook")
	keeper := &certificates.Keeper{
		Client: kube, Namespace: c.namespace, Secret: webhookSecret, Service: webhookService,
		Configuration: webhookConfiguration, Log: log,
	}
	handler := &admission.Handler{Lookup: admission.Finder{Reader: shared, Now: time.Now}, Log: log}
	return &webhook{
		kube: kube, cache: shared, keeper: keeper,
		server: &admission.Server{Handler: handler, Port: c.webhookPort, Certificate: keeper.GetCertificate},
	}
}

// run serves until ctx ends, and a moment longer.
func (w *webhook) run(ctx context.Context) error {
	if !w.learnSelf(ctx) {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.keeper.Run(ctx) })
	group.Go(func() error { return w.server.Run(ctx) })
	group.Go(func() error { return w.fill(ctx) })
	return group.Wait()
}

// learnSelf asks the API server who this is, until it answers. False: ctx has ended before.
func (w *webhook) learnSelf(ctx context.Context) bool {
	for {
		self, err := w.kube.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err == nil {
			w.server.Handler.Self = self.Status.UserInfo.Username
			return true
		}
		ctrl.Log.Error(err, "the API server does not say who this is, trying again")
		select {
		case <-ctx.Done():
			return false
		case <-time.After(fillEvery):
		}
	}
}

// fill reads what the webhook looks up into the cache, so that no call has to wait for that.
func (w *webhook) fill(ctx context.Context) error {
	for _, o := range []client.Object{&v1alpha1.Checkpoint{}, &corev1.Pod{}, &corev1.Node{}} {
		for {
			_, err := w.cache.GetInformer(ctx, o)
			if err == nil {
				break
			}
			ctrl.Log.Error(err, "cache not filled yet, trying again", "kind", fmt.Sprintf("%T", o))
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(fillEvery):
			}
		}
	}
	w.filled.Store(w.cache.WaitForCacheSync(ctx))
	return nil
}

// ready is a health check: it fails until calls can be answered.
func (w *webhook) ready(r *http.Request) error {
	if !w.filled.Load() {
		return errors.New("cache not filled yet")
	}
	return w.keeper.Ready(r)
}
