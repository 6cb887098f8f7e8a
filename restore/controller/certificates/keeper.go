// Package certificates gives the webhook its TLS certificates, and the API servers the authority to trust them by.
//
// A certificate authority of our own lies in a Secret. Every replica reads it and makes a serving certificate for itself,
// whose key stays in its memory; so replicas need to agree on nothing but the Secret, and what they serve with is theirs
// alone. Any replica makes what is missing in the Secret: of two that do so at once the API server takes one. The
// authorities in the Secret, all of them, are what the MutatingWebhookConfiguration's caBundle is set to.
//
// A new authority is trusted before it is used (settle), and the one before is trusted for longer than it is used
// (overlap): at every moment each replica's certificate is one that API servers trust. That holds for a Secret which
// somebody has deleted or damaged, too: what the caBundle trusted goes on being trusted for as long.
//
// github.com/open-policy-agent/cert-controller was looked at: it replaces authority and certificate in one write and the
// caBundle after it, and replicas get the new one with their next mount of the Secret, so calls fail for up to a minute.
package certificates

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	admissioninformers "k8s.io/client-go/informers/admissionregistration/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

const (
	// lookAtMost is the longest time between two looks, in case that an event was missed.
	lookAtMost = 10 * time.Minute
	// lookAtLeast spaces looks, faultDelay those after a fault.
	lookAtLeast, faultDelay = time.Second, 5 * time.Second
)

// Keeper keeps Secret, caBundle and this replica's certificate as they should be.
type Keeper struct {
	Client kubernetes.Interface
	// Namespace and Secret name the Secret; Service is in the same namespace.
	Namespace, Secret, Service string
	// Configuration names the MutatingWebhookConfiguration.
	Configuration string
	Log           logr.Logger

	mu      sync.RWMutex
	serving *tls.Certificate
	signer  authority

	// trusted is since when this process has seen an authority in the caBundle.
	trusted map[string]time.Time
}

// GetCertificate is for tls.Config.
func (k *Keeper) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.serving == nil {
		return nil, errors.New("no certificate yet: the API server has not answered so far")
	}
	return k.serving, nil
}

// Ready is a health check: it fails until there is a certificate.
func (k *Keeper) Ready(*http.Request) error {
	_, err := k.GetCertificate(nil)
	return err
}

// Run works until ctx ends. A fault is logged and tried again: what there is goes on being served.
func (k *Keeper) Run(ctx context.Context) error {
	wake := make(chan struct{}, 1)
	var group sync.WaitGroup
	defer group.Wait()
	for _, informer := range k.informers() {
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { notify(wake) },
			UpdateFunc: func(any, any) { notify(wake) },
			DeleteFunc: func(any) { notify(wake) },
		})
		if err != nil {
			return fmt.Errorf("watch certificates: %w", err)
		}
		group.Go(func() { informer.RunWithContext(ctx) })
	}
	for {
		wait, err := k.look(ctx, time.Now())
		if err != nil && ctx.Err() == nil {
			k.Log.Error(err, "certificates not looked after, trying again")
			wait = faultDelay
		}
		timer := time.NewTimer(max(lookAtLeast, min(wait, lookAtMost)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-wake: // somebody else may be at it, whose writes answer ours
			timer.Reset(lookAtLeast)
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
		case <-timer.C:
		}
	}
}

func notify(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

func (k *Keeper) informers() []cache.SharedIndexInformer {
	only := func(name string) func(*metav1.ListOptions) {
		return func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
		}
	}
	return []cache.SharedIndexInformer{
		coreinformers.NewFilteredSecretInformer(k.Client, k.Namespace, 0, cache.Indexers{}, only(k.Secret)),
		admissioninformers.NewFilteredMutatingWebhookConfigurationInformer(k.Client, 0, cache.Indexers{}, only(k.Configuration)),
	}
}

// look does what is to be done now and says how long it may be until there is more. The configuration is read before the
// Secret: whoever changes the Secret after that makes the write of the caBundle a conflict, or comes after it.
func (k *Keeper) look(ctx context.Context, now time.Time) (time.Duration, error) {
	configuration, err := k.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, k.Configuration, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		configuration = nil // applied later, or being uninstalled
	} else if err != nil {
		return 0, fmt.Errorf("get webhook configuration %s: %w", k.Configuration, err)
	}
	authorities, err := k.authorities(ctx, now, trustedBy(configuration, now))
	if err == nil {
		err = k.publish(ctx, configuration, authorities)
	}
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return 0, nil // another replica was first
	}
	if err != nil {
		return 0, err
	}
	if configuration != nil {
		k.remember(now, authorities)
	}
	left, err := k.serve(now, authorities)
	return min(left, due(now, authorities)), err
}

// authorities reads those of the Secret and writes what is to be changed of them.
func (k *Keeper) authorities(ctx context.Context, now time.Time, bundle []authority) ([]authority, error) {
	secrets := k.Client.CoreV1().Secrets(k.Namespace)
	secret, err := secrets.Get(ctx, k.Secret, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	if missing {
		secret = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: k.Namespace, Name: k.Secret}}
	} else if err != nil {
		return nil, fmt.Errorf("get secret %s/%s: %w", k.Namespace, k.Secret, err)
	}
	authorities, err := plan(now, decode(secret.Data, now), bundle)
	if err != nil {
		return nil, err
	}
	data, err := encode(authorities)
	if err != nil {
		return nil, err
	}
	if maps.EqualFunc(data, secret.Data, bytes.Equal) {
		return authorities, nil
	}
	secret.Data = data
	if missing {
		_, err = secrets.Create(ctx, secret, metav1.CreateOptions{})
	} else {
		_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("write secret %s/%s: %w", k.Namespace, k.Secret, err)
	}
	k.Log.Info("certificate authorities written", "trusted", len(authorities), "newest", authorities[0].made(), "secret_was_missing", missing)
	return authorities, nil
}

// trustedBy reads our authorities out of the caBundles.
func trustedBy(configuration *admissionv1.MutatingWebhookConfiguration, now time.Time) []authority {
	if configuration == nil {
		return nil
	}
	var bundle []byte
	for i := range configuration.Webhooks {
		bundle = append(append(bundle, configuration.Webhooks[i].ClientConfig.CABundle...), '\n')
	}
	return decode(map[string][]byte{dataCertificates: bundle}, now)
}

// publish sets the caBundle to the authorities.
func (k *Keeper) publish(ctx context.Context, configuration *admissionv1.MutatingWebhookConfiguration, authorities []authority) error {
	if configuration == nil {
		return nil
	}
	data, err := encode(authorities)
	if err != nil {
		return err
	}
	changed := false
	for i := range configuration.Webhooks {
		config := &configuration.Webhooks[i].ClientConfig
		if !bytes.Equal(config.CABundle, data[dataCertificates]) {
			config.CABundle, changed = data[dataCertificates], true
		}
	}
	if !changed {
		return nil
	}
	_, err = k.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Update(ctx, configuration, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("set caBundle of webhook configuration %s: %w", k.Configuration, err)
	}
	k.Log.Info("caBundle set", "configuration", k.Configuration, "trusted", len(authorities))
	return nil
}

// remember notes since when authorities have been in the caBundle. At the first look of this process those count that are
// old enough.
func (k *Keeper) remember(now time.Time, authorities []authority) {
	first := k.trusted == nil
	seen := map[string]time.Time{}
	for _, a := range authorities {
		since, known := k.trusted[a.fingerprint()]
		if !known {
			since = now
			if first && a.made().Before(now) {
				since = a.made()
			}
		}
		seen[a.fingerprint()] = since
	}
	k.trusted = seen
}

// serve makes this replica's certificate anew where its signer has changed or its end is near, and says when to look again.
func (k *Keeper) serve(now time.Time, authorities []authority) (time.Duration, error) {
	k.mu.RLock()
	serving, before := k.serving, k.signer
	k.mu.RUnlock()
	signer, wait := k.choose(now, authorities, before)
	if serving != nil && signer.same(before) {
		if left := serving.Leaf.NotAfter.Sub(now) - servingLife/3; left > 0 {
			return min(wait, left), nil
		}
	}
	made, err := signer.issue(now, []string{k.Service + "." + k.Namespace + ".svc"})
	if err != nil {
		return 0, err
	}
	k.mu.Lock()
	k.serving, k.signer = made, signer
	k.mu.Unlock()
	k.Log.Info("serving certificate made", "until", made.Leaf.NotAfter, "authority_made", signer.made())
	return wait, nil
}

// choose picks the newest authority that every API server trusts by now. As long as there is none, a replica keeps that
// which it serves with; one that has none takes the oldest that can sign. wait is when a newer one may be used.
func (k *Keeper) choose(now time.Time, authorities []authority, before authority) (signer authority, wait time.Duration) {
	wait, signer = lookAtMost, before
	for _, a := range authorities {
		if a.key == nil {
			continue
		}
		since, known := k.trusted[a.fingerprint()]
		left := settle
		if known {
			left -= now.Sub(since)
		}
		if left <= 0 {
			return a, wait
		}
		wait = min(wait, left)
		if before.key == nil {
			signer = a
		}
	}
	return signer, wait
}
